"""Resampling of many clips at once, of any rates and lengths, on the device that goes on with them."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torchaudio
from torch import Tensor

from rlloop.audio.precision import full_float32

MAX_FILTER_VALUES = 2**25  # 128 MiB; 44056 Hz to 48000 Hz is just below, 44101 Hz would take 2**31


def resample_all(
    waves: Sequence[np.ndarray], rates_hz: Sequence[int], to_hz: int, device: torch.device | str = "cpu"
) -> list[Tensor]:
    """Windowed-sinc resampling, torchaudio's default, as TuneJury's scorer does it (reference.md section 8.1).

    Args:
        waves: [T] float32 each.
    Returns:
        [ceil(T * to_hz / rate)] float32 each, on `device`; those of one rate and length are computed together.
    Raises:
        ValueError: a rate that needs a filter of more than 2**25 values.
    """
    resampled: list[Tensor] = [torch.empty(0)] * len(waves)
    sizes = [(rate, len(wave)) for rate, wave in zip(rates_hz, waves, strict=True)]
    for size in sorted(set(sizes)):
        rows = [row for row, found in enumerate(sizes) if found == size]
        stacked = torch.from_numpy(np.stack([waves[row] for row in rows]).astype(np.float32, copy=False)).to(device)
        for row, wave in zip(rows, _resample(stacked, size[0], to_hz), strict=True):
            resampled[row] = wave
    return resampled


def filter_values(rate_hz: int, to_hz: int) -> int:
    """About how many values the filter between two rates has: large where they share no large divisor."""
    common = math.gcd(rate_hz, to_hz)
    return rate_hz // common * (to_hz // common)


def _resample(waves: Tensor, rate_hz: int, to_hz: int) -> Tensor:
    if filter_values(rate_hz, to_hz) > MAX_FILTER_VALUES:
        raise ValueError(
            f"{rate_hz} Hz cannot be resampled to {to_hz} Hz in reasonable memory: no large common divisor"
        )
    with full_float32():
        return torchaudio.functional.resample(waves, rate_hz, to_hz)
