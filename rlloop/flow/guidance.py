"""Joint classifier-free guidance (text and score share one weight), how its weight depends on t, and crossover.

The published sampler uses the constant weight alone; its interval, annealed and crossover modes are neither used nor
documented (reference.md section 10), so their conventions here are this project's own.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, cat

from rlloop.flow.solver import Velocity

Schedule = Callable[[float], float]  # t -> guidance weight w; below 1 only the conditional branch runs


def constant(weight: float) -> Schedule:
    """w = weight at every t, as published."""
    return lambda t: weight


def annealed(weight: float, weight_end: float) -> Schedule:
    """Linear from `weight` at t = 1 (noise) to `weight_end` at t = 0 (data). Our own convention."""
    return lambda t: weight_end + (weight - weight_end) * t


def interval(schedule: Schedule, low: float, high: float) -> Schedule:
    """The schedule for t in [low, high]; outside, the conditional branch alone. Our own convention.

    The idea is that of arXiv:2404.07724 (guidance in a limited interval of noise levels).

    Raises:
        ValueError: not 0 <= low < high <= 1.
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"guidance_interval is [{low}, {high}]; expected 0 <= low < high <= 1")
    return lambda t: schedule(t) if low <= t <= high else 0.0


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
        positive, negative = velocity(cat([x, x]), cat([t, t])).chunk(2)
        return weight * positive + (1 - weight) * negative

    return guided


def scheduled_guidance(conditional: Velocity, both: Velocity, schedule: Schedule) -> Velocity:
    """Joint guidance with a weight that depends on t; where it is below 1 the negative branch is not computed.

    Args:
        conditional: velocity of the positive conditions, x [B, L, D].
        both: velocity of [positive; negative] conditions, as in `joint_guidance`.
    """

    def guided(x: Tensor, t: Tensor) -> Tensor:
        weight = schedule(time_of(t))
        return conditional(x, t) if weight < 1 else joint_guidance(both, weight)(x, t)

    return guided


def crossover(first: Velocity, second: Velocity, switch_t: float) -> Velocity:
    """The first velocity while t > switch_t, the second from there to data. Our own convention."""
    return lambda x, t: (first if time_of(t) > switch_t else second)(x, t)


def time_of(t: Tensor) -> float:
    """The time that all rows of t [B] share, rounded: a solver's 0.6 in float32 is not above 0.6."""
    return round(float(t[0]), 6)
