"""Prompt features on disk: Parquet files, one row a prompt, found by content; written once and never changed.

    FOLDER/features.json       which encoders by the digest of their files, and the precision
    FOLDER/part-*.parquet      what one batch gave
    FOLDER/shard-*.parquet     parts merged
    FOLDER/*.tmp               half-written: no reader looks at it

A row holds key, prompt, text [77, 1024] and text_c [512] as bytes, and the shape of text. With FLAN-T5-large that is
318 kB a prompt in float32, as the reference stores it: 100 prompts 32 MB, 535 000 captions 170 GB. In float16 it is
half, and every value is off by at most 1/2048 of itself: five guided Euler steps of FluxAudio-S on the golden weights
then end 3e-5 of the largest latent away. A folder has one precision and one pair of encoders.

`rlloop.models.prompt_table` reads these files. The two rooms may not import each other: the layout is what they share.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

log = logging.getLogger(__name__)

SPEC_FILE = "features.json"
SCHEMA = pa.schema(
    [
        ("key", pa.binary(32)),
        ("prompt", pa.string()),
        ("text", pa.binary()),
        ("text_c", pa.binary()),
        ("shape", pa.list_(pa.int32())),
    ]
)
# Four rows a group: a look-up reads a group (1.3 MB, 0.4 ms), an index reads the keys of all (4 ms for 512 prompts).
ROWS_PER_GROUP = 4
SHARD_ROWS = 512  # 163 MB; merging holds about two of them in memory
LEFTOVER_S = 24 * 3600.0
FORMAT = {"compression": "none", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
PRECISIONS = ("float32", "float16")


@dataclass(frozen=True)
class FeatureSpec:
    """What decides the values in a folder. t5, clap: digests of the encoders' files; dtype: float32 or float16."""

    t5: str
    clap: str
    dtype: str = "float32"

    @property
    def identity(self) -> str:
        """Digest of the encoders: part of every key, so that features of other encoders are never found."""
        return hashlib.sha256(f"t5 {self.t5} clap {self.clap}".encode()).hexdigest()


def feature_key(identity: str, prompt: str) -> bytes:
    """sha256 [32 bytes] of encoders and exact prompt, spelling and blanks included."""
    return hashlib.sha256(f"{identity}\0{prompt}".encode()).digest()


