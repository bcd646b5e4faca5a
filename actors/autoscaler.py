"""Carries out the scaling rule: watches who waits, and tells the buffer how many samplers the next segment has."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from actors.session import Session
from rlloop.loop.autoscale import Idle, Scaling, observe, samplers_idle, scorers_idle

log = logging.getLogger(__name__)


@dataclass
class Looks:
    """What was seen since the last observation, once a second."""

    trainer: list[bool] = field(default_factory=list)
    samplers: list[float] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)


class Autoscaler:
    """Looks once a second, decides every `sampler.autoscale.every_s`. Without that section it does nothing.

    While a pool of another size is being started nothing is judged: what waits then says nothing about sizes.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.bounds = session, session.config.sampler.autoscale
        self.state, self.looks = Scaling(), Looks()

    def look(self, report: dict[str, Any]) -> None:
        """One look at the buffer's report; a change is journaled there.

        Raises:
            NoAnswer: the buffer does not answer before the deadline.
        """
        if self.bounds is None or not report:
            return
        pools = self.session.call("driver", "buffer", "pools")
        samplers, tickets = pools.sizes["sampler"], report["tickets"]
        loads = tickets.get("leased", 0) and pools.at_work.get("sampler", 0) < samplers
        if loads or pools.wanted["sampler"] != samplers:
            self.looks = Looks()
            return
        self.looks.trainer.append(report["trainer_state"].startswith("waiting"))
        self.looks.samplers.append(samplers_idle(tickets.get("leased", 0), samplers))
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
            self.session.call("driver", "buffer", "scale", {"sampler": better})
