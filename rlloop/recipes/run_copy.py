"""A run's copy in an object store: where the run's own disk is gone, it goes on from there.

The loop works in a directory, because a journal that is appended and synced, locks and mapped weights need one; objects
can only be put (docs/decisions/0022). So a name there ends in the checksum of its bytes and never changes, and the
manifest, put last, always names one whole state of the run. No rename is needed.

    s3://bucket/run/manifest.json
    s3://bucket/run/files/journal/journal.log@0c1d2e3f
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow import fs

from rlloop.loop import checkpoints
from rlloop.loop.files import as_kind, is_inside
from rlloop.loop.journal import Cut, take_cut

MANIFEST, FILES, JOURNAL = "manifest.json", "files", "journal/journal.log"
LEFT_OUT = {"driver.lock", "lock", "ray.json", "ray_train", "stacks"}  # of this start and its machine
TRIES, CHUNK = 5, 1 << 22
GCS_LIMIT = "retry_limit_seconds=60"  # Google's client asks a store that does not answer for a quarter of an hour


class Changed(Exception):
    """A file is not what it was a moment ago."""


class Superseded(Exception):
    """A later start of the run, on another machine, keeps the copy now."""


@dataclass(frozen=True)
class Manifest:
    """One state of a run. `files`: path -> (crc32, bytes)."""

    epoch: int
    digest: str  # of the configuration
    time: float
    files: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class RunCopy:
    """The copy of one run at a URI that pyarrow knows: s3://, gs://, file://."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.store, self.root = open_store(uri)
        self._seen: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {}  # path -> (size and mtime, entry)

    def manifest(self) -> Manifest | None:
        """What the copy holds; None where there is none.

        Raises:
            ValueError: it is damaged or foreign, one line. OSError: the store does not answer.
        """
        path = f"{self.root}/{MANIFEST}"
        if self.store.get_file_info(path).type == fs.FileType.NotFound:
            return None
        with self.store.open_input_stream(path) as stream:
            data = stream.read()
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise ValueError(f"{self.uri}/{MANIFEST}: is no JSON; give another run_dir") from None
        found = as_kind(Manifest, value, f"{self.uri}/{MANIFEST}")
        if outside := [name for name in found.files if not is_inside(name)]:
            raise ValueError(f"{self.uri}/{MANIFEST}: names {outside[0]!r} outside the run; give another run_dir")
        return found

    # ---- to the store

    def update(self, folder: Path, epoch: int, digest: str) -> int:
        """Puts what is new of a run, then the manifest; returns the bytes put.

        Raises:
            Superseded: a later start wrote the copy. OSError: the store does not answer, or a file cannot be read.
            TimeoutError: cohorts and versions came too fast for one whole state; the next call may find one.
        """
        before = self.manifest()
        if before is not None and before.epoch > epoch:
            raise Superseded(f"{self.uri}: start {before.epoch} of this run writes it; this is start {epoch}")
        known = dict(before.files) if before is not None else {}
        for _ in range(TRIES):
            cut = take_cut(folder / JOURNAL)
            files, num_bytes = self._put_all(folder, cut, known)
            if files is not None and take_cut(folder / JOURNAL).state == cut.state:
                break
        else:
            raise TimeoutError(f"{self.uri}: versions come faster than they are copied; the next copy is tried later")
        manifest = Manifest(epoch, digest, time.time(), files)
        self._put(f"{self.root}/{MANIFEST}", json.dumps(asdict(manifest)).encode())
        for name in {object_name(*item) for item in known.items()} - {object_name(*item) for item in files.items()}:
            self._delete(f"{self.root}/{FILES}/{name}")
        return num_bytes

    def _put_all(self, folder: Path, cut: Cut, known: Mapping[str, tuple[int, int]]):
        """(path -> entry, bytes put); (None, bytes) where a file went meanwhile: the cut's state may need it."""
        files, num_bytes = {JOURNAL: (zlib.crc32(cut.data), len(cut.data))} if cut.data else {}, 0
        if cut.data and known.get(JOURNAL) != files[JOURNAL]:
            num_bytes += self._put(self._object(JOURNAL, files[JOURNAL]), cut.data)
        for name in names(folder):
            try:
                files[name] = self._entry(folder, name)
                if known.get(name) != files[name]:
                    num_bytes += self._put_file(folder / name, name, files[name])
            except (FileNotFoundError, Changed):
                self._seen.pop(name, None)
                return None, num_bytes
        return files, num_bytes

    def _entry(self, folder: Path, name: str) -> tuple[int, int]:
        """(crc32, bytes) of a file, read only where it changed since the last time."""
        path = folder / name
        status = path.stat()
        key = status.st_size, status.st_mtime_ns
        if self._seen.get(name, (None,))[0] != key:
            self._seen[name] = key, checksum(path)
        return self._seen[name][1]

    def _object(self, name: str, entry: tuple[int, int]) -> str:
        return f"{self.root}/{FILES}/{object_name(name, entry)}"

    def _put(self, path: str, data: bytes) -> int:
        with self._writer(path) as stream:
            stream.write(data)
        return len(data)

    def _put_file(self, path: Path, name: str, entry: tuple[int, int]) -> int:
        """Puts the first bytes of a file, as many as its entry says: an event file may have grown.

        Raises:
            Changed: they are others.
        """
        crc, left = 0, entry[1]
        with path.open("rb") as file, self._writer(self._object(name, entry)) as stream:
            while left and (chunk := file.read(min(CHUNK, left))):
                crc, left = zlib.crc32(chunk, crc), left - len(chunk)
                stream.write(chunk)
        if (crc, left) != (entry[0], 0):
            raise Changed(name)
        return entry[1]

    def _writer(self, path: str):
        if isinstance(self.store, fs.LocalFileSystem):  # an object store has no folders
            self.store.create_dir(path.rpartition("/")[0], recursive=True)
        return self.store.open_output_stream(path)

    def _delete(self, path: str) -> None:
        try:
            self.store.delete_file(path)
        except OSError:  # an object too many does no harm
            return

    # ---- from the store

    def restore(self, folder: Path, progress: Callable[[int, int], None]) -> bool:
        """Fetches the run into a folder that holds none; False where there is no copy. Goes on where it broke off.

        Args:
            progress: called with (bytes done, bytes in all).
        Raises:
            ValueError: a file is missing or fails its checksum, or the folder is not empty.
            OSError: the store does not answer.
        """
        found = self.manifest()
        if found is None:
            return False
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds files but no run; remove it, and the copy at {self.uri} is taken")
        scratch, done = folder.with_name(f"{folder.name}.fetched"), 0
        total = sum(size for _, size in found.files.values())
        for name, entry in found.files.items():
            target = scratch / name
            if not (target.is_file() and checksum(target) == entry):
                self._fetch(name, entry, target)
            done += entry[1]
            progress(done, total)
        for stray in [path for path in files_of(scratch) if str(path.relative_to(scratch)) not in found.files]:
            stray.unlink()
        if folder.exists():
            folder.rmdir()
        os.replace(scratch, folder)
        return True

    def _fetch(self, name: str, entry: tuple[int, int], target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.store.open_input_stream(self._object(name, entry)) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, CHUNK)
        except FileNotFoundError:
            raise ValueError(f"{self.uri}: {name} is missing from the copy; give another run_dir") from None
        if checksum(target) != entry:
            raise ValueError(f"{self.uri}: {name} fails its checksum; give another run_dir")


