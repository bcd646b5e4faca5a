"""Evaluations on their way to the views: each result is handed over once, however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlloop.loop.snapshot import EvaluationResult


@dataclass(frozen=True)
class NewResults:
    """Results of the process `source` from the one with number `first` on, in the order in which they came."""

    source: int
    first: int
    results: Sequence[EvaluationResult]


@dataclass(frozen=True)
class Known:
    """What a reader has of one process."""

    source: int = 0
    results: tuple[EvaluationResult, ...] = ()

    @property
    def so_far(self) -> tuple[int, int]:
        """What to ask with: whose results, and how many of them."""
        return self.source, len(self.results)

    def taken(self, new: NewResults) -> Known:
        """With what was new; a process that was restarted begins at its first."""
        return Known(new.source, (*self.results[: new.first], *new.results))

    @property
    def by_version(self) -> list[EvaluationResult]:
        return sorted(self.results, key=lambda result: result.version)


def results_after(results: Sequence[EvaluationResult], source: int, so_far: tuple[int, int]) -> NewResults:
    """What a reader lacks that has `so_far` (Known.so_far)."""
    first = so_far[1] if so_far[0] == source else 0
    return NewResults(source, first, tuple(results[first:]))
