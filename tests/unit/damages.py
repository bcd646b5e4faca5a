"""What is done to a file to see how it is refused, and the row that names it.

The tests of bad files share it: checkpoints, what a run reads back, what a report shows.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DEEP = "[" * 200_000
RAN = "ran"


class Payload:
    """Un-pickled, it leaves a file beside: no reader may ever do so."""

    def __reduce__(self):
        return os.mkdir, (RAN,)


@dataclass(frozen=True)
class Case:
    """`damage` changes a good file; `said` is in the line that names it, or in what is returned without one."""

    file: str
    what: str
    damage: Callable[[Path], object]
    said: str

    @property
    def name(self) -> str:
        return f"{self.file}: {self.what}"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def to_link(path: Path) -> None:
    aside = path.parent.parent.parent / "aside"
    aside.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(aside)


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload()))


def text(written: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(written)


def fields(**changed) -> Callable[[Path], object]:
    """Sets fields of a JSON object."""
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
