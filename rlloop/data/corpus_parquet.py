"""Corpora in Parquet: reading a row group at a time, and writing that can be taken up again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlloop.data.corpus_format import (
    CORPUS_FILE,
    SCHEMA,
    SPEC_KEY,
    Corpus,
    CorpusRow,
    CorpusSpec,
    check_shard,
    damaged,
    decode,
    encode,
)
from rlloop.data.features import FORMAT, sync

VERSION = 1
GROUP_ROWS = 64
SHARD_ROWS = 512  # 117 MB; the order of shards is shuffled, so small ones mix better
SHARD_NAME = re.compile(r"part-(\d{5,})\.parquet")


class ParquetCorpus(Corpus):
    """A folder that CorpusWriter finished."""

    def __init__(self, folder: Path):
        self.folder, self.table = folder, folder / CORPUS_FILE
        path = self.table
        found = _read_description(path)
        try:
            self.spec, self.group_rows = CorpusSpec.from_json(found), int(found["group_rows"])
            self.files = [str(shard["file"]) for shard in found["shards"]]
            self.shard_rows = np.array([int(shard["rows"]) for shard in found["shards"]], np.int64)
            sizes = [int(shard["bytes"]) for shard in found["shards"]]
            rows = int(found["rows"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _foreign(path, error) from None
        if not rows or rows != len(self) or self.shard_rows.min() < 1 or self.group_rows < 1:
            raise ValueError(
                f"{path}: rows is {rows}, its shards hold {len(self)}; expected the same number and at least 1; "
                "prepare the corpus again"
            )
        self._columns = ["id", "prompt", "mean", "std", *self.spec.feature_shapes, "scores"]
        self._check_files(sizes)

    def _check_files(self, sizes: Sequence[int]) -> None:
        """Compares names and sizes with the folder, so that a truncated copy is found before a run starts."""
        there = {entry.name: entry.stat().st_size for entry in os.scandir(self.folder)}
        for name, size in zip(self.files, sizes, strict=True):
            if not SHARD_NAME.fullmatch(name):
                raise ValueError(f"{self.folder / CORPUS_FILE} names the shard {name!r}; expected part-00000.parquet")
            if name not in there:
                raise ValueError(f"{self.folder / name} is missing; copy the corpus again, all {len(sizes)} shards")
            if there[name] != size:
                raise ValueError(
                    f"{self.folder / name} has {there[name]} bytes, {CORPUS_FILE} says {size}; copy the shard again"
                )

    def read_group(self, shard: int, group: int) -> Sequence[CorpusRow]:
        path, rows = self.folder / self.files[shard], int(self.shard_rows[shard])
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                check_shard(path, file, self.spec)
                expected = (rows, -(-rows // self.group_rows))
                if (file.metadata.num_rows, file.num_row_groups) != expected:
                    raise ValueError(
                        f"{path} has {file.metadata.num_rows} rows in {file.num_row_groups} groups, {CORPUS_FILE} says "
                        f"{expected[0]} in {expected[1]}; copy the corpus again"
                    )
                table = file.read_row_group(group, columns=self._columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from None
        return _RowGroup(path, group * self.group_rows, table, self.spec)


class _RowGroup(Sequence[CorpusRow]):
    """A row group as it is stored; a row is decoded when it is asked for."""

    def __init__(self, path: Path, first: int, table: pa.Table, spec: CorpusSpec):
        self.path, self.first, self.spec = path, first, spec
        self.columns = {name: table[name].combine_chunks() for name in table.column_names}

    def __len__(self) -> int:
        return len(self.columns["id"])

    def __getitem__(self, n: int) -> CorpusRow:
        try:
            return decode({name: column[n] for name, column in self.columns.items()}, self.spec)
        except ValueError as error:
            raise ValueError(
                f"{self.path}: row {self.first + n} does not fit {CORPUS_FILE} ({error}); prepare the corpus again"
            ) from None


class CorpusWriter:
    """Adds rows to a corpus: added -> in a shard -> listed in corpus.json.

    A shard appears complete or not at all, and corpus.json when all rows are in shards. A writer that was killed is
    taken up again by another with the same `spec`, as is a finished corpus that gets more rows: `known` holds the ids
    that are there. One process writes.

        with CorpusWriter(folder, spec) as writer:
            for clip in clips:
                if clip.id not in writer.known:
                    writer.add(row(clip))

    Args:
        folder: made if it is not there.
        shard_rows: rows of a shard; so many encoded rows are held in memory.
    Raises:
        ValueError: the folder holds a corpus of another specification, or a damaged shard; one line.
    """

    def __init__(self, folder: Path | str, spec: CorpusSpec, shard_rows: int = SHARD_ROWS):
        self.folder, self.spec, self.shard_rows = Path(folder), spec, shard_rows
        if shard_rows < 1 or set(spec.feature_shapes) not in (set(), {"text", "text_c"}):
            raise ValueError(
                f"{folder}: shard_rows is {shard_rows} and features are {sorted(spec.feature_shapes)}; expected at "
                "least 1, and text with text_c or nothing"
            )
        self.known: set[str] = set()
        self._shards: list[dict] = []
        self._pending: list[dict] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for scratch in self.folder.glob("*.tmp"):
                scratch.unlink()
        except OSError as error:
            raise ValueError(f"{folder} cannot be written to: {error.strerror}; choose another folder") from None
        for path in sorted(p for p in self.folder.iterdir() if SHARD_NAME.fullmatch(p.name)):
            self._take_up(path)

    def __enter__(self) -> CorpusWriter:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is None:
            self.finish()

    def add(self, row: CorpusRow) -> None:
        """Adds a row; every `shard_rows` rows publish a shard.

        Raises:
            ValueError: an id that is there, a shape or score that is not the corpus's, or values that float16 lacks.
        """
        if row.id in self.known:
            raise ValueError(f"{self.folder} holds the id {row.id!r} already; ids must differ")
        self._pending.append(encode(row, self.spec))
        self.known.add(row.id)
        if len(self._pending) >= self.shard_rows:
            self.flush()

    def flush(self) -> None:
        """Publishes the rows that are in no shard yet as one, however few."""
        if not self._pending:
            return
        number = 1 + max((_number(shard["file"]) for shard in self._shards), default=-1)
        path = self.folder / f"part-{number:05d}.parquet"
        metadata = {SPEC_KEY: json.dumps(self.spec.to_json())}
        table = pa.Table.from_pylist(self._pending, schema=SCHEMA.with_metadata(metadata))
        scratch = path.with_name(f"{path.name}.tmp")
        pq.write_table(table, scratch, row_group_size=GROUP_ROWS, **FORMAT)
        sync(scratch)
        os.replace(scratch, path)
        sync(self.folder)
        self._list(path, len(table))
        self._pending = []

    def finish(self) -> None:
        """Publishes what is left, then corpus.json: from here on the corpus can be opened.

        Raises:
            ValueError: there are no rows.
        """
        self.flush()
        if not self._shards:
            raise ValueError(f"{self.folder} gets no rows; a corpus needs at least one")
        found = {
            "format": "rlloop corpus",
            "version": VERSION,
            "rows": sum(shard["rows"] for shard in self._shards),
            **self.spec.to_json(),
            "group_rows": GROUP_ROWS,
            "shards": self._shards,
        }
        scratch = self.folder / f"{CORPUS_FILE}.tmp"
        scratch.write_text(json.dumps(found, indent=1), encoding="utf-8")
        sync(scratch)
        os.replace(scratch, self.folder / CORPUS_FILE)
        sync(self.folder)

    def _take_up(self, path: Path) -> None:
        """Lists a shard that an earlier writer published."""
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                check_shard(path, file, self.spec)
                self.known.update(file.read(columns=["id"])["id"].to_pylist())
                self._list(path, file.metadata.num_rows)
        except (pa.ArrowException, OSError) as error:
            raise damaged(path, error) from None

    def _list(self, path: Path, rows: int) -> None:
        self._shards.append({"file": path.name, "rows": rows, "bytes": path.stat().st_size})


def _number(name: str) -> int:
    found = SHARD_NAME.fullmatch(name)
    assert found, name
    return int(found[1])


def _read_description(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version = found["version"]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise _foreign(path, error) from None
    if version != VERSION:
        raise ValueError(f"{path}: version is {version}, this rlloop reads {VERSION}; prepare the corpus again")
    return found


def _foreign(path: Path, error: BaseException) -> ValueError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return ValueError(f"{path} is damaged or foreign ({reason}); prepare the corpus again")
