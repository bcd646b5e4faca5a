"""A run of the real command with stand-ins, watched through its journal while it works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from rlloop.loop.journal import decode

REPOSITORY = Path(__file__).resolve().parents[1]
STANDINS = REPOSITORY / "bench" / "standins.yaml"
START_S, END_S = 600.0, 120.0


@dataclass
class Watch:
    """What the journal says so far. Times are unix seconds; `read` takes in what was added."""

    path: Path
    buffered: dict[int, float] = field(default_factory=dict)  # ticket -> when
    busy: dict[int, dict[str, float]] = field(default_factory=dict)  # ticket -> role -> seconds
    started: dict[str, float] = field(default_factory=dict)  # worker -> its first ticket
    published: dict[int, float] = field(default_factory=dict)  # version -> when
    slots: dict[int, tuple[int, int]] = field(default_factory=dict)  # ticket -> segment and slot of its last lease
    segments: dict[int, float] = field(default_factory=dict)  # segment -> when it began
    scaled: list[float] = field(default_factory=list)  # when pools were told another size
    failed: int = 0
    offset: int = 0

    def read(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
        end = data.rfind(b"\n") + 1
        self.offset += end
        for line in data[:end].splitlines():
            if record := decode(line):
                self._take(record)

    def _take(self, record: dict) -> None:
        kind, when = record["type"], record["time"]
        if kind == "Buffered":
            self.buffered[record["ticket"]] = when
            self.busy[record["ticket"]] = record["worker_seconds"]
        elif kind == "Started":
            self.started.setdefault(record["worker"], when)
        elif kind == "Leased":
            self.slots[record["ticket"]] = (record["segment"], record["slot"])
        elif kind == "SegmentBegan":
            self.segments[record["segment"]] = when
        elif kind == "Scaled":
            self.scaled.append(when)
        elif kind == "Published":
            self.published[record["version"]] = when
        elif kind in ("Failed", "Released"):
            self.failed += 1

    def workers(self, role: str) -> list[str]:
        return [worker for worker in self.started if worker.startswith(f"{role}-")]

    def tickets_between(self, begin: float, end: float) -> int:
        return sum(begin <= when < end for when in self.buffered.values())

    def slots_between(self, begin: float, end: float) -> int:
        """Slots that these tickets came in."""
        return len({self.slots[ticket] for ticket, when in self.buffered.items() if begin <= when < end})


class Run:
    """One driver in a process of its own; `with` ends it as Ctrl-C would."""

    def __init__(self, run_dir: Path, overrides: list[str], config: Path = STANDINS) -> None:
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        self.log = run_dir.with_suffix(".log")
        self.watch = Watch(run_dir / "journal" / "journal.log")
        command = [sys.executable, "-m", "rlloop.main", "--config", str(config), f"run_dir={run_dir}", *overrides]
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=REPOSITORY, env=env, stdout=log, stderr=log, start_new_session=True
            )
        self.began = time.time()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):  # a second signal ends the driver at once
            if self.process.poll() is not None:
                return
            os.killpg(self.process.pid, number)
            try:
                self.process.wait(END_S)
            except subprocess.TimeoutExpired:
                continue

    def wait_for(self, condition, what: str, timeout_s: float = START_S) -> None:
        """Reads the journal until condition(watch) holds.

        Raises:
            RuntimeError: the driver ended, or it took too long.
        """
        deadline = time.monotonic() + timeout_s
        self.watch.read()
        while not condition(self.watch):
            if self.process.poll() is not None:
                raise RuntimeError(f"the driver ended before {what}: {self.log.read_text()[-2000:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited {timeout_s:.0f} s for {what}; see {self.log}")
            time.sleep(0.5)
            self.watch.read()

    def cpu_seconds(self) -> Counter[str]:
        """CPU time so far of the driver and all it started, by what a process calls itself."""
        spent: Counter[str] = Counter()
        root = psutil.Process(self.process.pid)
        for process in [root, *root.children(recursive=True)]:
            try:
                times = process.cpu_times()
                spent[title(process.cmdline())] += times.user + times.system
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return spent

    def measure(self, seconds: float) -> tuple[float, float]:
        """Lets it work for so long; returns (begin, end) in unix seconds."""
        begin = time.time()
        self.wait_for(lambda _: time.time() >= begin + seconds, "the end of the measurement", seconds + 60)
        return begin, begin + seconds


def title(command: list[str]) -> str:
    """A process by its role: a stage or actor by its class, the driver, Ray's own by their binary."""
    first = " ".join(command[:1]) or "gone"
    if "ray::" in first:
        found = first.split("ray::", 1)[1]
        return next((role for role in ("SamplerStage", "ScorerStage", "Gate") if role in found), found.split(".")[0])
    return "driver" if "rlloop.main" in command else Path(first.split()[0]).name
