"""What `rlloop generate` is asked for: which clips, with which prompts and seeds, under which file names."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlloop.data.prompts import decode, read_prompts

MAX_SLUG = 60
MAX_ID_BYTES = 200  # of the 255 that a file name may have: a seed, a suffix and .part go behind it


@dataclass(frozen=True)
class Row:
    """A prompt; `id` is the file name that the challenge's CSV gives it, "" where it has none."""

    prompt: str
    id: str = ""


@dataclass(frozen=True)
class ClipRequest:
    """One clip: its file name below the folder, its prompt, and the seed of its noise."""

    path: str
    prompt: str
    seed: int


def read_rows(path: Path) -> list[Row]:
    """Rows of the challenge's CSV (columns id and prompt), every one in its place, or the prompts of another file.

    Raises:
        ValueError: nothing is there, or a row has no prompt, no usable id, or the id of another.
    """
    if path.suffix.lower() == ".csv" and path.is_file():
        reader = csv.DictReader(io.StringIO(decode(path.read_bytes(), path), newline=""))
        columns = [name.strip().lower() for name in reader.fieldnames or []]
        if {"id", "prompt"} <= set(columns):
            reader.fieldnames = columns
            return _challenge_rows(path, reader)
    return [Row(prompt) for prompt in read_prompts(path)]


def _challenge_rows(path: Path, reader: csv.DictReader) -> list[Row]:
    rows, seen = [], {}
    try:
        for found in reader:
            number = reader.line_num
            name, prompt = (found["id"] or "").strip(), " ".join((found["prompt"] or "").split())
            if not prompt:
                raise ValueError(
                    f"prompts: {path} line {number}: id {name!r} has no prompt; add it or take the row out"
                )
            if not is_file_name(name):
                raise ValueError(
                    f"prompts: {path} line {number}: id {name[:80]!r} is no file name; expected 1 to {MAX_ID_BYTES} "
                    "bytes of UTF-8 without / and control characters, not beginning with a dot"
                )
            if name in seen:
                raise ValueError(f"prompts: {path} line {number}: id {name!r} is that of line {seen[name]}; rename one")
            seen[name] = number
            rows.append(Row(prompt, name))
    except csv.Error as error:
        raise ValueError(f"prompts: {path} is no CSV near line {reader.line_num}: {error}; correct the line") from error
    if not rows:
        raise ValueError(f"prompts: {path} holds no row; expected at least one with id and prompt")
    return rows


def is_file_name(name: str) -> bool:
    """Whether an id can be one: short enough, visible, in its folder."""
    is_plain = re.fullmatch(r"[^/\\\x00-\x1f\x7f-\x9f]+", name) and not name.startswith(".")
    return bool(is_plain) and len(name.encode()) <= MAX_ID_BYTES


def request_clips(rows: Sequence[Row], seeds: Sequence[int], suffix: str) -> list[ClipRequest]:
    """A clip a row and base seed; its seed is base + row, as in the published protocol (reference.md section 10).

    Files are named by id, or by the words of the prompt and the seed.
    """
    clips = []
    for base in seeds:
        for number, row in enumerate(rows):
            name = f"{row.id}-s{base + number}" if row.id and len(seeds) > 1 else row.id
            clips.append(
                ClipRequest(f"{name or prompt_name(row.prompt, base + number)}.{suffix}", row.prompt, base + number)
            )
    return clips


def prompt_name(prompt: str, seed: int) -> str:
    """A file name that differs for different prompts: with a digest where the words alone could be another's."""
    slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:MAX_SLUG].strip("-")
    is_whole = slug.replace("-", " ") == prompt
    digest = "" if is_whole else f"{'-' if slug else ''}{hashlib.sha256(prompt.encode()).hexdigest()[:6]}"
    return f"{slug}{digest}-s{seed}"


def candidate_seed(seed: int, n: int) -> int:
    """Seed of the n-th candidate of best-of-N; the first is the clip's own, the others are unlike any row's."""
    if n == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}:{n}".encode()).digest()[:4], "big")
