"""Selection rules over ranked candidates. Pure; ties are settled by (ticket, clip), never by arrival."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import numpy as np

from rlloop.algorithms.base import Candidate, Example


def rank(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Sorted by score descending, then ticket, then clip index; non-finite scores are left out."""
    finite = [c for c in candidates if math.isfinite(c.score)]
    return sorted(finite, key=lambda c: (-c.score, c.ticket, c.clip))


def top_fraction(ranked: Sequence[Candidate], fraction: float) -> list[Example]:
    """The best `fraction` of all candidates, at least one while there is any (floor of n * fraction)."""
    count = max(1, math.floor(len(ranked) * fraction + 1e-9)) if ranked else 0
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


def window_threshold(scores: Sequence[float], fraction: float) -> float | None:
    """The score that the best `fraction` of the window reaches: its (1 - fraction) quantile; None when empty."""
    finite = [s for s in scores if math.isfinite(s)]
    return float(np.quantile(finite, 1 - fraction)) if finite else None
