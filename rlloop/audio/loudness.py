"""Brings clips to one loudness: rewards hear level as quality, and a loop would learn to be loud."""

import functools
import warnings

import numpy as np
import pyloudnorm

TARGET_LUFS = -18.0
SILENCE_LUFS = -70.0  # the absolute gate of ITU-R BS.1770: below it nothing is measured
MIN_SECONDS = 0.4  # one block of the meter


@functools.cache
def _meter(sample_rate_hz: int) -> pyloudnorm.Meter:
    return pyloudnorm.Meter(sample_rate_hz)


def measure_lufs(audio: np.ndarray, sample_rate_hz: int) -> float:
    """Integrated loudness (ITU-R BS.1770-4) of [T] mono audio in LUFS; -inf for silence and below 0.4 s."""
    if len(audio) < MIN_SECONDS * sample_rate_hz:
        return -np.inf
    with warnings.catch_warnings():  # the meter takes the mean of no blocks when everything is gated
        warnings.simplefilter("ignore", RuntimeWarning)
        lufs = float(_meter(sample_rate_hz).integrated_loudness(audio))
    return lufs if np.isfinite(lufs) else -np.inf


def fix_loudness(audio: np.ndarray, sample_rate_hz: int, target_lufs: float = TARGET_LUFS) -> np.ndarray:
    """Scales [T] mono audio to `target_lufs`; silence (below -70 LUFS) is left as it is. Peaks may exceed 1."""
    lufs = measure_lufs(audio, sample_rate_hz)
    if lufs < SILENCE_LUFS:
        return audio.astype(np.float32, copy=False)
    return (audio * 10.0 ** ((target_lufs - lufs) / 20.0)).astype(np.float32)
