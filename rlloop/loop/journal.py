"""The journal: an append-only file of records, each a line `crc32 length json`, flushed before it is acknowledged.

Several threads may write; those that flush at the same time share one sync, which is what costs (a group commit).

A crash may leave records at the end that never reached the disk whole: replay cuts them off. Each record names the
byte up to which the file was on disk when it was written (`synced`), so damage before that is known and refused.

So that a restart does not read a run from its start, `compact` closes a part: the state after it becomes a snapshot,
its records are archived, and `journal.log` begins anew with the number of the next part. That number alone decides:
archives and snapshots of the same part or later ones are leftovers of a compaction that did not come to its end.

    journal.log   snapshot-000002   archive/000001.gz   archive/000002.gz      (part 3 is being written)
"""

from __future__ import annotations

import errno
import gzip
import json
import logging
import os
import threading
import time as clock
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlloop.loop import records as r

log = logging.getLogger(__name__)
PART, SYNCED = "Part", "synced"
KEPT_SNAPSHOTS = 2
GZIP_LEVEL = 6


class Journal:
    """One run's. `open -> restored | replayed -> (appending | compacting)*`; `append` is `write`, then `flush`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = None
        self._broken = ""
        self._writing, self._syncing = threading.Lock(), threading.Lock()  # who needs both takes _syncing first
        self._written = self._synced = 0  # records of this process
        self._end = self._safe_end = 0  # bytes of the file, and those of them that are synced

    @property
    def num_bytes(self) -> int:
        """Of the current part, which a restart reads."""
        return self.path.stat().st_size if self.path.exists() else 0

    def restore(self) -> tuple[Any, Iterator[tuple[r.Record, float]]]:
        """The newest readable snapshot (None: there is none) and the records after it; cuts an incomplete last one off.

        Raises:
            ValueError: a record that was acknowledged is damaged, or an archive that is needed missing or damaged.
        """
        number, _ = self._tail()
        for after in range(number - 1, 0, -1):
            state = self._snapshot(after)
            if state is not None:
                return state, self.replay(after)
        return None, self.replay()

    def replay(self, after: int = 0) -> Iterator[tuple[r.Record, float]]:
        """Yields (record, unix time) of the parts behind part `after`; truncates an incomplete last record.

        Raises:
            ValueError: as `restore`.
        """
        number, offset = self._tail()
        end = yield from self.read(after)
        if number > 1 and offset == 0:
            self._begin_part(number)  # its first line was torn; no record came before it
        elif self.num_bytes > end:
            with self.path.open("r+b") as file:
                file.truncate(end)

    def read(self, after: int = 0) -> Generator[tuple[r.Record, float], None, int]:
        """As `replay`, but leaves the files alone; returns the byte behind the last complete record."""
        data = self.path.read_bytes() if self.path.exists() else b""
        number, offset = self._part(data)
        for earlier in range(after + 1, number):
            yield from _records(self._archive(earlier), self._archived(earlier), 0, is_last=False)[0]
        found, offset = _records(self.path, data, offset, is_last=True)
        yield from found
        return offset

    def append(self, record: r.Record) -> float:
        """Writes one record to disk; returns its unix time.

        Raises:
            OSError: see write and flush.
        """
        time = self.write(record)
        self.flush()
        return time

    def write(self, record: r.Record) -> float:
        """Writes one record behind the others, not yet to disk; returns its unix time.

        Raises:
            OSError: it cannot be written. What was of it is cut off again, and no later record is taken: what follows
                an unacknowledged record would contradict it at the next replay.
        """
        with self._writing:
            self._refuse_if_broken()
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
                sync_folder(self.path.parent)
                self._end = self._safe_end = self._file.tell()
            time = round(clock.time(), 3)  # as a replay reads it
            data, done = encode({**r.to_json(record, time), SYNCED: self._safe_end}), 0
            try:
                while done < len(data):
                    done += self._file.write(data[done:])
            except OSError as error:
                self._break_off(error, self._end)
                raise
            self._end += done
            self._written += 1
            return time

    def flush(self) -> None:
        """Returns when everything that was written before this call is on disk.

        Raises:
            OSError: it cannot be: nothing behind the last flush counts, and no later record is taken.
        """
        asked = self._written
        with self._syncing:  # who waited here finds its records synced by the one before
            if self._synced >= asked:
                return
            with self._writing:
                self._refuse_if_broken()
                written, end = self._written, self._end
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                with self._writing:
                    self._break_off(error, self._safe_end)
                raise
            self._synced, self._safe_end = written, end

    def _break_off(self, error: OSError, end: int) -> None:
        self._broken = error.strerror or str(error)
        os.ftruncate(self._file.fileno(), end)

    def _refuse_if_broken(self) -> None:
        if self._broken:
            raise OSError(errno.EIO, f"an earlier record failed: {self._broken}")

    def compact(self, state: Any) -> int:
        """Closes the current part: `state` is what all records so far lead to, plain JSON. Returns its bytes.

        Raises:
            OSError: something cannot be written. Until the last step the journal goes on as if nothing was asked.
        """
        with self._syncing, self._writing:
            self._refuse_if_broken()
            size = self._compact(state)
            self._synced = self._written
            return size

    def _compact(self, state: Any) -> int:
        data = self.path.read_bytes() if self.path.exists() else b""
        number, offset = self._part(data)
        archive = self._archive(number)
        archive.parent.mkdir(exist_ok=True)
        write_durably(archive, gzip.compress(data[offset:], GZIP_LEVEL, mtime=0))
        sync_folder(self.path.parent)
        snapshot = encode({"part": number, "state": state})
        write_durably(self._snapshot_path(number), snapshot)
        try:
            self._begin_part(number + 1)
        except OSError as error:  # which of the two files a restart would find is not known
            self._broken = error.strerror or str(error)
            raise
        for old in range(1, number - KEPT_SNAPSHOTS + 1):
            self._snapshot_path(old).unlink(missing_ok=True)
        return len(snapshot)

    # ---- parts

    def _begin_part(self, number: int) -> None:
        """The step that decides: from here on the records before are those of the archive."""
        if self._file is not None:
            self._file.close()
            self._file = None
        write_durably(self.path, encode({"type": PART, "number": number, "time": round(clock.time(), 3)}))

    def _tail(self) -> tuple[int, int]:
        """Number of the current part, and where its records begin."""
        if not self.path.exists():
            return self._part(b"")
        with self.path.open("rb") as file:
            return self._part(file.readline())

    def _part(self, data: bytes) -> tuple[int, int]:
        """As `_tail`, of the current part's bytes; (n, 0) for n > 1 where its first line is torn."""
        line, end, _ = data.partition(b"\n")
        first = decode(line) if end else None
        if first is not None and first.get("type") == PART:
            return int(first["number"]), len(line) + 1
        if first is not None:
            return 1, 0
        archived = [int(path.stem) for path in self._archive(1).parent.glob("[0-9]*.gz")]
        return max(archived, default=0) + 1, 0

    def _archive(self, number: int) -> Path:
        return self.path.parent / "archive" / f"{number:06d}.gz"

    def _archived(self, number: int) -> bytes:
        path = self._archive(number)
        try:
            return gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path}: part {number} of the journal cannot be read ({error}); restore it from a backup"
            ) from None

    def _snapshot_path(self, number: int) -> Path:
        return self.path.parent / f"snapshot-{number:06d}"

    def _snapshot(self, number: int) -> Any:
        """The state after part `number`; None, with a line in the log, where it is missing or damaged."""
        path = self._snapshot_path(number)
        try:
            found = decode(path.read_bytes().removesuffix(b"\n"))
        except FileNotFoundError:
            return None
        if found is None or found.get("part") != number:
            log.warning("%s: fails its checksum; the records before it are read instead", path)
            return None
        return found["state"]


