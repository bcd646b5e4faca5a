"""CRPO: of each prompt the best clip against the worst (TangoFlux, arXiv:2412.21037; reference.md 9.1 and 9.2).

Pairs are made online, from the policy's own candidates of one prompt by the ranking score (CLAP, where published).
Winner, loser and reference share noise, t, conditions and the drop of the score label; winner and loser carry each its
own label. The published loss works with beta 2000 because velocity errors differ by 1e-4 to 1e-3 only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlloop.algorithms.base import Algorithm, Batch, Candidate, Example, Predict, number
from rlloop.algorithms.selection import best_against_worst
from rlloop.config import Selection

if TYPE_CHECKING:
    from torch import Tensor


class CRPO(Algorithm):
    """Lowers the winner's error against the frozen reference below the loser's, and keeps fitting the winner.

    Args:
        beta: how steeply a pair's margin counts.
        lambda_fm: weight of the winner's own flow-matching error.
    Raises:
        ValueError: beta is not above 0 or lambda_fm is negative.
    """

    takes_pairs = True
    needs_reference = True

    def __init__(self, beta: float = 2000.0, lambda_fm: float = 1.0) -> None:
        self.beta = number("beta", beta, above=0)
        self.lambda_fm = number("lambda_fm", lambda_fm, at_least=0)

    def select(self, candidates: Sequence[Candidate], settings: Selection, threshold: float | None) -> list[Example]:
        """One pair a prompt; fractions and thresholds do not apply to pairs."""
        return best_against_worst(candidates)

    def loss(
        self, predict: Predict, batch: Batch, reference: Predict | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        import torch

        from rlloop.algorithms.losses import crpo_loss, crpo_margin
        from rlloop.algorithms.prediction import errors, winners_and_losers

        assert reference is not None, "CRPO compares with a reference"
        both = winners_and_losers(batch)
        winner, loser = errors(predict, both).chunk(2)
        with torch.no_grad():
            ref_winner, ref_loser = errors(reference, both).chunk(2)
        margin = crpo_margin(winner, loser, ref_winner, ref_loser, beta=self.beta)
        loss = crpo_loss(winner, loser, ref_winner, ref_loser, beta=self.beta, lambda_fm=self.lambda_fm)
        return loss, {
            "implicit_accuracy": (margin > 0).float().mean(),
            "margin": margin.mean(),
            "winner_error": winner.mean(),
            "loser_error": loser.mean(),
        }
