"""From recordings to training segments: which parts are taken, how they are levelled, and the seeded split.

The rules are those of the published preparation (reference.md section 6). Pure functions: nothing is read here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
import torchaudio

from rlloop.audio.resample import MAX_FILTER_VALUES, filter_values

MAX_SEGMENTS = 10
MIN_SECONDS = 5.0
PEAK, SILENCE = 0.95, 1e-6
HELD_OUT = 100  # recordings each of test and validation
SPLITS = ("train", "validation", "test", "all")


def segment_starts(num_samples: int, segment: int) -> list[int]:
    """First samples of the segments: as many as fit, 1 to 10, evenly spaced from the start to the end.

    Args:
        num_samples: of the recording. segment: samples of a segment; a shorter recording is one segment.
    """
    count = min(MAX_SEGMENTS, max(num_samples // segment, 1))
    interval = (num_samples - segment) // (count - 1) if count > 1 else 0
    return [n * interval for n in range(count)]


def level_peak(audio: np.ndarray) -> np.ndarray:
    """Scales a whole recording [T] to a peak of 0.95.

    Raises:
        ValueError: it is silent, or holds what is no number.
    """
    if not np.isfinite(audio).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(audio))} of {len(audio)} samples are not finite")
    peak = float(np.abs(audio).max(initial=0.0))
    if peak < SILENCE:
        raise ValueError(f"silent: its peak is {peak:.1e}, expected at least {SILENCE:g}")
    return (audio * (PEAK / peak)).astype(np.float32)


def kaiser_best(audio: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Resamples [..., T] as resampy's kaiser_best filter does, which the published loader asks torchaudio for.

    Not rlloop.audio's resampling: that is torchaudio's default, which the rewards were trained with.

    Raises:
        ValueError: rates without a large common divisor.
    """
    if from_hz == to_hz:
        return audio.astype(np.float32, copy=False)
    if filter_values(from_hz, to_hz) > MAX_FILTER_VALUES:
        raise ValueError(f"{from_hz} Hz cannot be resampled to {to_hz} Hz: no large common divisor")
    return torchaudio.functional.resample(
        torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32)),
        from_hz,
        to_hz,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    ).numpy()


def cut_segments(audio: np.ndarray, from_hz: int, to_hz: int, num_samples: int) -> np.ndarray:
    """Levels a mono recording [T] and cuts it into segments [S, num_samples] float32 at `to_hz`; S is 1 to 10.

    A recording shorter than a segment is padded with zeros.

    Raises:
        ValueError: shorter than 5 s, silent, or not to be resampled.
    """
    seconds, segment = len(audio) / from_hz, round(num_samples * from_hz / to_hz)
    if seconds < MIN_SECONDS:
        raise ValueError(f"too short: {seconds:.2f} s, expected at least {MIN_SECONDS:g} s")
    levelled = level_peak(audio)
    parts = np.stack([levelled[start : start + segment] for start in segment_starts(len(audio), segment)])
    found = kaiser_best(parts, from_hz, to_hz)[:, :num_samples]
    return np.pad(found, ((0, 0), (0, num_samples - found.shape[1])))


def choose_split(ids: Sequence[str], split: str) -> list[str]:
    """Ids of a split, in the published order: shuffled by Python's generator with seed 42, then 100 test, 100
    validation, the rest train; "all" leaves them as they are.

    Args:
        ids: of the recordings that exist, in the order of the captions' file.
    Raises:
        ValueError: an unknown split, or too few recordings for it.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    if split == "all":
        return list(ids)
    needed = {"test": HELD_OUT, "validation": 2 * HELD_OUT, "train": 2 * HELD_OUT + 1}[split]
    if len(ids) < needed:
        raise ValueError(
            f"{len(ids)} captions have audio, the split '{split}' needs at least {needed} ({HELD_OUT} are for test, "
            f"{HELD_OUT} for validation, the rest trains); take all of them with --split all"
        )
    shuffled = list(ids)
    random.Random(42).shuffle(shuffled)
    first, last = {"test": (0, HELD_OUT), "validation": (HELD_OUT, 2 * HELD_OUT), "train": (2 * HELD_OUT, None)}[split]
    return shuffled[first:last]
