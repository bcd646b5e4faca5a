"""How many samplers a run should have, from who waits for whom. A rule on values: the driver asks and carries it out.

Trainer waits for cohorts while samplers are busy: too few. Samplers wait at the gate: too many. In between nothing
changes, and the counts that the two sides aim at leave each other's band alone, so the rule comes to rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rlloop.config.sections import Autoscale

TRAINER_WAITS = 0.15  # idle share of the trainer above which samplers are too few
SAMPLERS_WAIT = 0.1  # idle share that the samplers keep when they are made fewer
SCORERS_FULL = 0.1  # idle share of the fullest pool of scorers below which more samplers would only queue
PATIENCE = 3  # observations in a row that must agree, and that are awaited after a change


@dataclass(frozen=True)
class Idle:
    """Idle shares, 0 to 1, since the last observation.

    Args:
        trainer: how long it said that it waits for a cohort; while it checkpoints or publishes it does not.
        samplers: of all together. scorers: of the fullest pool.
    """

    trainer: float
    samplers: float
    scorers: float


@dataclass(frozen=True)
class Scaling:
    """What the rule remembers: which way the last observations pointed, how often, and how many it still lets pass."""

    direction: int = 0
    agreed: int = 0
    resting: int = 0


def samplers_idle(under_way: int, samplers: int) -> float:
    """Share of the samplers that have no ticket at a moment: none is leased for them.

    Not their busy share: that of the last minute knows of a pool that has just been started only that it loads.
    """
    return max(0.0, 1 - under_way / samplers)


def scorers_idle(busy: Mapping[str, float], sizes: Mapping[str, int]) -> float:
    """Idle share of the fullest pool of scorers.

    Args:
        busy: pool -> busy seconds a second, over all its actors; sizes: pool -> actors, the samplers among them.
    """
    return min(1 - min(1.0, busy.get(name, 0.0) / size) for name, size in sizes.items() if name != "sampler")


def wanted(idle: Idle, samplers: int, bounds: Autoscale) -> int:
    """How many samplers these idle shares ask for, at most twice as many as there are.

    With r of them just enough, fewer leave the trainer idle for 1 - samplers/r, so r is samplers / (1 - idle); more are
    themselves idle for 1 - r/samplers.
    """
    count = samplers
    if idle.trainer > TRAINER_WAITS and idle.samplers < SAMPLERS_WAIT and idle.scorers > SCORERS_FULL:
        enough = math.ceil(samplers / max(0.5, 1 - idle.trainer) - 1e-9)
        scorable = math.floor(samplers / max(0.5, 1 - idle.scorers) + 1e-9)
        count = max(samplers, min(enough, scorable))
    elif idle.samplers > SAMPLERS_WAIT and idle.trainer <= TRAINER_WAITS:
        count = min(samplers, math.ceil(samplers * (1 - idle.samplers) / (1 - SAMPLERS_WAIT) - 1e-9))
    return max(bounds.min, min(bounds.max, count))


def observe(state: Scaling, idle: Idle, samplers: int, bounds: Autoscale) -> tuple[Scaling, int]:
    """The next state, and how many samplers there should be from now on: the same number until enough agree."""
    if state.resting:
        return Scaling(resting=state.resting - 1), samplers
    target = wanted(idle, samplers, bounds)
    direction = (target > samplers) - (target < samplers)
    agreed = state.agreed + 1 if direction and direction == state.direction else 1
    if not direction:
        return Scaling(), samplers
    if agreed < PATIENCE:
        return Scaling(direction, agreed), samplers
    return Scaling(resting=PATIENCE), target
