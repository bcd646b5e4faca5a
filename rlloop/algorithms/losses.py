"""Objectives as functions of tensors: what the algorithms minimise, apart from how they draw and batch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def crpo_margin(error_w: Tensor, error_l: Tensor, ref_error_w: Tensor, ref_error_l: Tensor, *, beta: float) -> Tensor:
    """How far a pair is ordered as it should be; its sigmoid is the probability that the winner is preferred.

        -beta / 2 * ((error_w - error_l) - (ref_error_w - ref_error_l))

    The share of positive margins is the implicit accuracy (reference.md section 9.1).

    Args:
        error_w, error_l, ref_error_w, ref_error_l: [B], see `crpo_loss`.
    Returns:
        [B], above 0 where the policy moved from the reference towards the winner.
    """
    return -0.5 * beta * ((error_w - error_l) - (ref_error_w - ref_error_l))


def crpo_loss(
    error_w: Tensor, error_l: Tensor, ref_error_w: Tensor, ref_error_l: Tensor, *, beta: float, lambda_fm: float
) -> Tensor:
    """Fits the winner of a pair better than the loser, both measured against a frozen reference.

        mean(-log sigmoid(crpo_margin)) + lambda_fm * mean(error_w)

    The second term keeps the winner's own error from growing. TangoFlux (arXiv:2412.21037); reference.md section 9.1,
    which has beta 2000 and lambda_fm 1. Noise and t are one draw, shared by winner, loser and reference.

    Args:
        error_w, error_l: [B] squared velocity errors of the policy (flow.path.velocity_error), float32.
        ref_error_w, ref_error_l: [B] the same of the reference, without gradient.
    Returns:
        scalar.
    """
    margin = crpo_margin(error_w, error_l, ref_error_w, ref_error_l, beta=beta)
    return -F.logsigmoid(margin).mean() + lambda_fm * error_w.mean()
