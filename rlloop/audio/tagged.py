"""Audio files that say how they were made: a JSON object in the comment field that players and ffprobe show.

That is ICMT of a WAV file's LIST/INFO chunk and COMMENT of a FLAC file's Vorbis comments. WAV chunks are written and
read here, because libsndfile drops comments of more than a few hundred bytes there.
"""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

FORMATS = {"wav": {16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}, "flac": {16: "PCM_16", 24: "PCM_24"}}
SOFTWARE = "rlloop"


def choose_subtype(suffix: str, bits: int) -> str:
    """libsndfile's name of a sample format; `suffix` is "wav" or "flac", 32 bits are float.

    Raises:
        ValueError: the file format does not have it.
    """
    if suffix not in FORMATS or bits not in FORMATS[suffix]:
        known = ", ".join(f"{name} of {'/'.join(map(str, each))} bits" for name, each in FORMATS.items())
        raise ValueError(f"{suffix} of {bits} bits cannot be written; expected {known}")
    return FORMATS[suffix][bits]


def write_tagged(
    path: Path, audio: np.ndarray, sample_rate_hz: int, details: Mapping[str, Any], bits: int = 16
) -> None:
    """Writes mono audio with its details; complete or not at all, and the same bytes for the same arguments.

    Args:
        path: its suffix is the format, .wav or .flac.
        audio: [T] float; what lies beyond ±1 is clipped.
        details: what JSON can hold.
        bits: 16 or 24, or 32 for float (WAV alone).
    Raises:
        ValueError: audio that is not mono or not finite.
    """
    if audio.ndim != 1:
        raise ValueError(f"{path}: audio has shape {audio.shape}; expected mono, [T]")
    if not np.isfinite(audio).all():
        raise ValueError(f"{path}: audio is not finite")
    suffix = path.suffix.lower().lstrip(".")
    comment = json.dumps(details)  # ASCII, whatever a prompt holds
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", sample_rate_hz, 1, choose_subtype(suffix, bits), format=suffix.upper()) as file:
        if suffix == "flac":
            file.comment, file.software = comment, SOFTWARE
        file.write(np.clip(audio, -1.0, 1.0))
    data = out.getvalue() if suffix == "flac" else _with_info(out.getvalue(), comment)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def read_details(path: Path) -> dict[str, Any] | None:
    """The details of a file; None where it has none, as files of others do, or is no WAV or FLAC."""
    try:
        comment = _flac_comment(path) if path.suffix.lower() == ".flac" else _wav_comment(path)
        details = json.loads(comment)
    except (OSError, ValueError, struct.error, soundfile.LibsndfileError):
        return None
    return details if isinstance(details, dict) else None


def _flac_comment(path: Path) -> str:
    with soundfile.SoundFile(path) as file:
        return file.comment


def _wav_comment(path: Path) -> str:
    data = path.read_bytes()
    for name, start, size in _chunks(data, 12):
        if name == b"LIST" and data[start : start + 4] == b"INFO":
            for field, at, length in _chunks(data[: start + size], start + 4):
                if field == b"ICMT":
                    return data[at : at + length].rstrip(b"\0").decode("utf-8")
    return ""


def _with_info(wav: bytes, comment: str) -> bytes:
    """A WAV file with a LIST/INFO chunk at its end; the time of writing, which float files carry, becomes zero."""
    data = bytearray(wav)
    for name, start, _ in _chunks(wav, 12):
        if name == b"PEAK":
            data[start + 4 : start + 8] = bytes(4)
    info = b"INFO" + _chunk(b"ICMT", comment.encode() + b"\0") + _chunk(b"ISFT", SOFTWARE.encode() + b"\0")
    data += bytes(len(data) % 2) + _chunk(b"LIST", info)
    data[4:8] = struct.pack("<I", len(data) - 8)
    return bytes(data)


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _chunks(data: bytes, position: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and size of each RIFF chunk from `position` on; chunks are aligned to two bytes."""
    while position + 8 <= len(data):
        size = struct.unpack_from("<I", data, position + 4)[0]
        yield data[position : position + 4], position + 8, size
        position += 8 + size + size % 2