@dataclass(frozen=True)
class Cut:
    """The whole lines of a journal's current part, and what of the run they have reached: (part, turns in it)."""

    data: bytes
    state: tuple[int, int]


def take_cut(path: Path) -> Cut:
    """A journal as it is now, while it is written.

    Two of one `state` have no turn in between: no cohort was selected, on which the trainer could have gone on, and no
    version published, whose rollouts could be gone.
    """
    data = path.read_bytes() if path.exists() else b""
    data = data[: data.rfind(b"\n") + 1]
    first = decode(data.partition(b"\n")[0]) or {}
    turns = sum(data.count(b'"type":"%s"' % kind) for kind in (b"Published", b"Selected"))
    return Cut(data, (int(first.get("number", 1)), turns))


def _records(path: Path, data: bytes, offset: int, is_last: bool) -> tuple[list[tuple[r.Record, float]], int]:
    """The records of a part from byte `offset` on, and the byte behind the last complete one."""
    found = []
    while offset < len(data):
        end = data.find(b"\n", offset)
        record = decode(data[offset:end]) if end >= 0 else None
        if record is None and (not is_last or _synced_behind(data, offset) > offset):
            raise ValueError(
                f"{path}: the record at byte {offset} fails its checksum and is not of the last ones, which a crash "
                "may cut; the file was changed from outside: restore it from a backup or start a new run_dir"
            )
        if record is None:
            break
        record.pop(SYNCED, None)
        found.append(r.from_json(record))
        offset = end + 1
    return found, offset


def _synced_behind(data: bytes, offset: int) -> int:
    """The byte up to which the file was on disk, as the last whole record behind `offset` knows it.

    After a loss of power later pages of one group may be there and earlier ones not: none of it was acknowledged.
    """
    whole = filter(None, map(decode, data[offset:].split(b"\n")[:-1]))  # behind the last newline nothing is whole
    return max((record.get(SYNCED, len(data)) for record in whole), default=0)


def write_durably(path: Path, data: bytes) -> None:
    """Complete under its name or not there, also after a loss of power."""
    scratch = path.with_name(f"{path.name}.tmp")
    with scratch.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def encode(record: dict) -> bytes:
    body = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %d %s\n" % (zlib.crc32(body), len(body), body)


def decode(line: bytes) -> dict | None:
    """The record of a line without its newline, or None when length or checksum disagree."""
    parts = line.split(b" ", 2)
    if len(parts) != 3 or not parts[1].isdigit() or len(parts[2]) != int(parts[1]):
        return None
    if parts[0] != b"%08x" % zlib.crc32(parts[2]):
        return None
    return json.loads(parts[2])
