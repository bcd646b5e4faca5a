"""Stacks of the processes of a run: each registers itself, and writes what its threads do when it is asked.

Asked is by SIGUSR2, which faulthandler answers in C: also while a thread holds the interpreter's lock or waits inside a
library. It reads frames that change meanwhile, which may end the process, if rarely: an actor comes back by itself, the
driver does not, and so answers in Python. The answer goes to a file of the process in `run_dir/stacks`. The file's name
says who may be asked: host, process id and when that process began, so that a process that got the same id later is
never signalled; by default SIGUSR2 ends a process.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import IO

FOLDER = "stacks"
ANSWER_S = 5.0
MAX_BYTES = 1 << 20  # of one answer
_open: list[IO] = []  # faulthandler writes to the descriptor, so the file stays open


@dataclass(frozen=True)
class Process:
    """A process that registered: `began` in clock ticks of its machine, `file` is where it answers."""

    role: str
    host: str
    pid: int
    began: int
    file: Path

    @property
    def name(self) -> str:
        return f"{self.role}-{self.host}-{self.pid}"

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine now."""
        return self.host == host_name() and began(self.pid) == self.began


def register(run_dir: Path, role: str) -> Path:
    """From now on this process answers, in C; one open file for as long as it lives. Files of ended processes go."""
    path, file = _own_file(run_dir, role)
    faulthandler.register(signal.SIGUSR2, file, all_threads=True, chain=False)
    return path


def register_main(run_dir: Path, role: str) -> Path:
    """As `register`, for a main thread that never waits without a deadline: it answers itself, in Python."""
    path, file = _own_file(run_dir, role)
    signal.signal(signal.SIGUSR2, lambda number, frame: _write_stacks(file))
    return path


def _write_stacks(file: IO) -> None:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = (
        f"Thread {names.get(ident, ident)} (most recent call last):\n{''.join(traceback.format_stack(frame))}\n"
        for ident, frame in sys._current_frames().items()
    )
    os.write(file.fileno(), "".join(stacks).encode())  # at once: who asks takes what is there when it stops growing


def _own_file(run_dir: Path, role: str) -> tuple[Path, IO]:
    folder = run_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    remove_ended(run_dir)
    pid = os.getpid()
    path = folder / f"{role}@{host_name()}@{pid}@{began(pid)}"
    file = path.open("ab")
    while _open:
        _open.pop().close()
    _open.append(file)
    return path, file


def registered(run_dir: Path) -> list[Process]:
    """Every process with a file, ended ones too, by role."""
    found = []
    for path in sorted((run_dir / FOLDER).glob("*@*@*@*")):
        role, host, pid, start = path.name.rsplit("@", 3)
        if pid.isdigit() and start.isdigit():
            found.append(Process(role, host, int(pid), int(start), path))
    return found


def remove_ended(run_dir: Path) -> None:
    """Removes the files of processes of this machine that are gone."""
    for process in registered(run_dir):
        if process.host == host_name() and not process.is_here:
            process.file.unlink(missing_ok=True)


def dump_here(run_dir: Path, timeout_s: float = ANSWER_S) -> list[tuple[str, str]]:
    """(name, stacks) of each process of the run on this machine; of one that does not answer, why there are none."""
    asked, found = [], []
    for process in registered(run_dir):
        if not process.is_here:
            continue
        try:
            os.truncate(process.file, 0)
            os.kill(process.pid, signal.SIGUSR2)
            asked.append(process)
        except OSError as error:
            found.append((process.name, f"not asked: {error.strerror}\n"))
    deadline = time.monotonic() + timeout_s
    for process in asked:
        text = _answer(process.file, deadline)
        found.append((process.name, text or f"no answer within {timeout_s:.0f} s: stopped, or waiting for a device\n"))
    return sorted(found)


def _answer(path: Path, deadline: float) -> str:
    """What came, once no more comes; at most until the deadline."""
    size = -1
    while True:
        try:
            there = path.stat().st_size
        except OSError:
            return ""
        if there == size and there:
            break
        if time.monotonic() > deadline:
            break
        size = there
        time.sleep(0.1)
    with path.open("rb") as file:
        return file.read(MAX_BYTES).decode(errors="replace")


def host_name() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname())


def began(pid: int) -> int:
    """When a process of this machine began, in clock ticks since its boot; 0 where there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
