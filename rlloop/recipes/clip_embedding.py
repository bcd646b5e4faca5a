"""Audio files as text inside one HTML page: as they are where all fit, else as MP3, the most important ones first."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import soundfile

from rlloop.views.report.record import ShownClip

MAX_AUDIO_BYTES = 10 * 2**20  # of all clips; as text in the page they take 4/3 of it
MP3_QUALITY = 0.2  # of 0 (best) to 1, variable bit rate: about 55 kbit/s at 16 kHz


def embed(
    clips: Sequence[tuple[Path, ShownClip]], max_bytes: int = MAX_AUDIO_BYTES
) -> tuple[dict[str, ShownClip], str]:
    """Clips with their audio, the most important first: as the run keeps them where all fit, else as MP3; what still
    does not fit is left out.

    Args:
        clips: each with its run directory.
        max_bytes: of all audio together.
    Returns:
        key -> clip, and a sentence on how the audio is stored.
    """
    found = {clip.key: (folder, clip) for folder, clip in clips}
    own = {key: _read(folder / clip.path) for key, (folder, clip) in found.items() if not clip.data}
    sizes = [len(clip.data) * 3 // 4 for _, clip in found.values() if clip.data]
    encode, kind = _as_kept, "FLAC, sample for sample as the run keeps them"
    if sum(len(data) for data in own.values()) + sum(sizes) > max_bytes:
        encode, kind = _as_mp3, "MP3 of variable bit rate, because the run's own files would make the page too large"
    stored, total, left_out = {}, sum(sizes), 0
    for key, (_, clip) in found.items():
        done = clip if clip.data or clip.missing else encode(clip, own[key])
        size = 0 if clip.data else len(done.data) * 3 // 4
        if total + size > max_bytes:
            done, size, left_out = replace(done, data="", missing="left out to keep the page small"), 0, left_out + 1
        stored[key], total = done, total + size
    number = sum(bool(clip.data) for clip in stored.values())
    note = f"{number} clips are embedded, {total / 2**20:.1f} MiB as {kind}." if number else "No clip is embedded."
    return stored, note + (f" {left_out} more are left out; they lie in the run's audio folder." if left_out else "")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _as_kept(clip: ShownClip, data: bytes) -> ShownClip:
    kinds = {".flac": "audio/flac", ".wav": "audio/wav", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}
    return with_audio(clip, data, kinds.get(Path(clip.path).suffix, "audio/flac"))


def _as_mp3(clip: ShownClip, data: bytes) -> ShownClip:
    """Every browser plays MP3, whatever its rate."""
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        return with_audio(clip, data, "")
    mp3 = io.BytesIO()
    soundfile.write(mp3, samples, rate, format="MP3", bitrate_mode="VARIABLE", compression_level=MP3_QUALITY)
    return replace(with_audio(clip, mp3.getvalue(), "audio/mpeg"), sha256=digest(data))


def with_audio(clip: ShownClip, data: bytes, kind: str) -> ShownClip:
    if not data:
        return replace(clip, missing="its file is missing")
    try:
        seconds = soundfile.info(io.BytesIO(data)).duration
    except soundfile.LibsndfileError:
        return replace(clip, missing="its file is no readable audio")
    text = base64.b64encode(data).decode()
    return replace(clip, data=f"data:{kind};base64,{text}", seconds=seconds, sha256=digest(data))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
