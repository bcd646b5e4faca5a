"""Selection rules over ranked candidates. Pure; ties are settled by (ticket, clip), never by arrival."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from rlloop.algorithms.base import Candidate, Example


class Candidates(Sequence[Candidate]):
    """Scored rollouts as columns, ranked when somebody looks: (score descending, ticket, clip), non-finite left out.

    `best` ranks no more than it returns, so the best decile of a million costs milliseconds and not a second.

    Args:
        tickets, clips: [N] integers.   scores: [N] float64.   All in any order.
    """

    def __init__(self, tickets: np.ndarray, clips: np.ndarray, scores: np.ndarray) -> None:
        finite = np.isfinite(scores)
        self.tickets, self.clips, self.keys = tickets, clips, np.negative(scores)
        self._count = int(np.count_nonzero(finite))
        if self._count < len(finite):
            self.keys[~finite] = np.inf  # behind all others: cheaper than three columns without them
        self._order: np.ndarray | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place):
        rows = self._rows()[place]
        return next(self._at(rows[None])) if np.ndim(rows) == 0 else list(self._at(rows))

    def __iter__(self) -> Iterator[Candidate]:
        return self._at(self._rows())

    def best(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Tickets and clips of the first `count`, in order."""
        if count >= len(self):
            rows = self._rows()
        elif count > 0:
            last = np.partition(self.keys, count - 1)[count - 1]
            rows = self._ranked(np.flatnonzero(self.keys <= last))[:count]
        else:
            rows = np.zeros(0, np.int64)
        return self.tickets[rows], self.clips[rows]

    def _ranked(self, rows: np.ndarray) -> np.ndarray:
        """Rows in order; where no two scores are equal, they alone decide."""
        keys = self.keys[rows]
        order = np.argsort(keys)
        ordered = keys[order]
        if np.any(ordered[1:] == ordered[:-1]):
            order = np.lexsort((self.clips[rows], self.tickets[rows], keys))
        return rows[order]

    def _rows(self) -> np.ndarray:
        if self._order is None:
            self._order = self._ranked(np.flatnonzero(self.keys < np.inf))
        return self._order

    def _at(self, rows: np.ndarray) -> Iterator[Candidate]:
        columns = (self.tickets[rows], self.clips[rows], np.negative(self.keys[rows]))
        return map(Candidate, *(column.tolist() for column in columns))


def rank(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Sorted by score descending, then ticket, then clip index; non-finite scores are left out."""
    if isinstance(candidates, Candidates):
        return list(candidates)
    finite = [c for c in candidates if math.isfinite(c.score)]
    return sorted(finite, key=lambda c: (-c.score, c.ticket, c.clip))


def top_fraction(ranked: Sequence[Candidate], fraction: float) -> list[Example]:
    """The best `fraction` of all candidates, at least one while there is any (floor of n * fraction)."""
    count = max(1, math.floor(len(ranked) * fraction + 1e-9)) if len(ranked) else 0
    if isinstance(ranked, Candidates):
        return [Example(ticket, clip) for ticket, clip in zip(*(c.tolist() for c in ranked.best(count)), strict=True)]
    return [Example(c.ticket, c.clip) for c in ranked[:count]]


def top_fraction_per_prompt(ranked: Sequence[Candidate], fraction: float) -> list[Example]:
    """The best `fraction` inside each ticket, at least one of each."""
    by_ticket = sorted(ranked, key=lambda c: c.ticket)
    chosen: list[Example] = []
    for _, group in groupby(by_ticket, key=lambda c: c.ticket):
        chosen += top_fraction(rank(list(group)), fraction)
    return chosen


def best_against_worst(ranked: Sequence[Candidate]) -> list[Example]:
    """Of each ticket the best against the worst: winner, loser, winner, loser, ..., by ticket.

    Tickets with one scored candidate, or with all at one score, have nothing to compare and are left out. Of equal
    bests the lowest clip index is taken, of equal worsts the highest.
    """
    ends: dict[int, tuple[Candidate, Candidate]] = {}
    for candidate in rank(ranked):
        best, _ = ends.get(candidate.ticket, (candidate, candidate))
        ends[candidate.ticket] = best, candidate
    pairs = [(best, worst) for _, (best, worst) in sorted(ends.items()) if best.score > worst.score]
    roles = ("winner", "loser")
    return [Example(c.ticket, c.clip, role) for pair in pairs for c, role in zip(pair, roles, strict=True)]


def with_advantages(ranked: Sequence[Candidate], *, scale: float, clip: float) -> list[Example]:
    """All candidates of tickets with two or more, by (ticket, clip), each with its advantage.

    The advantage is the score minus the ticket's mean, over `scale` times the standard deviation of all candidates,
    cut off at +-`clip`. Empty where all scores are equal: nobody is better than another.
    """
    ordered = sorted(rank(ranked), key=lambda c: (c.ticket, c.clip))
    scores = np.array([c.score for c in ordered])
    if not ordered or np.ptp(scores) == 0:
        return []
    unit = scale * float(scores.std())
    chosen: list[Example] = []
    for _, found in groupby(ordered, key=lambda c: c.ticket):
        group = list(found)
        mean = float(np.mean([c.score for c in group]))
        advantages = [float(np.clip((c.score - mean) / unit, -clip, clip)) for c in group]
        if len(group) > 1:
            chosen += [Example(c.ticket, c.clip, advantage=a) for c, a in zip(group, advantages, strict=True)]
    return chosen


def above_threshold(ranked: Sequence[Candidate], threshold: float) -> list[Example]:
    """Candidates with a score of at least `threshold`, best first."""
    return [Example(c.ticket, c.clip) for c in ranked if c.score >= threshold]


def window_threshold(scores: Sequence[float] | np.ndarray, fraction: float) -> float | None:
    """The score that the best `fraction` of the window reaches: its (1 - fraction) quantile; None when empty."""
    column = np.asarray(scores, np.float64)
    finite = column[np.isfinite(column)]
    return float(np.quantile(finite, 1 - fraction)) if finite.size else None
