"""Whether a score falls, or a set of clips moves away, over several evaluations of the same prompts and seeds.

The statistic is the least-squares slope over versions, the unit is the prompt: a policy moves each prompt's clips in
its own way, so versions of one prompt are no repeats of each other, and only what prompts have in common is a trend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

MIN_PROMPTS = 4


@dataclass(frozen=True)
class Trend:
    """`change` over the span in units of the score (slope times its length), and the one-sided p-value.

    NaN and 1 where fewer than `MIN_PROMPTS` prompts are complete.
    """

    change: float
    p_value: float
    num_prompts: int


UNKNOWN = Trend(float("nan"), 1.0, 0)


def slope_weights(versions: Sequence[int]) -> np.ndarray:
    """Weights c [V] with sum(c * y) = slope of y over versions, times the length of the span."""
    x = np.asarray(versions, dtype=float) - np.mean(versions)
    return x / (x @ x) * (x[-1] - x[0])


def score_trend(scores: np.ndarray, versions: Sequence[int], *, direction: int) -> Trend:
    """One-sided t-test over prompts of their slopes.

    Args:
        scores: [V, P, S]; a (prompt, seed) that lacks a value at one version (NaN) is left out at all.
        direction: +1 asks whether it rises, -1 whether it falls.
    """
    means = prompt_values(scores[..., None])[..., 0]  # [V, P]
    if means.shape[1] < MIN_PROMPTS:
        return UNKNOWN
    return _judge(slope_weights(versions) @ means, direction)


def shift_trend(embeddings: np.ndarray, versions: Sequence[int], reference_mean: np.ndarray) -> Trend:
    """Whether the mean embedding moves away from a reference: a one-sided t-test of the jackknife's pseudo-values.

    Of a Frechet distance this is the part that a policy does not raise by growing more uniform. The squared distance
    is not linear in the prompts, hence the jackknife over them (Tukey 1958).

    Args:
        embeddings: [V, P, S, D]; a (prompt, seed) that lacks one at some version (NaN) is left out at all.
        reference_mean: [D].
    """
    values = prompt_values(embeddings)  # [V, P, D]
    num = values.shape[1]
    if num < MIN_PROMPTS:
        return UNKNOWN
    weights = slope_weights(versions)
    products = np.stack([one @ one.T for one in values - reference_mean])  # [V, P, P]
    whole = weights @ mean_product(products)
    rows = np.arange(num)
    without = np.array([weights @ mean_product(products[:, rows != p][:, :, rows != p]) for p in rows])
    return _judge(num * whole - (num - 1) * without, 1)


def prompt_values(values: np.ndarray) -> np.ndarray:
    """[V, P, S, D] -> [V, Q, D]: means over seeds that are finite at every version; a prompt without one falls out."""
    complete = np.isfinite(values).all(axis=(0, 3))  # [P, S]
    kept = complete.any(axis=1)
    weights = complete[kept] / complete[kept].sum(axis=1, keepdims=True)
    return np.einsum("vpsd,ps->vpd", np.where(complete[..., None], values, 0.0)[:, kept].astype(float), weights)


def mean_product(products: np.ndarray) -> np.ndarray:
    """[..., P, P] inner products of deviations to [...] squared length of their mean, without bias from their number.

    The mean product of two different prompts: a prompt's product with itself would add its own spread.
    """
    num = products.shape[-1]
    return (products.sum(axis=(-2, -1)) - np.trace(products, axis1=-2, axis2=-1)) / (num * (num - 1))


def _judge(changes: np.ndarray, direction: int) -> Trend:
    """t-test of changes [P]: whether their mean lies on that side of zero."""
    mean = float(changes.mean())
    if np.ptp(changes) <= 1e-12 * max(1.0, float(np.abs(changes).max())):  # equal but for rounding
        return Trend(mean, 1.0 if direction * mean <= 1e-12 else 0.0, len(changes))
    p = stats.ttest_1samp(changes, 0.0, alternative="greater" if direction > 0 else "less").pvalue
    return Trend(mean, float(p), len(changes))
