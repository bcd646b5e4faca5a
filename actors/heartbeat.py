"""Heartbeat: ends the driver when its main thread hangs, and with it the watchdog, which is called there.

A thread of its own, because whatever the main thread calls may hang without a deadline: a file system under a write, a
question to Ray's head. It names what the thread does since when, leaves the stacks, and ends the process.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path

from actors.watchdog import within
from rlloop.loop import stacks

SPARE_S = 60.0  # beyond the longest wait that has a deadline of its own
POLL_S = 1.0
LEAVE_S = 20.0  # for the line and the stacks: what they are written to may hang as well


class Heartbeat:
    """Life: started -> step* -> stopped, or the process ends with status 1.

        with Heartbeat(run_dir, limit_s=360) as heart:
            heart.step("the disk with the event files")
            ...

    Args:
        limit_s: seconds in one step that end the process.
    """

    def __init__(self, run_dir: Path, limit_s: float) -> None:
        self.run_dir, self.limit_s = run_dir, limit_s
        self.steps = 0
        self.step("its first step")
        self._stop = threading.Event()

    def step(self, what: str) -> None:
        """Begins the next step: what the main thread waits for from now on."""
        self.doing = what, time.monotonic()
        self.steps += 1

    def __enter__(self) -> Heartbeat:
        threading.Thread(target=self._watch, name="heartbeat", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()

    def _watch(self) -> None:
        quiet_s, steps = 0.0, self.steps
        while not self._stop.wait(POLL_S):
            # Counted in looks, not read from a clock: the time in which the whole process was stopped does not count.
            quiet_s, steps = (quiet_s + POLL_S if steps == self.steps else 0.0), self.steps
            if quiet_s >= self.limit_s:
                self._end()

    def _end(self) -> None:
        what, since = self.doing
        line = f"rlloop: the driver waits for {what} since {time.monotonic() - since:.0f} s"
        within(LEAVE_S, {"line": lambda: say(line), "files": lambda: leave_stacks(self.run_dir, line)})
        os._exit(1)


def say(line: str) -> None:
    """The line, and what every thread of this process does, on standard error."""
    print(line, file=sys.stderr, flush=True)
    faulthandler.dump_traceback(sys.stderr, all_threads=True)


def leave_stacks(run_dir: Path, line: str) -> None:
    """The same and the stacks of the run's other processes here in run_dir/watchdog/TIME."""
    folder = run_dir / "watchdog" / time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "driver.txt").open("w") as file:
        print(line, file=file, flush=True)
        faulthandler.dump_traceback(file, all_threads=True)
    for name, text in stacks.dump_here(run_dir):
        (folder / f"{name}.txt").write_text(text)
