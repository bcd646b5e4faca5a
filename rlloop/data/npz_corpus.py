"""The baseline's corpora, read as they are: a folder of `{idx}.npz` and a table `npz.tsv` (reference.md section 6).

An npz holds mean and std [L, D], text_features [M, T] and text_features_c [C], all float32; idx is the row of the
table, from 0. The table has id and caption; every column of decimal numbers is a score, and an empty cell or NaN is a
missing one. Three places are known: FOLDER/npz.tsv beside the files or beside FOLDER/npz, and FOLDER.tsv beside FOLDER.

A file is a shard and a group of its own. The table is held in memory (about its size on disk).
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from rlloop.data.corpus_format import Corpus, CorpusRow, CorpusSpec

TABLE = "npz.tsv"
FEATURES = {"text": "text_features", "text_c": "text_features_c"}
NUMBERED = re.compile(r"(0|[1-9]\d*)\.npz")
MAX_BLOCK = 2**31 - 1  # pyarrow counts bytes of a block in 32 bits


def find_npz(folder: Path) -> tuple[Path, Path] | None:
    """The table and the folder of npz files; None if there is no table."""
    if (folder / TABLE).is_file():
        inner = folder / "npz"
        return folder / TABLE, inner if inner.is_dir() else folder
    beside = folder.parent / f"{folder.name}.tsv"
    return (beside, folder) if folder.is_dir() and beside.is_file() else None


class NpzCorpus(Corpus):
    """Opens table and names, and the first file for the shapes.

    Raises:
        ValueError: table and files do not fit each other (both numbers), or the first file is damaged; one line.
    """

    group_rows = 1

    def __init__(self, table: Path, folder: Path):
        self.folder, self.table = folder, table
        columns = _read_table(table)
        self._ids, self._prompts = columns["id"], columns["caption"]
        self.shard_rows = np.ones(_check_names(table, len(columns), folder), np.int64)
        self._scores = _scores(table, columns)
        arrays = _load(folder / "0.npz")
        shapes = {name: arrays[key].shape for name, key in FEATURES.items() if key in arrays}
        length, width = _matrix_shape(folder / "0.npz", arrays)
        self.spec = CorpusSpec((length, width), "", tuple(self._scores), shapes)

    def read_group(self, shard: int, group: int) -> Sequence[CorpusRow]:
        path = self.folder / f"{shard}.npz"
        arrays = _load(path)
        expected = {"mean": self.spec.latent_shape, "std": self.spec.latent_shape if "std" in arrays else None}
        expected |= {key: self.spec.feature_shapes.get(name) for name, key in FEATURES.items()}
        for key, shape in expected.items():
            found = arrays[key].shape if key in arrays else None
            if found != shape:
                raise ValueError(
                    f"{path}: {key} is {_words(found)}, 0.npz has {_words(shape)}; make the file again like the others"
                )
        features = {name: arrays[FEATURES[name]] for name in self.spec.feature_shapes}
        scores = {
            name: None if np.isnan(values[shard]) else float(values[shard]) for name, values in self._scores.items()
        }
        row_id, prompt = self._ids[shard].as_py() or "", self._prompts[shard].as_py() or ""
        return [CorpusRow(row_id, prompt, arrays["mean"], arrays.get("std"), features or None, scores)]


def _read_table(path: Path) -> pa.Table:
    try:
        table = csv.read_csv(
            path,
            # One block: types are inferred from the first, and a score may be missing in all of its rows.
            csv.ReadOptions(block_size=min(path.stat().st_size + 1, MAX_BLOCK)),
            csv.ParseOptions(delimiter="\t", newlines_in_values=True),
            csv.ConvertOptions(column_types={"id": pa.string(), "caption": pa.string()}),
        )
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a readable table: {str(error).splitlines()[0]}; write it again") from None
    for name in ("id", "caption"):
        if name not in table.column_names:
            raise ValueError(f"{path} has no column {name}; found {', '.join(table.column_names)}")
    return table


def _check_names(table: Path, rows: int, folder: Path) -> int:
    """Compares rows of the table with the files' numbers; returns how many."""
    there = {entry.name for entry in os.scandir(folder)}
    count = sum(bool(NUMBERED.fullmatch(name)) for name in there)
    if "0.npz" not in there:
        raise ValueError(
            f"{folder}/0.npz is missing: {table} has {rows} rows, the folder {count} npz files; files are numbered "
            "from 0, by the rows of the table"
        )
    if count != rows:
        raise ValueError(
            f"{table} has {rows} rows, {folder} has {count} npz files; expected one file for each row, from 0.npz to "
            f"{rows - 1}.npz"
        )
    for n in range(rows):
        if f"{n}.npz" not in there:
            raise ValueError(f"{folder}/{n}.npz is missing: {table} has {rows} rows, {count} npz files go further")
    return rows


def _scores(path: Path, table: pa.Table) -> dict[str, np.ndarray]:
    """Columns of decimal numbers, [N] float64 each; NaN is missing."""
    scores = {}
    for name in table.column_names:
        if pa.types.is_floating(table[name].type):
            values = pc.fill_null(table[name], float("nan")).to_numpy()
            for row in np.flatnonzero(np.isinf(values))[:1]:
                raise ValueError(f"{path}: {name} of row {row} is infinite; expected a number or an empty cell")
            scores[name] = values
    return scores


def _load(path: Path) -> Mapping[str, np.ndarray]:
    """The arrays of a file that are a corpus's, as float32."""
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("one array, not an archive")
            wanted = [key for key in ("mean", "std", *FEATURES.values()) if key in archive.files]
            arrays = {key: np.asarray(archive[key], np.float32) for key in wanted}
        if "mean" not in arrays:
            raise ValueError(f"it has {', '.join(archive.files) or 'no arrays'}, no mean")
        return arrays
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ValueError(f"{path} is damaged or no npz of a corpus ({reason}); make it again") from None


def _matrix_shape(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[int, int]:
    if arrays["mean"].ndim != 2:
        raise ValueError(f"{path}: mean is {_words(arrays['mean'].shape)}, expected [frames, channels]; make it again")
    return arrays["mean"].shape[0], arrays["mean"].shape[1]


def _words(shape: Sequence[int] | None) -> str:
    return "missing" if shape is None else str(list(shape))
