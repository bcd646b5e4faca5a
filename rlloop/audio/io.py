"""Audio files in and out: mono float32, whatever the file holds."""

from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio


def read_audio(
    path: Path | str, sample_rate_hz: int | None = None, max_seconds: float | None = None
) -> tuple[np.ndarray, int]:
    """Reads a file that libsndfile knows (wav, flac, ogg, mp3), mixed down to mono.

    Args:
        sample_rate_hz: wanted rate; None keeps the file's.
        max_seconds: a file that its header makes longer is refused before it is decoded.
    Returns:
        [T] float32 within about ±1, and its rate in Hz.
    Raises:
        ValueError: the file is missing, empty, too long, or not audio.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected an audio file (wav, flac, ogg, mp3)")
    try:
        seconds = soundfile.info(path).duration
        if max_seconds is not None and seconds > max_seconds:
            raise ValueError(f"{path}: {seconds:.0f} s long, expected at most {max_seconds:g} s")
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"{path}: not readable as audio ({path.stat().st_size} bytes; {error.error_string.strip()}); "
            f"expected wav, flac, ogg or mp3"
        ) from error
    if len(samples) == 0:
        raise ValueError(f"{path}: holds no samples; expected audio")
    audio = samples.mean(axis=1)
    if sample_rate_hz is None or sample_rate_hz == rate:
        return audio, rate
    return resample(audio, rate, sample_rate_hz), sample_rate_hz


def write_audio(path: Path | str, audio: np.ndarray, sample_rate_hz: int) -> None:
    """Writes mono audio in the format of the file's suffix; wav and flac get 16 bits.

    Args:
        audio: [T] float; what lies beyond ±1 is clipped.
    """
    if audio.ndim != 1:
        raise ValueError(f"{path}: audio has shape {audio.shape}; expected mono, [T]")
    soundfile.write(path, np.clip(audio, -1.0, 1.0), sample_rate_hz)


def resample(audio: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Windowed-sinc resampling (torchaudio's default). [..., T] -> [..., ceil(T * to_hz / from_hz)] float32."""
    if from_hz == to_hz:
        return audio.astype(np.float32, copy=False)
    samples = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
    return torchaudio.functional.resample(samples, from_hz, to_hz).numpy()
