"""Captions of audio files: a table (TSV, CSV, JSON lines) or the challenge's caption JSON, and where the audio lies.

A row names its audio by "path", relative to the audio's folder, or by "id", and has a "caption" ("prompt" does as
well). The challenge's JSON is a list of {"path": "00/1085700.mp3", "caption": ...} (reference.md section 6).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlloop.data.prompts import decode

FORMS = (".tsv", ".csv", ".jsonl", ".json")
CAPTION_KEYS, PATH_KEYS = ("caption", "prompt"), ("path", "id")
AUDIO_SUFFIXES = (".mp3", ".wav", ".flac", ".ogg")


@dataclass(frozen=True)
class Captioned:
    """One recording: a unique id, its path as it was written ("" where only the id was), and its caption."""

    id: str
    path: str
    caption: str


def read_captions(path: Path | str) -> list[Captioned]:
    """Reads captions in their order; blanks in a row are brought to single ones, an empty caption stays empty.

    A row without an id gets its path without the suffix; in a .json file, the name in it alone: 1085700.

    Raises:
        ValueError: one line with file and row: not readable, no such form, a row without path or caption, an id twice.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMS:
        raise ValueError(f"captions: {path} ends in {path.suffix!r}; expected {', '.join(FORMS)}")
    if not path.is_file():
        raise ValueError(f"captions: {path} is no file; expected a table or caption JSON ({', '.join(FORMS)})")
    try:
        text = decode(path.read_bytes(), path)
    except ValueError as error:
        raise ValueError(f"captions: {str(error).removeprefix('prompts: ')}") from None
    found: dict[str, Captioned] = {}
    places: dict[str, str] = {}
    for place, row in _rows(path, text):
        one = _captioned(path, place, row)
        if one.id in found:
            raise ValueError(
                f"captions: {path} {place} has the id {one.id!r}, as {places[one.id]} has; ids must differ: drop one, "
                "or write an id into each row"
            )
        found[one.id], places[one.id] = one, place
    if not found:
        raise ValueError(f"captions: {path} holds no rows; expected at least one with path and caption")
    return list(found.values())


def locate(captions: Sequence[Captioned], root: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Finds the audio of each, looking for the challenge's `{root}/{id[-2:]}/{id}_instrumental.mp3` first.

    Returns:
        files by id and, for those that have none, reasons by id; both in the order of the captions.
    Raises:
        ValueError: the folder does not exist.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is no folder; expected the one that the captions' paths start from")
    files, missing = {}, {}
    for one in captions:
        wanted = _places(one, root)
        place = next((path for path in wanted if is_file(path)), None)
        if place:
            files[one.id] = place
        else:
            missing[one.id] = f"no such file: {wanted[-1] if one.path else wanted[1]}, nor {wanted[0]}"
    return files, missing


def is_file(path: Path) -> bool:
    """As Path.is_file, and no where the system takes no such name (one of over 255 bytes, say)."""
    try:
        return path.is_file()
    except OSError:
        return False


def _places(one: Captioned, root: Path) -> list[Path]:
    name = Path(one.path or one.id).stem if one.path else one.id
    instrumental = root / name[-2:] / f"{name}_instrumental.mp3"
    if one.path:
        return [instrumental, root / one.path]
    return [instrumental, *(root / f"{one.id}{suffix}" for suffix in AUDIO_SUFFIXES), root / one.id]


def _rows(path: Path, text: str) -> Iterator[tuple[str, Mapping]]:
    """Rows with the words for where they stand."""
    if path.suffix.lower() in (".tsv", ".csv"):
        yield from _table_rows(path, text, "\t" if path.suffix.lower() == ".tsv" else ",")
    elif text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"captions: {path} line {error.lineno} is not JSON ({error.msg}); correct it") from None
        yield from ((f"entry {number}", row) for number, row in enumerate(rows))
    else:
        for number, line in enumerate(text.split("\n"), 1):  # not splitlines: a caption may hold U+2028
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(
                        f'captions: {path} line {number} is not JSON ({error.msg}); expected {{"path": "...", '
                        '"caption": "..."}; correct the line'
                    ) from None


def _table_rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[str, Mapping]]:
    """A table with quotes as they should be; in a TSV a quote that does not close is a letter like any other."""
    settings: dict[str, Any] = {"delimiter": delimiter, "strict": True}
    if delimiter == "\t" and not _is_well_quoted(text, settings):
        settings["quoting"] = csv.QUOTE_NONE
    reader = csv.DictReader(io.StringIO(text, newline=""), **settings)
    try:
        columns = [(name or "").strip().lower() for name in reader.fieldnames or []]
        for keys in (CAPTION_KEYS, PATH_KEYS):
            if not set(keys) & set(columns):
                raise ValueError(
                    f"captions: {path} has the columns {columns}; expected {' or '.join(keys)}; add a header line"
                )
        reader.fieldnames = columns
        for row in reader:
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise ValueError(f"captions: {path} is no table near line {reader.line_num}: {error}; correct it") from None


def _is_well_quoted(text: str, settings: Mapping[str, Any]) -> bool:
    try:
        return all(True for _ in csv.reader(io.StringIO(text, newline=""), **settings))
    except csv.Error:
        return False


def _captioned(path: Path, place: str, row: Mapping) -> Captioned:
    if not isinstance(row, Mapping):
        raise ValueError(f"captions: {path} {place} holds a {type(row).__name__}; expected an object with a path")
    caption = next((row[key] for key in CAPTION_KEYS if isinstance(row.get(key), str)), None)
    if caption is None and path.suffix.lower().startswith(".json") and any(key in row for key in CAPTION_KEYS):
        caption = ""  # null, or no text: it costs itself, as an empty one does
    written, name = row.get("path") or "", row.get("id")
    name = str(name) if isinstance(name, int) and not isinstance(name, bool) else name or ""
    if caption is None or not isinstance(written, str) or not isinstance(name, str) or not (written or name):
        raise ValueError(
            f"captions: {path} {place} has {str(dict(row))[:80]}; expected texts under path (or id) and caption"
        )
    place_of = Path(written)
    short = place_of.stem if path.suffix.lower() == ".json" else written.removesuffix(place_of.suffix)
    try:
        (name + written + caption).encode()
    except UnicodeEncodeError:
        raise ValueError(f"captions: {path} {place} holds half of a surrogate pair: no text; correct it") from None
    return Captioned(name or short or written, written, " ".join(caption.split()))
