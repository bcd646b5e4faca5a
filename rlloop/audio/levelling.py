"""The published loudness step: clips at one integrated loudness, under a peak rule (reference.md section 10)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyloudnorm
import torch
import torchaudio

from rlloop.audio.loudness import MIN_SECONDS, SILENCE_LUFS, measure_lufs
from rlloop.audio.resample import MAX_FILTER_VALUES, filter_values

TABLE_HZ = 48_000  # the rate for which ITU-R BS.1770-4 prints its filters
HOP_SECONDS = 0.1


def measure_itu_lufs(audio: np.ndarray, sample_rate_hz: int) -> float:
    """Integrated loudness of [T] mono audio as ITU-R BS.1770-4 has it, in LUFS; -inf for silence and below 0.4 s.

    pyloudnorm as it comes differs in three things, on clips of 5 s at 16 kHz by up to 0.16 LU together: its default
    filters are others, those of the recommendation ("DeMan") have another gain at other rates than 48 kHz, and a block
    that the end cuts short counts as a whole one. So here: those filters, at 48 kHz, without that block.

    Resampling is nearly exact up to half the rate: the usual filter rolls off well below it, and the K-weighting
    counts treble most. White noise at 44.1 kHz would be measured 0.37 LU too low.
    """
    if len(audio) < MIN_SECONDS * sample_rate_hz:
        return -np.inf
    if filter_values(sample_rate_hz, TABLE_HZ) <= MAX_FILTER_VALUES:
        audio, sample_rate_hz = _at_table_rate(audio, sample_rate_hz), TABLE_HZ
    hop = HOP_SECONDS * sample_rate_hz
    whole = round(hop * int((len(audio) + 1e-6) / hop))
    meter = pyloudnorm.Meter(sample_rate_hz, "DeMan")
    with np.errstate(divide="ignore", invalid="ignore"):
        lufs = float(meter.integrated_loudness(audio[:whole].astype(np.float64)))
    return lufs if np.isfinite(lufs) else -np.inf


def _at_table_rate(audio: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """[T] -> [ceil(T * 48000 / rate)] float32, with its treble."""
    return _resampler(sample_rate_hz)(torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))).numpy()


@functools.lru_cache(maxsize=4)
def _resampler(sample_rate_hz: int) -> torchaudio.transforms.Resample:
    """Kept, since its filter of 256 zero crossings takes longer to make than a clip to resample."""
    return torchaudio.transforms.Resample(sample_rate_hz, TABLE_HZ, lowpass_filter_width=256, rolloff=1.0)


METERS: dict[str, Callable[[np.ndarray, int], float]] = {"itu": measure_itu_lufs, "published": measure_lufs}


@dataclass(frozen=True)
class Levelled:
    """Audio at its new level. `lufs_before` and `lufs` are None for silence and for what is too short for the meter:
    both are left as they are.

    `is_held_back`: the peak rule keeps it below the target.
    """

    audio: np.ndarray
    lufs_before: float | None
    lufs: float | None
    is_held_back: bool
    is_too_short: bool = False


def level(
    audio: np.ndarray,
    sample_rate_hz: int,
    *,
    target_lufs: float = -16.5,
    ceiling: float = 0.99,
    peak: float = 0.95,
    meter: str = "itu",
) -> Levelled:
    """Scales [T] to `target_lufs`; where its peak would exceed `ceiling`, to a peak of `peak` instead.

    Args:
        meter: "itu", or "published": pyloudnorm as it comes, at the clip's rate.
    """
    lufs = METERS[meter](audio, sample_rate_hz)
    if lufs < SILENCE_LUFS:
        is_too_short = len(audio) < MIN_SECONDS * sample_rate_hz
        return Levelled(audio.astype(np.float32, copy=False), None, None, False, is_too_short)
    gain = 10.0 ** ((target_lufs - lufs) / 20.0)
    highest = float(np.max(np.abs(audio)))
    is_held_back = gain * highest > ceiling
    if is_held_back:
        gain = peak / highest
    return Levelled((audio * gain).astype(np.float32), lufs, lufs + 20.0 * float(np.log10(gain)), is_held_back)
