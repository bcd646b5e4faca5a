"""An algorithm of one's own: what `stages.NAME.algorithm` names. This one is reward-weighted regression.

Run it: see docs/plugging_in.md. All clips of a cohort are trained on, each with the weight
exp(advantage / temperature): better than the other clips of its prompt counts more, worse counts less. Read
rlloop/algorithms/base.py next (what `Candidate`, `Example` and `Batch` hold), then selection.py and the algorithms
beside it.
"""

from collections.abc import Sequence

from rlloop.algorithms.base import Algorithm, Batch, Candidate, Example, Predict, number
from rlloop.algorithms.selection import with_advantages
from rlloop.config import Selection


class WeightedRegression(Algorithm):
    """Keyword arguments are what `stages.NAME.options` may set; a bad one is refused before the run starts."""

    uses_advantages = True  # every example carries one, and the batch has them

    def __init__(self, temperature: float = 1.0):
        self.temperature = number("temperature", temperature, above=0)

    def select(self, candidates: Sequence[Candidate], settings: Selection, threshold: float | None) -> list[Example]:
        """All clips of prompts with two or more; an advantage is in standard deviations of the cohort, at most 2."""
        return with_advantages(candidates, scale=1.0, clip=2.0)

    def loss(self, predict: Predict, batch: Batch, reference: Predict | None = None):
        """The squared velocity error of each clip, weighted; what is beside the loss becomes a curve."""
        from rlloop.algorithms.prediction import errors  # here, because the buffer selects without torch

        weights = (batch.advantage / self.temperature).exp()
        return (weights * errors(predict, batch)).mean(), {"weight": weights.mean()}
