"""Clips on disk with their prompts, and the JSON lines that their scores are kept in.

Separate from the job that scores them, so that listing, resuming and order are tested without Ray.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True)
class ClipFile:
    """One clip: its path as the user wrote it, the file that this names, and its prompt ("" where none is known)."""

    path: str
    file: str
    prompt: str


@dataclass(frozen=True)
class ScoreLine:
    """One line of a scores file: name -> score (None where missing), and name -> reason of each missing one."""

    path: str
    prompt: str
    scores: Mapping[str, float | None]
    reasons: Mapping[str, str]

    def to_json(self) -> str:
        return json.dumps(asdict(self))  # ASCII: whatever a name or a prompt holds, a line stays one line


def list_clips(source: Path) -> list[ClipFile]:
    """Clips of a folder (all audio files below it; prompts from its clips.jsonl where it has one) or of a clips.jsonl.

    Each line of a clips.jsonl is an object with "path", relative to the file, and "prompt".

    Raises:
        ValueError: nothing is there, or a line is not such an object.
    """
    if source.is_dir():
        index = source / "clips.jsonl"
        return _listed(index) if index.is_file() else _found(source)
    if source.is_file():
        return _listed(source)
    raise ValueError(f"{source}: no such file or folder; give a folder of clips or a clips.jsonl")


def _found(folder: Path) -> list[ClipFile]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise ValueError(f"{folder}: holds no audio file; expected {', '.join(SUFFIXES)} or a clips.jsonl")
    return [ClipFile(str(path.relative_to(folder)), str(path.resolve()), "") for path in files]


def _listed(index: Path) -> list[ClipFile]:
    clips = []
    for number, row in read_lines(index):
        path, prompt = row.get("path"), row.get("prompt", "")
        if not isinstance(path, str) or not path or not isinstance(prompt, str | None):
            raise ValueError(f'{index}:{number}: expected an object with "path" and "prompt" as texts, found {row}')
        clips.append(ClipFile(path, str((index.parent / path).resolve()), prompt or ""))
    if not clips:
        raise ValueError(f'{index}: holds no clip; each line is an object with "path" and "prompt"')
    return clips


def read_lines(path: Path) -> list[tuple[int, dict]]:
    """Objects of a JSON-lines file with their line numbers, from 1; empty lines are skipped.

    Raises:
        ValueError: not readable, or a line is no object.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: a prompt may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as UTF-8 text ({error})") from error
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not JSON ({error.msg}); expected one object a line") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}:{number}: holds a {type(row).__name__}; expected an object")
            found.append((number, row))
    return found


def claim(out: Path, digest: str) -> None:
    """Notes beside `out` what its scores are of, on the first start; a later one must be of the same.

    Args:
        digest: of the clips' source and of the rewards with their options.
    Raises:
        ValueError: `out` was begun for other clips or other rewards.
    """
    note = out.with_name(out.name + ".of")
    if not out.is_file() or not out.stat().st_size:
        note.write_text(digest + "\n", encoding="utf-8")
    elif not note.is_file() or note.read_text(encoding="utf-8").strip() != digest:
        raise ValueError(f"{out}: holds scores of other clips, or by rewards of other options; choose another --out")


def resume(out: Path, names: Sequence[str]) -> dict[tuple[str, str], ScoreLine]:
    """Complete lines that an earlier run left, by (path, prompt); what lacks a score is left out, to be tried again.

    Raises:
        ValueError: `out` holds something else, or scores of other rewards: nothing of it is overwritten.
    """
    if not out.is_file():
        return {}
    lines = out.read_bytes().decode("utf-8", errors="replace").split("\n")
    done = {}
    for number, line in enumerate(lines[:-1], 1):  # the last is empty, or half written
        try:
            row = ScoreLine(**json.loads(line))
            held = set(row.scores)
        except (json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"{out}:{number}: is no line of scores ({error}); choose another --out") from error
        if held != set(names):
            raise ValueError(f"{out}: holds scores {sorted(held)}, asked for {sorted(names)}; choose another --out")
        if None not in row.scores.values():
            done[row.path, row.prompt] = row
    return done


def write_lines(out: Path, lines: Sequence[ScoreLine]) -> None:
    """Replaces the file by these lines; complete or as before."""
    scratch = out.with_name(out.name + ".tmp")
    with scratch.open("w", encoding="utf-8") as file:
        file.writelines(line.to_json() + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, out)
