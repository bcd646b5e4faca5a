"""Cross-loading: the same weights in the forward pass of another score variant (arXiv:2606.21670, between its stages).

A stage with `variant` publishes the weights as they are; whoever loads that version goes over to the variant. So there
is nothing to select and nothing to learn, and this says so to a configuration that tries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from rlloop.algorithms.base import Algorithm, Batch, Candidate, Example, Predict
from rlloop.config import Selection


class CrossLoad(Algorithm):
    """Trains nothing."""

    needs_tickets = False

    def select(self, candidates: Sequence[Candidate], settings: Selection, threshold: float | None) -> list[Example]:
        return []

    def loss(self, predict: Predict, batch: Batch, reference: Predict | None = None) -> NoReturn:
        raise ValueError("algorithm 'cross_load' trains nothing; give its stage a variant, tickets: 0 and phases: []")
