"""Score-conditioned supervised fine-tuning: flow matching on a corpus (arXiv:2606.21670, stage 1; reference.md 3).

Every clip of the corpus carries its measured reward as a label, so that a score can be asked for when sampling. A
corpus needs no tickets; nothing is selected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlloop.algorithms.base import Algorithm, Batch, Candidate, Example, Predict
from rlloop.config import Selection

if TYPE_CHECKING:
    from torch import Tensor


class SFT(Algorithm):
    """Fits the velocity x0 - x1 of clips with known scores; no rollouts."""

    needs_tickets = False

    def select(self, candidates: Sequence[Candidate], settings: Selection, threshold: float | None) -> list[Example]:
        return []

    def loss(self, predict: Predict, batch: Batch, reference: Predict | None = None) -> Tensor:
        from rlloop.algorithms.prediction import errors

        return errors(predict, batch).mean()
