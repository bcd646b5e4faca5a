"""The published weights that rlloop knows by name, and where they lie on this machine.

A name stands for a folder of $RLLOOP_WEIGHTS (~/.cache/rlloop/weights where that is not set) with the files that
`rlloop.weights.published` lists, and a lock.json that says where each came from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Hub:
    """A file of a repository on the Hugging Face Hub."""

    repo: str
    path: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision[:12]}/{self.path}"


@dataclass(frozen=True)
class Url:
    """A file behind a plain address."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class File:
    """One file of an entry.

    Args:
        sources: tried in this order.
        num_bytes: its exact size, where known; else `about_bytes` is near it.
        checksums: "sha256:..." or "md5:..."; all of them must hold. None known: what the server states is recorded.
        holds: some keys and shapes, by which it is recognised; alternatives of one key are separated by "|".
        inside: the key under which the file keeps its state dict, if it does.
        is_optional: the entry is of use without it.
        content: a small text that is written instead of fetched.
    """

    name: str
    sources: tuple[Hub | Url, ...] = ()
    num_bytes: int | None = None
    about_bytes: int = 0
    checksums: tuple[str, ...] = ()
    holds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    inside: str = ""
    is_optional: bool = False
    content: str = ""

    @property
    def size(self) -> int:
        return self.num_bytes or self.about_bytes


@dataclass(frozen=True)
class Entry:
    """A name of the catalogue.

    Args:
        main: the file that a loader is given; empty where it is given the folder.
        gated: the Hub asks for an account that has accepted the licence.
        note: what else one should know.
    """

    name: str
    purpose: str
    licence: str
    files: tuple[File, ...]
    main: str = ""
    gated: bool = False
    note: str = ""

    @property
    def folder(self) -> Path:
        return root() / self.name

    @property
    def path(self) -> Path:
        """What `resolve` gives: the main file or the folder."""
        return self.folder / self.main if self.main else self.folder

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def missing(self) -> list[File]:
        """Files that are not here and without which the entry is of no use."""
        return [f for f in self.files if not f.is_optional and not (self.folder / f.name).is_file()]


def root() -> Path:
    """The folder of all weights: $RLLOOP_WEIGHTS, else ~/.cache/rlloop/weights."""
    chosen = os.environ.get("RLLOOP_WEIGHTS")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "rlloop" / "weights"


def catalogue() -> dict[str, Entry]:
    """Every entry by name."""
    from rlloop.weights.published import PUBLISHED

    return {entry.name: entry for entry in PUBLISHED}


def entries(names: list[str]) -> list[Entry]:
    """The named entries; "all" stands for every one.

    Raises:
        ValueError: an unknown name.
    """
    known = catalogue()
    for name in names:
        if name not in known and name != "all":
            raise ValueError(f"weights {name!r} are not known; known are {', '.join(known)}")
    return list(known.values()) if "all" in names else [known[name] for name in dict.fromkeys(names)]


def resolve(name_or_path: str | Path) -> Path:
    """An existing path as it is, else the local file or folder of a catalogue name.

    Raises:
        ValueError: neither, or not (completely) here; says what to do.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    name, known = str(name_or_path), catalogue()
    if name not in known:
        raise ValueError(f"{name} is neither an existing path nor a known name; known are {', '.join(known)}")
    entry = known[name]
    if missing := entry.missing():
        raise ValueError(
            f"weights {name}: {entry.folder / missing[0].name} is missing; `rlloop weights fetch {name}`, or without "
            "internet `rlloop weights import FOLDER`"
        )
    return entry.path
