"""Integrated loudness by ITU-R BS.1770-4 written from its tables, to check what the product's library measured.

Its filters are those that the recommendation prints for 48 kHz, so audio of other rates is resampled first: by
its spectrum, which keeps all that is below half the rate. A windowed filter would lose treble there, which counts most.
"""

import numpy as np
from scipy.signal import lfilter, resample

RATE = 48_000
SHELF = ([1.53512485958697, -2.69169618940638, 1.19839281085285], [1.0, -1.69065929318241, 0.73248077421585])
HIGH_PASS = ([1.0, -2.0, 1.0], [1.0, -1.99004745483398, 0.99007225036621])
BLOCK, HOP = int(0.4 * RATE), int(0.1 * RATE)  # blocks of 400 ms that overlap by 75 %


def integrated_lufs(audio: np.ndarray, sample_rate_hz: int) -> float:
    """Of mono audio [T]; blocks that the end cuts are left out, as the recommendation says."""
    wave = resample(audio.astype(np.float64), round(len(audio) * RATE / sample_rate_hz))
    weighted = lfilter(*HIGH_PASS, lfilter(*SHELF, wave))
    powers = np.array([np.mean(weighted[n : n + BLOCK] ** 2) for n in range(0, len(weighted) - BLOCK + 1, HOP)])
    loud = powers[to_lufs(powers) > -70.0]
    return float(to_lufs(np.mean(loud[to_lufs(loud) > to_lufs(np.mean(loud)) - 10.0])))


def to_lufs(power):
    return -0.691 + 10.0 * np.log10(np.maximum(power, 1e-20))
