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


def nft_loss(
    v: Tensor,
    v_old: Tensor,
    target: Tensor,
    t: Tensor,
    advantage: Tensor,
    *,
    beta: float,
    adv_clip: float,
    kl: float,
) -> Tensor:
    """Pulls v_old + beta (v - v_old) towards good clips and v_old - beta (v - v_old) towards bad ones.

        r = clamp(advantage / (2 adv_clip) + 1/2, 0, 1)
        adv_clip / beta * mean(r * fit(v_old + beta (v - v_old)) + (1 - r) * fit(v_old - beta (v - v_old)))
            + kl * mean((v - v_old)^2)

    fit(u) is the error of the clip x_t - t u that u implies: mean over [L, D] of its square over its mean magnitude,
    the latter without gradient and at least 1e-5. As x_t - t u - x1 = t (target - u), no clip has to be formed.
    DiffusionNFT (arXiv:2509.16117); reference.md section 9.3.

    Args:
        v: [B, L, D] velocity of the policy at x_t, float32.
        v_old: [B, L, D] the same of the frozen network, without gradient.
        target: [B, L, D] x0 - x1.
        t: [B] in (0, 1), 1 is noise.
        advantage: [B], 0 is neutral.
    Returns:
        scalar.
    """
    step, time = beta * (v - v_old), t[:, None, None]

    def fit(implied: Tensor) -> Tensor:
        off = time * (target - implied)
        scale = off.detach().abs().mean(dim=(1, 2)).clamp(min=1e-5)
        return off.square().mean(dim=(1, 2)) / scale

    good = (advantage / (2 * adv_clip) + 0.5).clamp(0, 1)
    fits = good * fit(v_old + step) + (1 - good) * fit(v_old - step)
    return adv_clip / beta * fits.mean() + kl * (v - v_old).square().mean()