class FeatureFolder:
    """A folder that prompts' features are added to, by any number of processes: part -> merged into a shard.

    Parts and shards appear complete or not at all, and are named by the keys in them, so one that is written twice
    replaces itself by the same rows.

    Args:
        folder: made if it is not there; on a cluster a shared one.
        spec: what its features are.
    Raises:
        ValueError: the folder holds features of other encoders or another precision, or cannot be written to.
    """

    def __init__(self, folder: Path | str, spec: FeatureSpec):
        self.folder, self.spec = Path(folder), spec
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            found = self._claim()
        except OSError as error:
            raise ValueError(f"{folder} cannot be written to: {error.strerror}; choose another folder") from None
        for name, value in asdict(spec).items():
            if found.get(name) != value:
                raise ValueError(
                    f"{self.folder} holds features with {name} {str(found.get(name))[:12]}, these have {value[:12]}; "
                    "choose another folder, or the same encoders and precision"
                )

    def _claim(self) -> dict:
        """Writes features.json unless it is there, and returns what it says."""
        path = self.folder / SPEC_FILE
        if not path.exists():
            scratch = self._scratch(path)
            scratch.write_text(json.dumps({**asdict(self.spec), "identity": self.spec.identity}, indent=1))
            try:
                os.link(scratch, path)  # unlike a rename it fails if another process was first
            except FileExistsError:
                pass
            finally:
                scratch.unlink()
        try:
            return dict(json.loads(path.read_text()))
        except (ValueError, TypeError):
            raise ValueError(f"{path} is damaged; choose another folder, or remove it and all beside it") from None

    def key(self, prompt: str) -> bytes:
        return feature_key(self.spec.identity, prompt)

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))

    def known(self) -> set[bytes]:
        """Keys of every row that is there; a damaged file is named in the log and left out."""
        return {key for path in self.files() for key in self._keys_or_none(path) or ()}

    def missing(self, prompts: Iterable[str]) -> list[str]:
        """The prompts without features, each once, in their order."""
        known = self.known()
        return [prompt for prompt in dict.fromkeys(prompts) if self.key(prompt) not in known]

    def write(self, prompts: Sequence[str], text: np.ndarray, text_c: np.ndarray) -> Path:
        """Adds a part, complete and synced to disk before it has its name.

        Args:
            text: [B, 77, D]; text_c: [B, E]; stored in the folder's precision.
        """
        text, text_c = (np.ascontiguousarray(x, dtype=self.spec.dtype) for x in (text, text_c))
        table = pa.table(
            {
                "key": [self.key(prompt) for prompt in prompts],
                "prompt": list(prompts),
                "text": [row.tobytes() for row in text],
                "text_c": [row.tobytes() for row in text_c],
                "shape": [list(text.shape[1:])] * len(prompts),
            },
            schema=SCHEMA,
        )
        return self._publish("part", table)

    def merge(self, shard_rows: int = SHARD_ROWS) -> None:
        """Merges small files into shards of about `shard_rows`, and removes what killed writers left a day ago.

        A shard has its name before its parts are removed, so a reader finds every row at any moment; one that holds an
        older list of files has to list them again.
        """
        for scratch in self.folder.glob("*.tmp"):
            with contextlib.suppress(FileNotFoundError):  # complete by now, under its own name
                if time.time() - scratch.stat().st_mtime > LEFTOVER_S:
                    scratch.unlink()
        group: list[Path] = []
        rows = 0
        for path in self.files():
            count = len(self._keys_or_none(path) or ())
            if not 0 < count < shard_rows // 2:
                continue
            group, rows = [*group, path], rows + count
            if rows >= shard_rows:
                self._merge_files(group)
                group, rows = [], 0
        if len(group) > 1:
            self._merge_files(group)

    def _merge_files(self, paths: Sequence[Path]) -> None:
        read: dict[Path, pa.Table] = {}
        for path in paths:
            try:
                read[path] = pq.read_table(path, page_checksum_verification=True)
            except FileNotFoundError:
                return  # another process is merging
            except (pa.ArrowException, OSError) as error:
                log.warning("%s", damaged(path, error))
        if len(read) < 2:
            return
        table = pa.concat_tables(read.values())
        first_row = {key: row for row, key in reversed(list(enumerate(table["key"].to_pylist())))}
        shard = self._publish("shard", table.take(sorted(first_row.values())))
        for path in read:
            if path != shard:
                path.unlink(missing_ok=True)

    def _publish(self, kind: str, table: pa.Table) -> Path:
        digest = hashlib.sha256(b"".join(sorted(table["key"].to_pylist()))).hexdigest()
        path = self.folder / f"{kind}-{digest[:24]}.parquet"
        scratch = self._scratch(path)
        try:
            pq.write_table(table, scratch, row_group_size=ROWS_PER_GROUP, **FORMAT)
            sync(scratch)
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
        sync(self.folder)
        return path

    def _scratch(self, path: Path) -> Path:
        return path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")

    def _keys_or_none(self, path: Path) -> list[bytes] | None:
        """The keys of a file; None for one that another process has merged meanwhile, or that is damaged."""
        try:
            with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
                return file.read(columns=["key"])["key"].to_pylist()
        except FileNotFoundError:
            return None
        except (pa.ArrowException, OSError, KeyError) as error:
            log.warning("%s", damaged(path, error))
            return None


def damaged(path: Path, error: BaseException) -> str:
    """One line on a file that cannot be read."""
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    return f"{path} is damaged and left out ({reason}); its prompts count as missing: remove the file"


def sync(path: Path) -> None:
    """Flushes a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
