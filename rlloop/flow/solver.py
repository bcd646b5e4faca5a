"""Integrates a velocity from noise (t = 1) to data (t = 0) in equal steps (reference.md sections 3 and 10)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]  # (x_t [B, L, D], t [B]) -> [B, L, D]


def _times(num_steps: int, x: Tensor) -> Tensor:
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; a solver needs at least one step")
    return torch.linspace(1.0, 0.0, num_steps + 1, device=x.device)


def euler(velocity: Velocity, x: Tensor, num_steps: int) -> Tensor:
    """First order, one network evaluation a step; the solver of the published sampler.

    Args:
        x: [B, L, D] noise at t = 1.
    Returns:
        [B, L, D] data at t = 0.
    """
    times = _times(num_steps, x)
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        x = x + (t_next - t) * velocity(x, t.expand(len(x)))
    return x


def heun(velocity: Velocity, x: Tensor, num_steps: int) -> Tensor:
    """Second order (trapezoidal rule), two network evaluations a step. Shapes as in `euler`."""
    times = _times(num_steps, x)
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        v = velocity(x, t.expand(len(x)))
        v_next = velocity(x + (t_next - t) * v, t_next.expand(len(x)))
        x = x + (t_next - t) * 0.5 * (v + v_next)
    return x
