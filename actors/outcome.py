"""Whether a run is over, how it ended, and why: read from the last picture of it, once a second."""

from __future__ import annotations

import math
import os
import signal
import time
from dataclasses import dataclass, field

from actors import watchdog
from actors.fit import TrainerThread
from actors.observer import Observer
from actors.session import Session
from rlloop.recipes.disk import over_limit

STALLED_S = 20.0
INTERRUPTED = {signal.SIGINT: 130, signal.SIGTERM: 143}
ALARM_STATUS = 3  # the run ended itself, neither by a fault nor by a signal


@dataclass
class Outcome:
    """How the run ended: finished | stopped | failed, why, and the exit status."""

    status: str = "finished"
    reason: str = ""
    exit_status: int = 0
    patience_s: float = math.inf  # for the trainer's last checkpoint; who hangs writes none

    @property
    def hangs(self) -> bool:
        return self.patience_s < math.inf


@dataclass
class Signals:
    """The first SIGINT or SIGTERM asks for a checkpoint and a clean end, the second ends at once."""

    received: list[int] = field(default_factory=list)

    def install(self) -> None:
        for number in INTERRUPTED:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame) -> None:
        self.received.append(number)
        if len(self.received) > 1:
            os._exit(INTERRUPTED[signal.Signals(number)])


def decide(session: Session, signals: Signals, trainer: TrainerThread, observer: Observer) -> Outcome | None:
    """Whether the run is over, and how. None while it goes on."""
    if signals.received:
        return interrupted(signals)
    if not trainer.is_alive():  # what it last said may be newer than the last picture
        observer.report = session.call("driver", "buffer", "report", observer.last_step)
    report = observer.report
    if too_much := over_limit(session.run_dir, session.config.limits, observer.storage.now):
        return Outcome("failed", too_much, 1)
    if report.get("fatal"):
        return Outcome("failed", report["fatal"], 1)
    if observer.evaluator_error:
        return Outcome("failed", observer.evaluator_error, 1)
    if not trainer.is_alive():
        if trainer.error:
            return Outcome("failed", f"trainer: {trainer.error}", 1)
        if report.get("version", 0) >= session.plan.num_versions:
            return Outcome()
        reason = report.get("stopped") or report.get("stop_reason") or "the trainer returned early"
        return Outcome("failed", reason, 1)
    if report.get("stop_reason"):
        return Outcome("failed", report["stop_reason"], 1)
    if raised := alarmed(session, observer):
        return raised
    return stalled(session, observer, "neither a commit nor a step")


def decide_last(session: Session, signals: Signals, observer: Observer) -> Outcome | None:
    """Whether the wait for the last evaluations is over early, and how."""
    if signals.received:
        return interrupted(signals)
    if observer.evaluator_error:
        return Outcome("failed", observer.evaluator_error, 1)
    missing = observer.evaluator.get("missing")
    return stalled(session, observer, f"the driver waits for the evaluation of versions {missing}, nothing of it came")


def interrupted(signals: Signals) -> Outcome:
    number = signal.Signals(signals.received[0])
    return Outcome("stopped", f"{number.name} received", INTERRUPTED[number])


def alarmed(session: Session, observer: Observer) -> Outcome | None:
    """The end that the configuration asks of an alarm."""
    if session.config.evaluation.alarm.action == "warn" or not observer.alarms:
        return None
    return Outcome("stopped", f"alarm: {observer.alarms[0]['text']}", ALARM_STATUS)


def stalled(session: Session, observer: Observer, what: str) -> Outcome | None:
    """The watchdog: the deadline of every wait inside Ray that has none, such as fit() or a pool that cannot start."""
    loop, since = session.config.loop, observer.last_progress or observer.started_at
    key = "stall_timeout_s" if observer.has_worked else "start_timeout_s"  # nodes come up and models load until then
    quiet = time.time() - since
    if quiet <= (limit := getattr(loop, key)):
        return None
    why = f"{what} since {quiet:.0f} s (loop.{key} is {limit:g}){observer.silent()}"
    return Outcome("failed", watchdog.ring(session, why, observer.report, observer.last_step_at), 1, STALLED_S)
