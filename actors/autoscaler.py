"""Carries out the scaling rule: watches who waits, and tells the buffer how many samplers the next segment has."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from actors.session import NoAnswer, Session
from rlloop.loop.autoscale import Idle, Scaling, observe, samplers_idle, scorers_idle
from rlloop.loop.snapshot import PoolsNow

log = logging.getLogger(__name__)
ANSWER_S = 10.0  # a look that is late is worth nothing


@dataclass
class Looks:
    """What was seen since the last observation, once a second."""

    trainer: list[bool] = field(default_factory=list)
    samplers: list[float] = field(default_factory=list)
    since: float = field(default_factory=lambda: time.monotonic())  # looked up late: tests set the clock


class Autoscaler:
    """Looks once a second, decides every `sampler.autoscale.every_s`. Without that section it does nothing.

    While a pool of another size is being started nothing is judged: what waits then says nothing about sizes. A pool
    that is not complete after `loop.start_timeout_s` is judged as it is: for the rest there may be no machine.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.bounds = session, session.config.sampler.autoscale
        self.state, self.looks = Scaling(), Looks()
        self._loads_since: float | None = None
        self._segment = 0

    def look(self, report: dict[str, Any]) -> None:
        """One look at the report; a change is journaled by the buffer. One that is away is asked the next time."""
        if self.bounds is None or not report:
            return
        try:
            self._look(report, self.session.call("driver", "buffer", "pools", timeout_s=ANSWER_S))
        except NoAnswer as error:
            log.warning("%s", error)
            self.looks = Looks()

    def _look(self, report: dict[str, Any], pools: PoolsNow) -> None:
        samplers = pools.sizes["sampler"]
        if self._loads(pools) or pools.wanted["sampler"] != samplers:
            self.looks = Looks()
            return
        self.looks.trainer.append(report["trainer_state"].startswith("waiting"))
        self.looks.samplers.append(samplers_idle(report["slots_under_way"], samplers))
        if time.monotonic() - self.looks.since < self.bounds.every_s:
            return
        count = len(self.looks.samplers)
        idle = Idle(
            trainer=sum(self.looks.trainer) / count,
            samplers=sum(self.looks.samplers) / count,
            scorers=scorers_idle(report["busy"], pools.sizes),
        )
        self.looks = Looks()
        self.state, better = observe(self.state, idle, samplers, self.bounds)
        if better != samplers:
            log.info("samplers %d -> %d: %s", samplers, better, idle)
            self.session.call("driver", "buffer", "scale", {"sampler": better}, timeout_s=ANSWER_S)

    def _loads(self, pools: PoolsNow) -> bool:
        """Whether samplers of this segment are still on their way, and may be awaited."""
        if pools.at_work.get("sampler", 0) >= pools.sizes["sampler"]:
            self._loads_since = None
            return False
        now = time.monotonic()
        if pools.segment != self._segment or self._loads_since is None:  # another segment's actors load anew
            self._segment, self._loads_since = pools.segment, now
        return now - self._loads_since < self.session.config.loop.start_timeout_s
