"""Before against after on the same prompts and seeds: the gain, its interval and its p-value.

The prompt is the unit: seeds of one prompt are not independent, so they are averaged first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

NUM_RESAMPLES = 10_000
Scores = Sequence[Sequence[float | None]] | np.ndarray


@dataclass(frozen=True)
class Paired:
    """A paired comparison over prompts; all values in units of the score.

    `ci_low`, `ci_high` bound the gain at 95 %. NaN where undefined: everything without a pair, the interval with one
    prompt. `num_missing` counts the (prompt, seed) pairs that were dropped because either value is missing.
    """

    mean_before: float
    mean_after: float
    gain: float
    ci_low: float
    ci_high: float
    p_value: float
    num_prompts: int
    num_missing: int


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its 95 % bootstrap interval over prompts; NaN where undefined.

    `num_missing` counts (prompt, seed) values that are missing; a prompt without any value is no prompt here.
    """

    mean: float
    ci_low: float
    ci_high: float
    num_prompts: int
    num_missing: int


def estimate(scores: Scores, *, seed: int = 0) -> Estimate:
    """The mean of [P, S] scores by prompt and seed; missing ones (None, NaN) are left out of their prompt's mean."""
    means = prompt_means(scores)
    present = means[np.isfinite(means)]
    values = np.array(scores, dtype=float)
    low, high = bootstrap_interval(present, seed)
    mean = float(present.mean()) if len(present) else float("nan")
    return Estimate(mean, low, high, len(present), int((~np.isfinite(values)).sum()))


def prompt_means(scores: Scores) -> np.ndarray:
    """[P, S] -> [P] means over the seeds that have a value; NaN where none has."""
    values = np.array(scores, dtype=float).reshape(len(scores), -1)
    present = np.isfinite(values)
    count = present.sum(axis=1)
    total = np.where(present, values, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def paired(before: Scores, after: Scores, *, seed: int = 0) -> Paired:
    """Compares scores of the same (prompt, seed) pairs.

    Two-sided paired t-test over prompts (Student 1908), each the mean over its seeds; percentile bootstrap of the mean
    gain over prompts (Efron 1979), 10,000 resamples.

    Args:
        before, after: [P, S] scores by prompt and seed; None or NaN where missing. A pair that lacks one is dropped.
        seed: of the bootstrap.
    Returns:
        the comparison. With fewer than two prompts p is 1; with equal gains throughout it is 1 if they are 0, else 0.
    Raises:
        ValueError: the shapes differ.
    """
    x, y = np.array(before, dtype=float), np.array(after, dtype=float)
    if x.shape != y.shape or x.ndim != 2:
        raise ValueError(f"paired scores need one shape [prompts, seeds]; found {list(x.shape)} and {list(y.shape)}")
    complete = np.isfinite(x) & np.isfinite(y)
    kept = complete.any(axis=1)
    weights = complete[kept] / complete[kept].sum(axis=1, keepdims=True)
    prompt_before = (np.where(complete, x, 0.0)[kept] * weights).sum(axis=1)
    prompt_after = (np.where(complete, y, 0.0)[kept] * weights).sum(axis=1)
    gains = prompt_after - prompt_before
    num_missing = int((~complete).sum())
    if len(gains) == 0:
        return Paired(*[float("nan")] * 5, p_value=1.0, num_prompts=0, num_missing=num_missing)
    low, high = bootstrap_interval(gains, seed)
    return Paired(
        mean_before=float(prompt_before.mean()),
        mean_after=float(prompt_after.mean()),
        gain=float(gains.mean()),
        ci_low=low,
        ci_high=high,
        p_value=t_test(gains),
        num_prompts=len(gains),
        num_missing=num_missing,
    )


def t_test(gains: np.ndarray) -> float:
    """Two-sided p-value of the mean of `gains` [P] against zero."""
    if len(gains) < 2:
        return 1.0
    spread = float(np.ptp(gains))
    if spread <= 1e-12 * max(1.0, float(np.abs(gains).max())):  # equal but for rounding: t is 0/0 or infinite
        return 1.0 if abs(gains.mean()) <= 1e-12 else 0.0
    return float(stats.ttest_1samp(gains, 0.0).pvalue)


def bootstrap_interval(gains: np.ndarray, seed: int, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean of `gains` [P]; NaN with fewer than two."""
    if len(gains) < 2:
        return float("nan"), float("nan")
    draws = np.random.default_rng(seed).integers(len(gains), size=(NUM_RESAMPLES, len(gains)))
    means = gains[draws].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def plain(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if math.isfinite(value) else None
