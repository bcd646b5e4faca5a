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


def above_threshold(ranked: Sequence[Candidate], threshold: float) -> list[Example]:
    """Candidates with a score of at least `threshold`, best first."""
    return [Example(c.ticket, c.clip) for c in ranked if c.score >= threshold]


def window_threshold(scores: Sequence[float], fraction: float) -> float | None:
    """The score that the best `fraction` of the window reaches: its (1 - fraction) quantile; None when empty."""
    finite = [s for s in scores if math.isfinite(s)]
    return float(np.quantile(finite, 1 - fraction)) if finite else None
