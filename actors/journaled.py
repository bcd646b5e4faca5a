"""What makes the buffer durable: its journal, the state that follows from it, one call at a time, and its end."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from actors.session import Session
from rlloop.loop import records as r
from rlloop.loop.journal import Journal
from rlloop.loop.ledger import Ledger
from rlloop.loop.ledger_state import OlderSnapshot
from rlloop.recipes.disk import free_bytes, full_disk, kept_free
from rlloop.recipes.run_state import RunState

log = logging.getLogger(__name__)
DISK_EVERY_S = 1.0


def in_turn(method: Callable) -> Callable:
    """A method that reads or changes the state: one call at a time."""

    @wraps(method)
    def call(self: Journaled, *args: Any) -> Any:
        with self._turn:
            return method(self, *args)

    return call


def acknowledged(method: Callable) -> Callable:
    """As `in_turn`, and the answer leaves when all that it rests on is on disk: its own records and those before."""
    turned = in_turn(method)

    @wraps(method)
    def call(self: Journaled, *args: Any) -> Any:
        answer = turned(self, *args)
        self._flush()
        return answer

    return call


class Journaled:
    """Life: replaying -> running -> stopping. Every change is a record, journaled first and then folded into the state.

    Its restart replays the journal to the end, so it rolls nothing back.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.config = session.config
        self._turn = threading.RLock()
        self._lock = lock_journal(session.path, self.config.loop.wait_timeout_s)
        self.journal = Journal(session.path / "journal" / "journal.log")
        self.state = RunState(self.config, session.plan)
        self._restore()
        self.compact_at = self.config.limits.journal_tail
        self.kept_free, self.free_bytes = kept_free(session.path, self.config), free_bytes
        self._disk_seen = -DISK_EVERY_S
        self.stop_reason = ""
        self.fatal = ""
        self.messages: deque[str] = deque(maxlen=50)

    def _restore(self) -> None:
        snapshot, records = self.journal.restore()
        try:
            if snapshot is not None:
                self.state.load(snapshot)
        except OlderSnapshot as error:
            log.warning("%s: the snapshot is left aside, all records are read: %s", self.journal.path, error)
            self.state, records = RunState(self.config, self.session.plan), self.journal.replay()
        try:
            for record, when in records:
                self.state.fold(record, when)
        except (AssertionError, IndexError) as error:
            said = " ".join(str(error).split())[:160]
            raise ValueError(f"{self.journal.path}: a record contradicts those before it: {said}") from None

    @property
    def ledger(self) -> Ledger:
        return self.state.ledger

    def stop(self, reason: str) -> None:
        """Ends the gate and answers the trainer with stop; not journaled: a restarted driver goes on."""
        self.stop_reason = self.stop_reason or reason

    def _do(self, record: r.Record) -> None:
        """Journals first, then folds; who answers for it flushes before."""
        if newer_epoch(self.session.path) > self.session.epoch:
            log.error("a newer epoch than %d runs on %s: this buffer ends", self.session.epoch, self.session.run_dir)
            os._exit(1)
        try:
            when = self.journal.write(record)
        except OSError as error:
            self._no_disk(error)
            raise
        self.state.fold(record, when)
        if self.journal.num_bytes > self.compact_at:
            self._compact()

    def _compact(self) -> None:
        """A snapshot instead of what a restart would read; not before as many bytes again as it has itself."""
        try:
            size = self.journal.compact(self.state.dump())
        except OSError as error:
            log.warning("%s: no snapshot (%s); the journal goes on without", self.session.run_dir, error)
            size = self.compact_at
        self.compact_at = max(self.config.limits.journal_tail, 2 * size)

    def _watch_disk(self) -> None:
        """Ends the run while there is still room for its last checkpoint."""
        now = time.monotonic()
        if now < self._disk_seen + DISK_EVERY_S or self.fatal:
            return
        self._disk_seen, free = now, self.free_bytes(self.session.path)
        if free < self.kept_free:
            self._end(full_disk(self.session.path, free, self.kept_free))

    def _flush(self) -> None:
        """Waits until what was journaled so far is on disk.

        Raises:
            OSError: it cannot be; the run ends.
        """
        try:
            self.journal.flush()
        except OSError as error:
            self._no_disk(error)
            raise

    @in_turn
    def _no_disk(self, error: OSError) -> None:
        self._end(
            f"{self.session.run_dir}: cannot write ({error.strerror}); nothing committed is lost: "
            "free space there and repeat the command"
        )

    def _end(self, reason: str) -> None:
        """The run ends with this line and a status other than zero."""
        self.fatal = self.fatal or reason
        self.stop(self.fatal)


def newer_epoch(run_dir: Path) -> int:
    """The highest epoch that a driver has taken in this run directory; 0 when none has."""
    with contextlib.suppress(FileNotFoundError):  # not a glob: every record asks
        return max((int(name) for name in os.listdir(run_dir / "epochs") if name.isdecimal()), default=0)
    return 0


def lock_journal(run_dir: Path, timeout_s: float):
    """Holds the journal for this process; waits for an old buffer to be gone.

    Raises:
        TimeoutError: another process holds it still.
    """
    path = run_dir / "journal" / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"buffer waits for the buffer of an earlier epoch on {path} since {timeout_s:.0f} s"
                ) from None
            time.sleep(0.2)
