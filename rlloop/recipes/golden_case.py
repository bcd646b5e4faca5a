"""One golden case: its entry in index.json, its npz, and a record of which parts of both have been used.

What nobody asked for is a setting that this code does not know, or an array that it does not compute: the record is how
a case with either is reported instead of passing by accident.
"""

from __future__ import annotations

import dataclasses
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from rlloop.recipes.golden_rule import CONSTANTS, array, fill

ABOUT = {"what", "absmax", "clip", "inputs_rule"}  # for people
COMMON = {"kind", "tolerance", "inputs", "rows", "salt"}  # of every case, read here
DEFAULT_TOLERANCE = "1e-4 of the absolute maximum of each expected array"
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Tolerance:
    """A bound on the largest difference: a share of the expected array's largest magnitude, or as it is."""

    bound: float
    is_absolute: bool = False

    @classmethod
    def parse(cls, text: str | float) -> Tolerance:
        """Reads "1e-4 of the absolute maximum of each expected array", "1e-5 relative" or "1e-6 absolute".

        Relative is to the array's largest magnitude too: margins may pass through zero.
        """
        number, _, relation = str(text).strip().partition(" ")
        is_share = not relation or "max" in relation or "relative" in relation
        try:
            if is_share or "absolute" in relation:
                return cls(float(number), is_absolute=not is_share)
        except ValueError:
            pass
        raise ValueError(f"tolerance {text!r} is not understood; expected for example {DEFAULT_TOLERANCE!r}")


def read_index(folder: Path) -> dict[str, Any]:
    """Entries of a folder's cases by name.

    Raises:
        ValueError: no folder of golden cases; one line.
    """
    path = folder / "index.json"
    if not path.is_file():
        what = "holds no index.json" if folder.is_dir() else "is not a folder"
        raise ValueError(f"{folder} {what}; expected a folder of golden cases, such as tests/golden")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(index, dict) or not index:
        raise ValueError(f"{path} names no case; expected an object with one entry per case")
    return index


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file; pickled ones are refused.

    Raises:
        ValueError: missing, damaged or no npz; one line.
    """
    if not path.is_file():
        raise ValueError(f"{path.name} is missing")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path.name} is not a readable npz: {' '.join(str(error).split())}") from error


class Case:
    """Settings and inputs of a case, as its functions ask for them.

    Args:
        entry: its entry in the index.
        arrays: of its npz: expected outputs, and inputs where the entry does not name them.
    """

    def __init__(self, entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray]):
        self.entry = entry
        self.arrays = arrays
        self.inputs: Mapping[str, Any] = entry.get("inputs") or {}
        self.salt: int = entry.get("salt") or 0
        self._asked: set[str] = set()
        self._given: set[str] = set()

    def setting(self, *names: str, default: Any = None) -> Any:
        """The first of the entry's settings called so, else the default."""
        self._asked.update(names)
        return next((self.entry[name] for name in names if self.entry.get(name) is not None), default)

    def settings(self, default: Any, **known: Any) -> Any:
        """The dataclass `default` with the entry's settings of its fields' names, else with those known otherwise."""
        named = {field.name: self.setting(field.name) for field in dataclasses.fields(default)}
        own = {name: tuple(v) if isinstance(v, list) else v for name, v in named.items() if v is not None}
        return dataclasses.replace(default, **(known | own))

    def fill(self, module: Module, spelled: Callable[[str], str] = str) -> Module:
        """Draws a module's weights with the case's salt, but for what the rule and the entry's `skip` leave out."""
        return fill(module, self.salt, spelled, self.constants)

    @property
    def constants(self) -> tuple[str, ...]:
        """Parts of the keys that are not drawn."""
        skip = self.setting("skip", default=())
        return (*CONSTANTS, *((skip,) if isinstance(skip, str) else skip))

    def has_input(self, name: str) -> bool:
        """Whether `input` has something to give."""
        return name in self.inputs or name in self.arrays

    def input(self, name: str) -> Tensor:
        """An input: drawn by the rule (name, shape, scale), the numbers themselves, or from the npz.

        `<name>_offset` of the entry is added, then the rows are taken that `rows` selects.

        Raises:
            ValueError: nobody gives it.
        """
        self._given.add(name)
        rule = self.inputs.get(name)
        if rule is None:
            if name not in self.arrays:
                raise ValueError(f"input {name} is neither in the entry nor in the npz")
            value = torch.from_numpy(self.arrays[name])
        elif isinstance(rule, list) and rule and isinstance(rule[0], str):
            value = torch.from_numpy(array(*rule))
        else:
            value = torch.tensor(rule, dtype=torch.float32)
        offset = self.setting(f"{name}_offset", default=0)
        rows = rows_of(self.entry.get("rows"), name)
        return (value if not offset else value + offset)[slice(None) if rows is None else rows]

    def expected(self) -> dict[str, np.ndarray]:
        """Arrays of the npz that are no inputs; to be called after all inputs have been asked for."""
        return {name: value for name, value in self.arrays.items() if name not in self._given | self.inputs.keys()}

    def unused(self) -> list[str]:
        """Settings and inputs of the entry that nothing asked for."""
        inputs = [f"inputs.{name}" for name in self.inputs if name not in self._given]
        return [name for name in self.entry if name not in self._asked | ABOUT | COMMON] + inputs


def rows_of(text: Any, name: str) -> list[int] | None:
    """The rows of input `name` that a case takes; None is all of them.

    Args:
        text: "text and text_c: row 0 only", several of these with semicolons between, or {"text": [0]}.
    Raises:
        ValueError: neither.
    """
    if text is None:
        return None
    if isinstance(text, Mapping):
        return list(text[name]) if name in text else None
    for part in str(text).split(";"):
        match = re.fullmatch(r"\s*([\w\s,]+):\s*rows?\s+(\d+(?:(?:\s*,\s*|\s+and\s+)\d+)*)(\s+only)?\s*", part)
        if match is None:
            raise ValueError(f"rows {text!r} is not understood; expected for example 'text and text_c: row 0 only'")
        if name in re.split(r"\s*,\s*|\s+and\s+", match[1].strip()):
            return [int(row) for row in re.findall(r"\d+", match[2])]
    return None


def one_of(what: str, table: Mapping[Any, Any], name: Any) -> Any:
    """The table's value.

    Raises:
        ValueError: it has none of that name.
    """
    if name not in table:
        raise ValueError(f"{what} {name!r} is not one of {', '.join(map(str, table))}")
    return table[name]
