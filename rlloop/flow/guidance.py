"""Joint classifier-free guidance: text and score share one weight (reference.md section 10)."""

from __future__ import annotations

import torch
from torch import Tensor

from rlloop.flow.solver import Velocity


def joint_guidance(velocity: Velocity, weight: float) -> Velocity:
    """Turns a network over stacked conditions [positive; negative] into one guided velocity.

        v = w v(x, t, text, s) + (1 - w) v(x, t, negative text, null score)

    Both branches run as one batch, so a step costs one call.

    Args:
        velocity: takes x [2 B, L, D] and t [2 B]; its first B conditions are the positive ones.
        weight: w; 1 is no guidance.
    Returns:
        a velocity of x [B, L, D] and t [B].
    """

    def guided(x: Tensor, t: Tensor) -> Tensor:
        positive, negative = velocity(torch.cat([x, x]), torch.cat([t, t])).chunk(2)
        return weight * positive + (1 - weight) * negative

    return guided
