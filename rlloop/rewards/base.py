"""What a reward is. A failed score is missing and says why; it is never zero."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True, eq=False)  # compared by identity: arrays have no single truth value
class Clip:
    """One clip to score: audio [T] float32 mono, its rate in Hz, and the prompt it was made from."""

    audio: np.ndarray
    sample_rate_hz: int
    prompt: str


@dataclass(frozen=True)
class Score:
    """A value, or the reason why there is none: exactly one of the two is set."""

    value: float | None
    reason: str | None = None

    def __post_init__(self):
        if (self.value is None) == (self.reason is None):
            raise ValueError(f"a score has either a value or a reason, got value={self.value}, reason={self.reason}")


@runtime_checkable
class Reward(Protocol):
    """Scores clips. One score per clip in the same order; a clip that cannot be scored costs the others nothing."""

    name: str

    def score(self, clips: Sequence[Clip]) -> list[Score]: ...
