"""The journal: an append-only file of records, each a line `crc32 length json`, flushed before it is acknowledged.

A crash may leave one incomplete record at the end: replay cuts it off. Damage anywhere else is refused.
"""

from __future__ import annotations

import errno
import json
import os
import time as clock
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path

from rlloop.loop import records as r


class Journal:
    """One file under run_dir. `open -> replayed -> appending`; `append` returns after fsync."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = None
        self._broken = ""

    def replay(self) -> Iterator[tuple[r.Record, float]]:
        """Yields (record, unix time) from the start; truncates an incomplete last record.

        Raises:
            ValueError: a damaged record that is not the last one.
        """
        end = yield from self.read()
        if self.path.exists() and self.path.stat().st_size > end:
            with self.path.open("r+b") as file:
                file.truncate(end)

    def read(self) -> Generator[tuple[r.Record, float], None, int]:
        """As `replay`, but leaves the file alone; returns the byte behind the last complete record."""
        data = self.path.read_bytes() if self.path.exists() else b""
        offset = 0
        while offset < len(data):
            end = data.find(b"\n", offset)
            record = decode(data[offset:end]) if end >= 0 else None
            if record is None and end >= 0 and data.find(b"\n", end + 1) >= 0:
                raise ValueError(
                    f"{self.path}: the record at byte {offset} fails its checksum and is not the last one; "
                    "the file was changed from outside: restore it from a backup or start a new run_dir"
                )
            if record is None:
                break
            yield r.from_json(record)
            offset = end + 1
        return offset

    def append(self, record: r.Record) -> float:
        """Writes one record; returns its unix time.

        Raises:
            OSError: it cannot be written. What was of it is cut off again, and no later record is taken: what follows
                an unacknowledged record would contradict it at the next replay.
        """
        if self._broken:
            raise OSError(errno.EIO, f"an earlier record failed: {self._broken}")
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)
        time, end = clock.time(), self._file.tell()
        data = encode(r.to_json(record, time))
        try:
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._broken = error.strerror or str(error)
            os.ftruncate(self._file.fileno(), end)
            raise
        return time


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
