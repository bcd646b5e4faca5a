"""Expert iteration: fine-tune on the best of the model's own clips (arXiv:2606.21670, stage 2; reference.md 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlloop.algorithms.base import Algorithm, Batch, Candidate, Example, Predict
from rlloop.algorithms.selection import above_threshold, top_fraction, top_fraction_per_prompt
from rlloop.config import Selection

if TYPE_CHECKING:
    from torch import Tensor


class ExpertIteration(Algorithm):
    """Keeps the top fraction of a cohort and fits it by score-conditioned flow matching."""

    def select(self, candidates: Sequence[Candidate], settings: Selection, threshold: float | None) -> list[Example]:
        if threshold is not None:
            return above_threshold(candidates, threshold)
        rule = top_fraction if settings.per == "cohort" else top_fraction_per_prompt
        return rule(candidates, settings.top_fraction)

    def loss(self, predict: Predict, batch: Batch, reference: Predict | None = None) -> Tensor:
        from rlloop.algorithms.prediction import errors

        return errors(predict, batch).mean()