def open_store(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI, and the path in it.

    Raises:
        ValueError: no such scheme, or a URI with credentials. OSError: the store does not answer.
    """
    parts = urlsplit(uri)
    if parts.username or parts.password or "secret" in parts.query:
        raise ValueError("run_dir has credentials in it; leave them out, they are taken from the environment")
    if parts.scheme in ("gs", "gcs") and "retry_limit_seconds" not in parts.query:
        uri += f"{'&' if parts.query else '?'}{GCS_LIMIT}"
    try:
        store, root = fs.FileSystem.from_uri(uri)
    except ValueError as error:
        raise ValueError(f"run_dir {uri}: {str(error).splitlines()[0]}; known are s3://, gs:// and file://") from None
    return store, root.rstrip("/")


def names(folder: Path) -> Iterator[str]:
    """What of a run is copied beside the journal's current part: relative paths. Checkpoints have their marker."""
    for path in files_of(folder):
        name = str(path.relative_to(folder))
        parts = name.split("/")
        if LEFT_OUT.intersection(parts) or is_scratch(path.name) or name == JOURNAL:
            continue
        if parts[0] == "checkpoints" and not (folder / parts[0] / parts[1] / checkpoints.MARKER).exists():
            continue
        yield name


def is_scratch(name: str) -> bool:
    """Ours end in .tmp, safetensors' begin with it; a process that was killed leaves them."""
    return name.endswith(".tmp") or name.startswith(".tmp")


def files_of(folder: Path) -> list[Path]:
    return sorted(Path(place) / name for place, _, found in os.walk(folder) for name in found)


def object_name(name: str, entry: tuple[int, int]) -> str:
    return f"{name}@{entry[0]:08x}"


def checksum(path: Path) -> tuple[int, int]:
    """(crc32, bytes) of a file."""
    crc, size = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    return crc, size
