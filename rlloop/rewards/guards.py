"""Refuses clips whose score would mean nothing. Each clip by itself: a broken one never costs its neighbours."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlloop.audio.resample import MAX_FILTER_VALUES, filter_values
from rlloop.rewards.base import Clip, Score

MIN_SECONDS = 1.0  # a third of the ear's 3 s patch; less would be the same second heard many times
MAX_SECONDS = 300.0  # a whole track; what is longer is scored in segments, which is another reward (section 8.1)
MIN_RATE_HZ = 16_000  # TuneJury is trained on sounds up to 8 kHz; 8 kHz audio would be judged for the missing octave
REFERENCE_HZ = 48_000  # every reward's own rate divides it
SILENCE_DBFS = -60.0  # the quietest of 240 real clips lies at -38 dBFS
CLIPPED_LEVEL = 0.999
MAX_CLIPPED_SHARE = 0.01  # 240 real clips, loud ones included, have at most 0.0002: fifty times that is distortion


def refuse(clip: Clip) -> str | None:
    """The reason why a clip is not scored, or None. Says what was found and what was expected."""
    return refuse_shape(clip) or refuse_sound(clip.audio)


def refuse_shape(clip: Clip) -> str | None:
    """What is wrong with its form, rate or length."""
    audio, rate = clip.audio, clip.sample_rate_hz
    if audio.ndim != 1:
        return f"shape {audio.shape}, expected mono [T]"
    if not np.issubdtype(audio.dtype, np.floating):
        return f"{audio.dtype} samples, expected float within ±1"
    if low := refuse_rate(rate):
        return low
    if filter_values(rate, REFERENCE_HZ) > MAX_FILTER_VALUES:
        return f"sample rate {rate} Hz, expected one that shares a divisor with {REFERENCE_HZ} Hz"
    seconds = len(audio) / rate
    if seconds < MIN_SECONDS:
        return f"too short: {seconds:.2f} s, expected at least {MIN_SECONDS:g} s"
    if seconds > MAX_SECONDS:
        return f"too long: {seconds:.0f} s, expected at most {MAX_SECONDS:g} s"
    return None


def refuse_rate(rate_hz: int) -> str | None:
    """Why a recording of this rate is not scored, whatever it was resampled to afterwards."""
    if rate_hz >= MIN_RATE_HZ:
        return None
    return f"sample rate {rate_hz} Hz, expected at least {MIN_RATE_HZ}: half of what is heard would be missing"


def refuse_sound(audio: np.ndarray) -> str | None:
    """What is wrong with samples [T], at least one: not finite, silent (a constant is), or clipped."""
    finite = np.isfinite(audio)
    if not finite.all():
        return f"non-finite: {np.count_nonzero(~finite)} of {len(audio)} samples"
    rms = float(np.std(audio, dtype=np.float64))
    if rms < 10 ** (SILENCE_DBFS / 20):
        return f"silent: {20 * np.log10(max(rms, 1e-10)):.0f} dBFS, expected at least {SILENCE_DBFS:.0f}"
    clipped = float(np.mean(np.abs(audio) >= CLIPPED_LEVEL))
    if clipped > MAX_CLIPPED_SHARE:
        return f"clipped: {clipped:.1%} of the samples at {CLIPPED_LEVEL} or beyond, at most {MAX_CLIPPED_SHARE:.0%}"
    return None


def score_guarded(clips: Sequence[Clip], values: Callable[[list[Clip]], Sequence[float | Score]]) -> list[Score]:
    """Scores the clips that pass the guards by `values`; the others, and non-finite values, are missing with a reason.

    Args:
        values: a number, or a missing score, for each clip it is given; never called with an empty list. Where it
            raises, it is called again with halves of them, down to one clip, whose reason the error is.
    """
    reasons = [refuse(clip) for clip in clips]
    good = [clip for clip, reason in zip(clips, reasons, strict=True) if reason is None]
    scores = iter(score_in_parts(good, values) if good else [])
    return [next(scores) if reason is None else Score(None, reason) for reason in reasons]


def score_in_parts(clips: list[Clip], values: Callable[[list[Clip]], Sequence[float | Score]]) -> list[Score]:
    """`values` of the clips; where it raises, of halves of them, down to the one clip whose reason the error is."""
    try:
        found = [_to_score(value) for value in values(clips)]
    except Exception as error:  # perhaps memory for fewer would have done, perhaps one clip is to blame
        if len(clips) == 1:
            return [Score(None, f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")]
        half = len(clips) // 2
        return score_in_parts(clips[:half], values) + score_in_parts(clips[half:], values)
    if len(found) != len(clips):  # nobody knows whose they are
        raise ValueError(f"a reward returned {len(found)} scores for {len(clips)} clips")
    return found


def _to_score(found: Any) -> Score:
    """A number, or anything with `value` and `reason`, as a score; what is not finite is missing."""
    value, reason = (found.value, found.reason) if hasattr(found, "value") else (found, None)
    if value is None:
        return Score(None, reason or "no reason given")
    return Score(float(value)) if np.isfinite(value) else Score(None, f"the reward itself is {value}")
