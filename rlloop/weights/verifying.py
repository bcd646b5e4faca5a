"""Whether the files of an entry are the published ones: checksums, and a glance at what they hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlloop.weights.catalogue import Entry, File
from rlloop.weights.fetching import expected_checksums
from rlloop.weights.records import only_one, read_records, write_record, wrong_checksum

WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


def verify(entry: Entry) -> dict[str, str]:
    """Reads every file of an entry once.

    Returns:
        for each file "ok", "ok (...)" with what could not be checked, "not here", or what is wrong.
    Raises:
        ValueError: another process is at them; lock.json is damaged.
    """
    if not entry.folder.is_dir():
        return {file.name: "not here" for file in entry.files}
    with only_one(entry):
        return {file.name: _verify_file(entry, file) for file in entry.files}


def is_good(verdict: str) -> bool:
    return verdict.startswith("ok")


def _verify_file(entry: Entry, file: File) -> str:
    path = entry.folder / file.name
    if not path.is_file():
        return "not here" if not file.is_optional else "ok (not here, and not needed)"
    expected, checked = expected_checksums(entry, file, "")
    sha256, problem = wrong_checksum(path, expected)
    try:
        glance(path, file)
    except ValueError as error:
        return str(error).removeprefix(f"{path} ").removeprefix(f"{path}: ")
    if problem:
        return problem
    old = read_records(entry).get(file.name)
    source, etag = (old.source, old.etag) if old and old.sha256 == sha256 else ("found in place", "")
    write_record(entry, file, sha256=sha256, source=source, checked=old.checked if old else checked, etag=etag)
    return "ok" if expected else f"ok (no checksum is known; {sha256[:12]} is recorded)"


def glance(path: Path, file: File) -> None:
    """Opens a file and looks for what is expected in it; pickles of whole objects are not opened.

    Raises:
        ValueError: it does not open, or a key is missing or of another shape; one line with the path.
    """
    if path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not readable JSON: {error}") from None
    if path.suffix in WEIGHTS and file.holds:
        from rlloop.weights.reading import read_checkpoint

        found = read_checkpoint(path)
        inner = found.get(file.inside)
        check_held(path, inner if isinstance(inner, dict) else found, file.holds)


def check_held(path: Path, found: Mapping[str, Any], holds: Mapping[str, tuple[int, ...]]) -> None:
    """Compares some keys of a state dict.

    Raises:
        ValueError: the first that is missing or of another shape.
    """
    for alternatives, shape in holds.items():
        key = next((key for key in alternatives.split("|") if key in found), None)
        if key is None:
            first = ", ".join(map(str, list(found)[:3]))
            raise ValueError(f"{path}: {alternatives.split('|')[0]} is missing; it holds {first or 'nothing'} ...")
        if (its := tuple(getattr(found[key], "shape", ()))) != shape:
            raise ValueError(f"{path}: {key} has shape {its}, expected {shape}")
