"""Refuses clips whose score would mean nothing. Each clip by itself: a broken one never costs its neighbours."""

from collections.abc import Callable, Sequence

import numpy as np

from rlloop.rewards.base import Clip, Score

MIN_SECONDS = 1.0  # a third of the ear's 3 s patch; less would be the same second heard many times
MAX_SECONDS = 300.0  # a whole track; what is longer is scored in segments, which is another reward (section 8.1)
SILENCE_DBFS = -60.0  # the quietest of 240 real clips lies at -38 dBFS
CLIPPED_LEVEL = 0.999
MAX_CLIPPED_SHARE = 0.01  # 240 real clips, loud ones included, have at most 0.0002: fifty times that is distortion


def refuse(clip: Clip) -> str | None:
    """The reason why a clip is not scored, or None. Says what was found and what was expected."""
    audio = clip.audio
    if audio.ndim != 1:
        return f"shape {audio.shape}, expected mono [T]"
    if clip.sample_rate_hz <= 0:
        return f"sample rate {clip.sample_rate_hz} Hz"
    seconds = len(audio) / clip.sample_rate_hz
    if seconds < MIN_SECONDS:
        return f"too short: {seconds:.2f} s, expected at least {MIN_SECONDS:g} s"
    if seconds > MAX_SECONDS:
        return f"too long: {seconds:.0f} s, expected at most {MAX_SECONDS:g} s"
    if not np.isfinite(audio).all():
        return f"non-finite: {np.count_nonzero(~np.isfinite(audio))} of {len(audio)} samples"
    rms = float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))
    if rms < 10 ** (SILENCE_DBFS / 20):
        return f"silent: {20 * np.log10(max(rms, 1e-10)):.0f} dBFS, expected at least {SILENCE_DBFS:.0f}"
    clipped = float(np.mean(np.abs(audio) >= CLIPPED_LEVEL))
    if clipped > MAX_CLIPPED_SHARE:
        return f"clipped: {clipped:.1%} of the samples at {CLIPPED_LEVEL} or beyond, at most {MAX_CLIPPED_SHARE:.0%}"
    return None


def score_guarded(clips: Sequence[Clip], values: Callable[[list[Clip]], Sequence[float | Score]]) -> list[Score]:
    """Scores the clips that pass the guards by `values`; the others, and non-finite values, are missing with a reason.

    Args:
        values: a number, or a missing score, for each clip it is given; never called with an empty list.
    """
    reasons = [refuse(clip) for clip in clips]
    good = [clip for clip, reason in zip(clips, reasons, strict=True) if reason is None]
    numbers = iter(values(good) if good else [])
    return [_to_score(next(numbers)) if reason is None else Score(None, reason) for reason in reasons]


def _to_score(value: float | Score) -> Score:
    if isinstance(value, Score):
        return value
    return Score(float(value)) if np.isfinite(value) else Score(None, f"the reward itself is {value}")
