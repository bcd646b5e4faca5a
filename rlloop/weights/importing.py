"""Taking files over from a folder, for machines without internet: recognised by name, size and checksum."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rlloop.weights.catalogue import Entry, File, Hub
from rlloop.weights.download import discard
from rlloop.weights.fetching import expected_checksums, write_content
from rlloop.weights.records import (
    digests,
    first_wrong,
    kind_of,
    only_one,
    partial,
    read_records,
    state,
    write_record,
)
from rlloop.weights.verifying import glance


@dataclass
class Taken:
    """What an import did: "ENTRY/FILE <- path" for each file taken, "path: why" for each that was refused."""

    taken: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    left: list[Path] = field(default_factory=list)
    had: list[str] = field(default_factory=list)


def import_folder(folder: Path, known: Iterable[Entry], *, is_linked: bool = False) -> Taken:
    """Takes over every file below a folder that belongs to an entry.

    A file is recognised by its checksum where it has the name or the size of a published one; a file without a known
    checksum by its name, below a folder that is named after the entry or its repository.

    Args:
        is_linked: symbolic links instead of copies.
    Raises:
        ValueError: no such folder, or a disk that refuses.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; expected one with published files (or --as NAME with one file)")
    done, known = Taken(), list(known)
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        claims = [(entry, file) for entry in known for file in entry.files if is_candidate(path, entry, file)]
        _take_first(path, claims, done, is_linked)
    return done


def import_as(entry: Entry, source: Path, *, is_linked: bool = False) -> Taken:
    """Takes over one file as the main one of an entry, or a folder's files by their names.

    Raises:
        ValueError: nothing there, or not the published file.
    """
    if not source.exists():
        raise ValueError(f"{source} is missing; expected {entry.main or 'the folder'} of {entry.name}")
    if source.is_file():
        named = [file for file in entry.files if file.name == source.name]
        wanted = named or [file for file in entry.files if file.name == entry.main]
        if not wanted:
            names = ", ".join(file.name for file in entry.files)
            raise ValueError(f"{source}: weights {entry.name} are a folder of {names}; give the folder, or rename it")
        pairs = [(source, wanted[0])]
    else:
        pairs = [(source / file.name, file) for file in entry.files if (source / file.name).is_file()]
        if not pairs:
            raise ValueError(f"{source} holds none of {', '.join(file.name for file in entry.files)}")
    done = Taken()
    for path, file in pairs:
        found = digests(path, {"sha256", *map(kind_of, file.checksums)})
        if problem := _take(path, found, entry, file, done, is_linked):
            raise ValueError(f"{path} is not {file.name} of {entry.name}: {problem}")
    return done


def is_candidate(path: Path, entry: Entry, file: File) -> bool:
    """Whether a file may be a published one, judged without reading it."""
    has_name, num_bytes = path.name == file.name, path.stat().st_size
    if not file.sources:
        return False
    if file.checksums:
        return has_name or num_bytes == file.num_bytes and num_bytes > 1 << 20
    return has_name and any(part in names_of(entry, file) for part in _folders(path))


def names_of(entry: Entry, file: File) -> set[str]:
    """Folder names that say what lies in them: the entry's, its repository's, and that of the Hub's cache."""
    repos = [source.repo for source in file.sources if isinstance(source, Hub)]
    return {entry.name, *(r.split("/")[-1] for r in repos), *(f"models--{r.replace('/', '--')}" for r in repos)}


def _folders(path: Path) -> Iterator[str]:
    return (parent.name for parent in path.absolute().parents)


def _take_first(path: Path, claims: list[tuple[Entry, File]], done: Taken, is_linked: bool) -> None:
    kinds = {kind_of(checksum) for _, file in claims for checksum in file.checksums}
    found = digests(path, {"sha256", *kinds}) if claims else {}
    problems = []
    for entry, file in claims:
        problem = _take(path, found, entry, file, done, is_linked)
        if not problem:
            return
        problems.append((entry, file, problem))
    # A config.json of something else is nobody's mistake; a v1-44.pth with a wrong checksum is.
    serious = [p for p in problems if p[1].name == path.name and path.suffix not in (".json", ".txt", ".model")]
    if serious:
        entry, _, problem = serious[0]
        done.refused.append(f"{path}: is not the file of {entry.name}: {problem}")
    else:
        done.left.append(path)


def _take(path: Path, found: dict[str, str], entry: Entry, file: File, done: Taken, is_linked: bool) -> str:
    """Puts a file in its place if it is the published one; else says what is wrong with it.

    Args:
        found: its checksums.
    """
    label = f"{entry.name}/{file.name}"
    with only_one(entry):
        if state(entry, file, read_records(entry)) == "verified":
            done.had.append(label)
            return ""
        expected, checked = expected_checksums(entry, file, "")
        try:
            glance(path, file)
        except ValueError as error:
            return str(error).removeprefix(f"{path} ").removeprefix(f"{path}: ")
        if problem := first_wrong(found, expected):
            return problem
        _put(path, entry, file, is_linked, found["sha256"])
        sha256 = found["sha256"].removeprefix("sha256:")
        write_record(entry, file, sha256=sha256, source=f"import {path.absolute()}", checked=checked)
        for other in entry.files:
            if other.content and not (entry.folder / other.name).exists():
                write_content(entry, other)
    done.taken.append(f"{label} <- {path}")
    return ""


def _put(path: Path, entry: Entry, file: File, is_linked: bool, sha256: str) -> None:
    part = partial(entry, file)
    part.parent.mkdir(parents=True, exist_ok=True)
    discard(part)
    if is_linked:
        part.symlink_to(path.absolute())
    else:
        shutil.copyfile(path, part)
        if digests(part, {"sha256"})["sha256"] != sha256:
            discard(part)
            raise ValueError(f"{path}: its copy in {part.parent} came out different; check the disks")
    os.replace(part, entry.folder / file.name)
