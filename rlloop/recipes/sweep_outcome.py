"""How a trial of a sweep stands, read from what its run has left on disk."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlloop.config import Config
from rlloop.recipes.sweep_plan import Trial

TAIL_BYTES = 4096


@dataclass(frozen=True)
class Outcome:
    """`summary` is there only where the run finished; `reason` only where it did not.

    `alarm_warns`: the configuration now has an alarm that ends no run, so a run that its alarm ended goes on.
    """

    state: Literal["finished", "stopped", "failed", "waiting"]
    reason: str = ""
    summary: dict[str, Any] | None = None
    alarm_warns: bool = False

    @property
    def was_ended_by_alarm(self) -> bool:
        """Whether the run's own alarm ended it."""
        return self.state == "stopped" and self.reason.startswith("alarm")

    @property
    def is_final(self) -> bool:
        """Whether the same command would do nothing more: finished, or ended by an alarm that still ends runs."""
        return self.state == "finished" or (self.was_ended_by_alarm and not self.alarm_warns)


def stored_outcome(trial: Trial, config: Config) -> Outcome:
    """What the run directory says: waiting where nothing has begun, stopped where it goes on.

    Raises:
        ValueError: the directory holds a run of another configuration.
    """
    if not (trial.run_dir / "config.json").exists():
        return Outcome("waiting")
    try:
        there = Config.model_validate_json((trial.run_dir / "config.json").read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(
            f"{trial.run_dir}/config.json is no configuration of this version; choose another --out"
        ) from None
    if there.digest() != config.digest():
        raise ValueError(f"{trial.run_dir} holds a run with other settings than {trial.name}; choose another --out")
    summary = read_summary(trial.run_dir)
    if summary is None:
        return Outcome("stopped", "interrupted")
    if summary["status"] == "finished":
        return Outcome("finished", summary=summary)
    warns = config.evaluation.alarm.action == "warn"  # may have changed: the digest leaves it out
    return Outcome(summary["status"], summary["reason"], alarm_warns=warns)


def ended_outcome(trial: Trial, status: int, began: float) -> Outcome:
    """How a run ended whose process began at `began` (seconds since 1970) and returned `status`."""
    summary = read_summary(trial.run_dir, since=began)
    if status == 0 and summary and summary["status"] == "finished":
        return Outcome("finished", summary=summary)
    if summary and summary["status"] != "finished":
        return Outcome(summary["status"], summary["reason"])
    said = last_line(trial.log).removeprefix("rlloop: ")
    ended = f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return Outcome("failed", f"{said} ({ended}, see {trial.log})" if said else f"{ended}, see {trial.log}")


def read_summary(run_dir: Path, since: float = 0.0) -> dict[str, Any] | None:
    """summary.json if it is there, can be read, and was written after `since`."""
    path = run_dir / "summary.json"
    try:
        if path.stat().st_mtime < since:
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"status", "reason"} <= found.keys() else None


def last_line(log: Path) -> str:
    """The last line with something in it, '' if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
