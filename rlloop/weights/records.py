"""What is known of the files that lie here: lock.json, written when a file has been checked, and checksums.

Life of a file: absent -> partial -> checked -> in place with its record. A file without a record was put there by hand.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from rlloop.weights.catalogue import Entry, File

LOCK_FILE = "lock.json"
PARTIAL = ".partial"
CHUNK = 1 << 22


@dataclass(frozen=True)
class Record:
    """Where a file came from. `checked`: against "catalogue", "server", "record" (an earlier one) or "first use"."""

    num_bytes: int
    sha256: str
    source: str
    checked: str
    etag: str
    mtime_ns: int
    time: str


def read_records(entry: Entry) -> dict[str, Record]:
    """Records by file name; none where lock.json is missing.

    Raises:
        ValueError: lock.json is damaged.
    """
    path = entry.folder / LOCK_FILE
    try:
        return {name: Record(**record) for name, record in json.loads(path.read_text())["files"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, then `rlloop weights verify {entry.name}`") from None


def write_record(entry: Entry, file: File, *, sha256: str, source: str, checked: str, etag: str = "") -> Record:
    """Records a file that is in place."""
    stat = (entry.folder / file.name).stat()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = Record(stat.st_size, sha256, source, checked, etag, stat.st_mtime_ns, now)
    records = {**read_records(entry), file.name: record}
    path = entry.folder / LOCK_FILE
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"files": {name: asdict(r) for name, r in records.items()}}, indent=1) + "\n")
    os.replace(temporary, path)
    return record


def state(entry: Entry, file: File, records: dict[str, Record]) -> str:
    """ "verified", "present" (never checked, or changed since), "partial" or "absent"; reads no file."""
    path = entry.folder / file.name
    if not path.is_file():
        return "partial" if partial(entry, file).exists() else "absent"
    record, stat = records.get(file.name), path.stat()
    same = record is not None and (record.num_bytes, record.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    return "verified" if same else "present"


def partial(entry: Entry, file: File) -> Path:
    """Where a file lies while it is being fetched."""
    return entry.folder / PARTIAL / file.name


def digests(path: Path, kinds: set[str]) -> dict[str, str]:
    """Checksums of a file, each "kind:hex", in one reading; kinds are sha256, md5 and git (a git blob's sha1)."""
    sums = {kind: hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False) for kind in sorted(kinds)}
    if "git" in sums:
        sums["git"].update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            for value in sums.values():
                value.update(chunk)
    return {kind: f"{kind}:{value.hexdigest()}" for kind, value in sums.items()}


def kind_of(checksum: str) -> str:
    return checksum.split(":", 1)[0]


def first_wrong(found: dict[str, str], expected: tuple[str, ...]) -> str:
    """ "sha256 is ..., expected ..." for the first checksum that does not hold; nothing where all do."""
    for checksum in expected:
        kind = kind_of(checksum)
        if found[kind] != checksum:
            return f"{kind} is {found[kind].split(':')[1]}, expected {checksum.split(':')[1]}"
    return ""


def wrong_checksum(path: Path, expected: tuple[str, ...]) -> tuple[str, str]:
    """Compares a file with all checksums that are expected of it.

    Returns:
        its sha256 in hexadecimal, and what is wrong with it, if anything.
    """
    found = digests(path, {"sha256", *map(kind_of, expected)})
    return found["sha256"].removeprefix("sha256:"), first_wrong(found, expected)


@contextmanager
def only_one(entry: Entry) -> Iterator[None]:
    """Keeps others from changing an entry's folder at the same time.

    Raises:
        ValueError: another process does, or the disk refuses (permission, space).
    """
    try:
        entry.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(entry.folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(f"weights {entry.name}: another rlloop is at them; wait until it is done") from None
    except OSError as error:
        raise ValueError(
            f"{error.filename or entry.folder}: {error.strerror or error}; RLLOOP_WEIGHTS names another folder"
        ) from None
