"""The sweep job: checks every trial, has those run that are not at their end, keeps sweep.json and sweep.md."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from rlloop.config import Config, load
from rlloop.preflight import check, disk_bytes, show_bytes
from rlloop.recipes.sweep_outcome import Outcome, ended_outcome, stored_outcome
from rlloop.recipes.sweep_plan import Trial, total_sizes
from rlloop.recipes.sweep_table import aggregate
from rlloop.resources import resources, sizes
from rlloop.views.scores import show_score, show_seconds
from rlloop.views.sweep import markdown, settings_table, words

LINE_EVERY_S = 30.0


class Sweep:
    """checked -> plan shown -> run -> table shown.

    Args:
        command: the sweep's own, as sweep.md shows it.
    Raises:
        ValueError: a setting that cannot run, or a trial's folder that holds another run; names the setting.
    """

    def __init__(self, trials: list[Trial], folder: Path, parallel: int, command: str, console: Console | None = None):
        self.trials, self.folder, self.parallel, self.command = trials, folder, parallel, command
        self.console = console or Console()
        self.configs = checked(trials)
        self.outcomes = [stored_outcome(trial, config) for trial, config in zip(trials, self.configs, strict=True)]
        self.todo = [n for n, outcome in enumerate(self.outcomes) if not outcome.is_final]
        self.began: dict[int, float] = {}
        self.last_line: dict[int, float] = {}
        self.ended: set[int] = set()
        self.is_stopping = False

    def show_plan(self) -> None:
        """The number of trials, how each stands, and what is still to be done."""
        num_settings = len({trial.setting for trial in self.trials})
        num_seeds = len(self.trials) // num_settings
        self._say(f"{len(self.trials)} trials, {num_settings} settings x {num_seeds} seeds, in {self.folder}")
        for trial, outcome in zip(self.trials, self.outcomes, strict=True):
            self._say(f"  {trial.name}: {describe(outcome)}")
        total = total_sizes(sizes(self.configs[n]) for n in self.todo)
        needed, free = self._disk()
        self._say(f"to do: {len(self.todo)} trials, " + ", ".join(f"{count} {what}" for what, count in total.items()))
        self._say(f"disk: at most {show_bytes(needed)} for the trials that wait, {show_bytes(free)} are free")
        self._say(f"time: {self.time_left() or 'not known until a trial has finished'}")

    def run(self) -> bool:
        """Runs what is to do; returns whether all came to an end (False: interrupted).

        Raises:
            ValueError: the disk is too small for the trials that wait.
        """
        needed, free = self._disk()
        if needed > free:
            raise ValueError(
                f"{self.folder}: the trials may write {show_bytes(needed)}, {show_bytes(free)} are free; free some, "
                "lower trainer.keep_checkpoints or choose another --out"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write()
        if not self.todo:
            return True
        from actors.jobs.trials import run_processes

        processes = [process_of(self.trials[n], self.configs[n]) for n in self.todo]
        try:
            is_complete = run_processes(processes, self.parallel, self.folder, self._notice)
        except KeyboardInterrupt:  # a second signal, or one before Tune was up
            is_complete = False
        for n in set(self.began) - self.ended:  # the signal has ended them
            self.outcomes[n] = stored_outcome(self.trials[n], self.configs[n])
        self.write()
        return is_complete

    def _notice(self, event: str, index: int, what: Any) -> None:
        """One line when a trial starts, ends, and now and then between."""
        n = self.todo[index]
        now = time.time()
        if event == "started":
            self.began[n] = now
            self._say(f"trial {n + 1} of {len(self.trials)}, {self.trials[n].name}: started, log {self.trials[n].log}")
        elif event == "running":
            if what and now - self.last_line.get(n, self.began[n]) >= LINE_EVERY_S:
                self.last_line[n] = now
                self._say(f"trial {n + 1}: {what}")
        elif event == "stopping":
            if not self.is_stopping:
                self._say("stopping: the running trials checkpoint; a second Ctrl-C ends them at once")
            self.is_stopping = True
        else:
            self.ended.add(n)
            lost = Outcome("failed", str(what))
            self.outcomes[n] = lost if event == "lost" else ended_outcome(self.trials[n], what, self.began.get(n, 0.0))
            self.write()
            left = self.time_left()
            self._say(f"trial {n + 1}: {describe(self.outcomes[n])}" + (f"; to go: {left}" if left else ""))

    def time_left(self) -> str:
        """From the mean of the finished trials, '' where there is none."""
        took = [outcome.summary["wall_seconds"] for outcome in self.outcomes if outcome.summary is not None]
        waiting = sum(not self.outcomes[n].is_final and n not in self.ended for n in self.todo)
        if not took:
            return ""
        rounds = math.ceil(waiting / self.parallel)
        each = sum(took) / len(took)
        return f"about {show_seconds(rounds * each)} at {show_seconds(each)} a trial (mean of {len(took)} finished)"

    def _disk(self) -> tuple[int, int]:
        """What the trials that have not begun may write, and what is free; bytes."""
        needed = sum(disk_bytes(self.configs[n]) for n in self.todo if self.outcomes[n].state == "waiting")
        place = next(path for path in (self.folder.resolve(), *self.folder.resolve().parents) if path.is_dir())
        return needed, shutil.disk_usage(place).free

    def write(self) -> None:
        """sweep.json and sweep.md as the trials stand."""
        found = self.found()
        write_whole(self.folder / "sweep.json", json.dumps(found, indent=2, allow_nan=False) + "\n")
        write_whole(self.folder / "sweep.md", markdown(found, self.command))

    def found(self) -> dict[str, Any]:
        return {"command": self.command, **aggregate(list(zip(self.trials, self.outcomes, strict=True)))}

    def show_table(self) -> None:
        found = self.found()
        console = self.console if self.console.is_terminal else Console(file=self.console.file, width=160)
        console.print(settings_table(found))
        for line in words(found):
            self._say(line)
        self._say(f"{self.folder}/sweep.json, {self.folder}/sweep.md")

    def _say(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)


def checked(trials: list[Trial]) -> list[Config]:
    """The configurations of trials, after the checks that their own starts will make, once a setting.

    Raises:
        ValueError: names the setting.
    """
    configs: list[Config] = []
    seen = set()
    for trial in trials:
        try:
            configs.append(load(trial.preset, list(trial.overrides)))
            if trial.setting not in seen:
                check(configs[-1], os.environ)
        except ValueError as error:
            raise ValueError(f"{trial.setting.label}: {error}") from None
        seen.add(trial.setting)
    return configs


def process_of(trial: Trial, config: Config):
    """The entry point as a process, with what its roles take."""
    from actors.jobs.trials import Process

    rows = resources(config)
    command = (sys.executable, "-m", "rlloop.main", "--config", trial.preset, *trial.overrides)
    cpus, gpus = sum(row.cpus for row in rows), sum(row.gpus for row in rows)
    return Process(command, os.getcwd(), str(trial.log), round(cpus, 4), math.ceil(gpus - 1e-6))


def describe(outcome: Outcome) -> str:
    """finished with its gain, or the state with its reason."""
    if outcome.summary is not None:
        label, gain = outcome.summary["score_label"], outcome.summary["reward_gain"]
        return f"finished in {show_seconds(outcome.summary['wall_seconds'])}, {label} gain {show_score(gain)}"
    return f"{outcome.state}: {outcome.reason}" if outcome.reason else outcome.state


def write_whole(path: Path, text: str) -> None:
    """Complete or not there."""
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)
