"""The folder of a `rlloop generate`: which clips it holds already, its clips.jsonl, and the submission's ZIP."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile

from rlloop.audio.tagged import read_details
from rlloop.recipes.clip_files import read_lines
from rlloop.recipes.disk import make_writable
from rlloop.recipes.generate_request import ClipRequest

INDEX = "clips.jsonl"
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the same clips make the same bytes


def prepare(out: Path) -> None:
    """Makes the folder and sees that it can be written to.

    Raises:
        ValueError, OSError: it cannot, or its clips.jsonl is another's.
    """
    make_writable(out)
    read_index(out)


def compare(
    clips: Sequence[ClipRequest], out: Path, settings: Mapping[str, Any]
) -> tuple[list[ClipRequest], dict[ClipRequest, str]]:
    """Clips whose file is not there, and those whose file is something else, with what it is."""
    missing, other = [], {}
    for clip in clips:
        path = out / clip.path
        if not path.exists():
            missing.append(clip)
            continue
        found = read_details(path)
        own = {"prompt": clip.prompt, "seed": clip.seed, "settings": settings}
        if found is None:
            other[clip] = "is there and not of rlloop generate"
        elif differs := difference({key: found.get(key) for key in own}, own):
            other[clip] = f"was made with {differs}"
    return missing, other


def difference(found: Any, wanted: Any, where: str = "") -> str:
    """The first thing in which two pieces of plain data differ, in words; "" where there is none."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in sorted({*found, *wanted}):
            inner = difference(found.get(key), wanted.get(key), f"{where}.{key}" if where else key)
            if inner:
                return inner
        return ""
    return (
        ""
        if found == wanted
        else f"{where.removeprefix('settings.')} {json.dumps(found)[:80]}, now {json.dumps(wanted)[:80]}"
    )


def write_index(out: Path, clips: Sequence[ClipRequest]) -> list[dict[str, Any]]:
    """Brings clips.jsonl up to date with the files of these clips; lines of other clips stay while their files do.

    Where nothing was made and there is no list, none is begun.

    Returns:
        the lines of those that are there.
    """
    lines = {row["path"]: row for row in read_index(out)}
    gone = absent(out, [*lines, *(clip.path for clip in clips)])
    mine = [{"path": clip.path, **(read_details(out / clip.path) or {})} for clip in clips if clip.path not in gone]
    lines = {path: line for path, line in lines.items() if path not in gone} | {line["path"]: line for line in mine}
    if not lines and not (out / INDEX).exists():
        return []
    scratch = out / (INDEX + ".tmp")
    with scratch.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines.values())
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, out / INDEX)
    return mine


def absent(out: Path, paths: Iterable[str]) -> set[str]:
    """Those of the paths below a folder that are not there; lists it, as NFS keeps for a while what it did not find."""
    wanted = {path: Path(path) for path in paths}
    there = {
        parent / name
        for parent in {path.parent for path in wanted.values()}
        if (out / parent).is_dir()
        for name in os.listdir(out / parent)
    }
    return {path for path, place in wanted.items() if place not in there}


def read_index(out: Path) -> list[dict[str, Any]]:
    """Lines of the folder's clips.jsonl.

    Raises:
        ValueError: a line has no path.
    """
    index = out / INDEX
    rows = [row for _, row in read_lines(index)] if index.is_file() else []
    if any(not isinstance(row.get("path"), str) for row in rows):
        raise ValueError(f'{index}: a line has no "path"; it is not of rlloop generate, choose another --out')
    return rows


def write_submission(path: Path, clips: Sequence[ClipRequest], out: Path) -> set[int]:
    """A flat ZIP of the clips under their file names, {id}.wav (reference.md section 10); complete or not at all.

    Returns:
        the sample rates in it, Hz.
    """
    part = path.with_name(path.name + ".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for clip in clips:
            archive.writestr(zip_entry(clip.path), (out / clip.path).read_bytes())
    os.replace(part, path)
    return {soundfile.info(out / clip.path).samplerate for clip in clips}


def zip_entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, ZIP_DATE)
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    return entry
