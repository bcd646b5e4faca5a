"""What an algorithm is: two questions, asked by the buffer (select) and by the trainer (loss)."""

from __future__ import annotations

import importlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rlloop.config import Selection

if TYPE_CHECKING:
    from torch import Tensor

BUILT_IN = {
    "sft": "rlloop.algorithms.sft:SFT",
    "expert_iteration": "rlloop.algorithms.expert_iteration:ExpertIteration",
    "crpo": "rlloop.algorithms.crpo:CRPO",
    "nft": "rlloop.algorithms.nft:NFT",
    "cross_load": "rlloop.algorithms.cross_load:CrossLoad",
}

Predict = Callable[..., "Tensor"]
"""A network: (x_t [B, L, D], t [B], conditions, score [B]) -> velocity [B, L, D]."""


class Candidate(NamedTuple):
    """One scored rollout of a closed cohort; `score` is the ranking score, never missing here."""

    ticket: int
    clip: int
    score: float


class Example(NamedTuple):
    """One selected rollout.

    role: '' or, in pairs, 'winner' or 'loser'.       advantage: how much better than expected, for losses that ask.
    """

    ticket: int
    clip: int
    role: str = ""
    advantage: float = 0.0


@dataclass(frozen=True)
class Batch:
    """One forward pass of a rank: examples, or pairs, with all randomness drawn.

    latents: [B, L, D] normalised data latents x1.       noise: [B, L, D] x0.       t: [B] in (0, 1), 1 is noise.
    conditions: features, batch first, text dropout applied.       score: [B] label, NaN is null, dropout applied.
    loser, loser_score: as latents and score, of the pairs whose winners those are; None without pairs. The two share
    noise, t, conditions and which labels are dropped.       advantage: [B], of `Example`; None where nobody gives any.
    """

    latents: Tensor
    noise: Tensor
    t: Tensor
    conditions: dict[str, Tensor]
    score: Tensor
    loser: Tensor | None = None
    loser_score: Tensor | None = None
    advantage: Tensor | None = None


class Algorithm(ABC):
    """What every algorithm inherits; it writes `select` and `loss` and touches no actor, device, rank or retry.

    Keyword arguments of its __init__ are what `stages.NAME.options` may set.

    takes_pairs: its examples come as winner and loser of a prompt, and batches are of pairs.
    uses_advantages: its selection gives every example an advantage, and its loss takes no example without.
    needs_reference: its loss is given the network as it was at the stage's start, frozen.
    needs_tickets: it trains on rollouts of its own stage.
    """

    takes_pairs: bool = False
    uses_advantages: bool = False
    needs_reference: bool = False
    needs_tickets: bool = True

    @abstractmethod
    def select(self, candidates: Sequence[Candidate], settings: Selection, threshold: float | None) -> list[Example]:
        """Chooses from a closed cohort, given in (score descending, ticket, clip) order. `threshold`: see window."""

    @abstractmethod
    def loss(
        self, predict: Predict, batch: Batch, reference: Predict | None = None
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss of a batch, averaged over its examples; with metrics, scalar means by name, where it has any.

        `reference` is given where the algorithm needs one; it is called without gradient.
        """


def loss_and_metrics(
    algorithm: Algorithm, predict: Predict, batch: Batch, reference: Predict | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """An algorithm's answer as (loss, metrics), whether it gives metrics or not; metrics carry no gradient.

    Raises:
        ValueError: a metric is named 'loss'; it would stand in for the loss in the curves.
    """
    answer = algorithm.loss(predict, batch, reference) if algorithm.needs_reference else algorithm.loss(predict, batch)
    loss, metrics = answer if isinstance(answer, tuple) else (answer, {})
    if "loss" in metrics:
        raise ValueError(f"algorithm {type(algorithm).__name__} gives a metric named 'loss'; give it another name")
    return loss, {name: value.detach() for name, value in metrics.items()}


def load_algorithm(name: str, options: Mapping[str, Any] | None = None) -> Algorithm:
    """A built-in by name, or a user's class by dotted path `package.module:Class`.

    Args:
        options: keyword arguments of the class.
    Raises:
        ValueError: neither a built-in nor an importable path, no `Algorithm`, or an option that the class has not or
            refuses.
    """
    found, options = _find(name), dict(options or {})
    try:
        inspect.signature(found).bind(**options)
    except TypeError as error:
        known = sorted(inspect.signature(found).parameters)
        raise ValueError(f"algorithm '{name}' has the options {known}, found {sorted(options)}: {error}") from error
    try:
        return found(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"algorithm '{name}': {error}") from error


def _find(name: str) -> type[Algorithm]:
    path = BUILT_IN.get(name, name)
    module, colon, attribute = path.partition(":")
    if not colon:
        raise ValueError(f"algorithm '{name}' is none of {sorted(BUILT_IN)} and no dotted path package.module:Class")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"algorithm '{name}' cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ValueError(f"algorithm '{name}' is {found!r}; expected a class that inherits {__name__}.Algorithm")
    return found


def number(name: str, value: Any, *, above: float = -math.inf, at_least: float = -math.inf) -> float:
    """An option as a finite number; text is read as one, since YAML takes 1e-4 for text.

    Raises:
        ValueError: no number, not finite, or not in the range.
    """
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if math.isfinite(found) and found > above and found >= at_least:
        return found
    bounds = [f"above {above:g}"] * math.isfinite(above) + [f"of at least {at_least:g}"] * math.isfinite(at_least)
    raise ValueError(f"{name} is {value!r}, expected a finite number {' and '.join(bounds)}".rstrip())
