"""DiffusionNFT, offline: one network learns from good and bad clips at once (arXiv:2509.16117; reference.md 9.3).

From the network v and a frozen v_old two implied velocities are made, one a step towards v and one a step away from it;
good clips pull on the first and bad clips on the second. v_old and the network that the KL term holds on to are the
stage's frozen reference: how the published offline run chose them is not known, and this is the plain choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlloop.algorithms.base import Algorithm, Batch, Candidate, Example, Predict, number
from rlloop.algorithms.selection import best_against_worst, with_advantages
from rlloop.config import Selection

if TYPE_CHECKING:
    from torch import Tensor

MODES = ("binary", "reward")


class NFT(Algorithm):
    """Reweights good and bad clips by advantage.

    Args:
        beta: how far the implied velocities lie from v_old, in units of v - v_old.
        mode: "binary": the best and the worst clip of each prompt, at advantages 1 and -1; "reward": all clips of
            prompts with two or more, each at its score minus the prompt's mean, over reward_temp times the standard
            deviation of the cohort.
        reward_temp: see mode. 1 is DiffusionNFT's own advantage. At the published 0.1, a tenth of a standard deviation
            reaches adv_clip, so most clips count fully; the published formula is not known, and this is one reading.
        adv_clip: advantages end there, on both sides; it counts as wholly good, its negative as wholly bad.
        kl: weight of the mean squared distance from the reference.
    Raises:
        ValueError: an unknown mode, or a number out of its range.
    """

    uses_advantages = True
    needs_reference = True

    def __init__(
        self,
        beta: float = 0.2,
        mode: str = "binary",
        reward_temp: float = 0.1,
        adv_clip: float = 1.0,
        kl: float = 1e-4,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
        self.mode = mode
        self.beta = number("beta", beta, above=0)
        self.reward_temp = number("reward_temp", reward_temp, above=0)
        self.adv_clip = number("adv_clip", adv_clip, above=0)
        self.kl = number("kl", kl, at_least=0)

    def select(self, candidates: Sequence[Candidate], settings: Selection, threshold: float | None) -> list[Example]:
        """Good and bad clips of each prompt; fractions and thresholds do not apply."""
        if self.mode == "reward":
            return with_advantages(candidates, scale=self.reward_temp, clip=self.adv_clip)
        pairs = best_against_worst(candidates)
        return [Example(e.ticket, e.clip, advantage=1.0 if e.role == "winner" else -1.0) for e in pairs]

    def loss(
        self, predict: Predict, batch: Batch, reference: Predict | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        import torch

        from rlloop.algorithms.losses import nft_loss
        from rlloop.algorithms.prediction import velocities
        from rlloop.flow.path import velocity_target

        assert reference is not None and batch.advantage is not None, "NFT needs a reference and advantages"
        v = velocities(predict, batch).float()
        with torch.no_grad():
            v_old = velocities(reference, batch).float()
        target = velocity_target(batch.latents, batch.noise).float()
        loss = nft_loss(v, v_old, target, batch.t, batch.advantage, beta=self.beta, adv_clip=self.adv_clip, kl=self.kl)
        return loss, {"reference_distance": (v - v_old).square().mean()}
