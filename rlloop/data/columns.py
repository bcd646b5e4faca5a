"""Columns of tables that users bring, as tensors and texts; what is wrong is one line with file, column and row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

WINNERS = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5}


def read_table(path: Path) -> pa.Table:
    """Reads JSON lines (.jsonl) or Parquet (any other name).

    Raises:
        ValueError: missing, not readable, or without rows.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing; expected a Parquet or .jsonl file")
    table = _read_jsonl(path) if path.suffix == ".jsonl" else _read_parquet(path)
    if not len(table):
        raise ValueError(f"{path} holds no rows")
    return table


def matrix(path: Path, table: pa.Table, name: str) -> Tensor:
    """A column of lists of numbers, all of one length D, as [N, D] float32."""
    column = _column(path, table, name)
    is_list = any(test(column.type) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))
    if not is_list or column.null_count or len(pc.unique(pc.list_value_length(column))) != 1:
        raise ValueError(f"{path}: {name} is {column.type}; expected lists of numbers, all of one length, in every row")
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    found = torch.from_numpy(values.reshape(len(column), -1))
    refuse_non_finite(path, name, found)
    return found


def numbers(path: Path, table: pa.Table, name: str) -> np.ndarray:
    """A column of finite numbers as [N] float64."""
    values = _column(path, table, name).to_pylist()
    found = np.array([value if isinstance(value, int | float) else np.nan for value in values], dtype=np.float64)
    for row in np.flatnonzero(~np.isfinite(found))[:1]:
        raise ValueError(f"{path}: {name} of row {row} is {values[row]}, expected a number; leave such rows out")
    return found


def texts(table: pa.Table, name: str) -> list[str]:
    """A column as N texts, empty where there is none."""
    if name not in table.column_names:
        return [""] * len(table)
    return ["" if value is None else str(value) for value in table[name].to_pylist()]


def targets(path: Path, winners: list[str]) -> Tensor:
    """Winners as [N]: 1 for model_a, 0 for model_b, 0.5 for a tie."""
    for row, winner in enumerate(winners):
        if winner not in WINNERS:
            raise ValueError(f"{path}: winner of row {row} is {winner!r}, expected one of {', '.join(WINNERS)}")
    return torch.tensor([WINNERS[winner] for winner in winners], dtype=torch.float32)


def refuse_non_finite(path: Path, name: str, found: Tensor) -> None:
    """Raises ValueError for the first row of [N, D] that holds nan or infinity."""
    for row in torch.nonzero(~torch.isfinite(found).all(1)).flatten()[:1].tolist():
        raise ValueError(f"{path}: {name} of row {row} holds values that are not finite")


def _column(path: Path, table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        raise ValueError(f"{path} has no {name}; found {', '.join(table.column_names)}")
    return table[name].combine_chunks()


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}") from error


def _read_jsonl(path: Path) -> pa.Table:
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: line {number} is not UTF-8: {error.reason}; save the file as UTF-8") from error
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}: line {number} is a {type(row).__name__}, expected an object such as {{...}}")
        rows.append(row)
    try:
        return pa.Table.from_pylist(rows)
    except pa.ArrowException as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path}: a key has values of different kinds in different lines: {said}") from error
