"""What an algorithm is: two questions, asked by the buffer (select) and by the trainer (loss)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rlloop.config import Selection

if TYPE_CHECKING:
    from torch import Tensor

BUILT_IN = {"expert_iteration": "rlloop.algorithms.expert_iteration:ExpertIteration"}

Predict = Callable[..., "Tensor"]
"""The trained network: (x_t [B, L, D], t [B], conditions, score [B]) -> velocity [B, L, D]."""


class Candidate(NamedTuple):
    """One scored rollout of a closed cohort; `score` is the ranking score, never missing here."""

    ticket: int
    clip: int
    score: float


class Example(NamedTuple):
    """One selected rollout; `role` is '' or, in pairs, 'winner' or 'loser'."""

    ticket: int
    clip: int
    role: str = ""


@dataclass(frozen=True)
class Batch:
    """One rank's slice of a global batch, with all randomness drawn.

    latents: [B, L, D] normalised data latents x1.       noise: [B, L, D] x0.       t: [B] in (0, 1), 1 is noise.
    conditions: features, batch first, text dropout applied.       score: [B] label, NaN is null, dropout applied.
    """

    latents: Tensor
    noise: Tensor
    t: Tensor
    conditions: dict[str, Tensor]
    score: Tensor


class Algorithm(Protocol):
    """An algorithm touches no actor, device, rank or retry."""

    def select(self, candidates: Sequence[Candidate], settings: Selection, threshold: float | None) -> list[Example]:
        """Chooses from a closed cohort, given in (score descending, ticket, clip) order. `threshold`: see window."""
        ...

    def loss(self, predict: Predict, batch: Batch) -> Tensor:
        """Scalar loss of a batch, averaged over its examples."""
        ...


def load_algorithm(name: str) -> Algorithm:
    """A built-in by name, or a user's class by dotted path `package.module:Class`.

    Raises:
        ValueError: neither a built-in nor an importable path.
    """
    path = BUILT_IN.get(name, name)
    module, colon, attribute = path.partition(":")
    if not colon:
        raise ValueError(f"algorithm '{name}' is none of {sorted(BUILT_IN)} and no dotted path package.module:Class")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"algorithm '{name}' cannot be imported: {error}") from error
