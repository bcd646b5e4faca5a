"""The straight path between data and noise, and where on it training looks (reference.md section 3).

x_t = (1 - t) x1 + t x0,   v = x0 - x1       x1 data, x0 ~ N(0, I), t = 1 noise, t = 0 data
"""

from __future__ import annotations

import torch
from torch import Tensor


def interpolate(x1: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """The point x_t of the path from data x1 to noise x0.

    Args:
        x1, x0: [B, L, D]. t: [B] in [0, 1].
    Returns:
        [B, L, D].
    """
    t = t[:, None, None]
    return (1 - t) * x1 + t * x0


def velocity_target(x1: Tensor, x0: Tensor) -> Tensor:
    """The velocity dx_t / dt that the network learns, x0 - x1: [B, L, D]."""
    return x0 - x1


def velocity_error(predicted: Tensor, x1: Tensor, x0: Tensor) -> Tensor:
    """Squared error of a predicted velocity, mean over [L, D], in float32: [B]."""
    return (predicted.float() - velocity_target(x1, x0).float()).square().mean(dim=(1, 2))


def sample_time(batch_size: int, generator: torch.Generator, *, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Logit-normal times t = sigmoid(mean + std n), n ~ N(0, 1): [B], on the generator's device."""
    n = torch.randn(batch_size, generator=generator, device=generator.device)
    return torch.sigmoid(mean + std * n)
