"""Whether a score falls, or a set of clips moves away, over several evaluations of the same prompts and seeds.

The statistic is the least-squares slope over versions. A score has one slope a prompt, so a t-test over prompts judges
it; the distance of a set from a reference has one slope in all, so it is judged by exchanging versions within prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

MIN_PROMPTS = 4
STOP_AFTER = 10  # permutations at least as extreme: what is nowhere near significant needs no more
BATCH = 20  # permutations at once


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
    complete = np.isfinite(scores).all(axis=0)
    kept = complete.any(axis=1)
    if kept.sum() < MIN_PROMPTS:
        return UNKNOWN
    weights = complete[kept] / complete[kept].sum(axis=1, keepdims=True)
    means = (np.where(complete, scores, 0.0)[:, kept] * weights).sum(axis=2)  # [V, P]
    changes = slope_weights(versions) @ means
    if np.ptp(changes) <= 1e-12 * max(1.0, float(np.abs(changes).max())):  # equal but for rounding
        p = 1.0 if direction * changes.mean() <= 1e-12 else 0.0
    else:
        p = stats.ttest_1samp(changes, 0.0, alternative="greater" if direction > 0 else "less").pvalue
    return Trend(float(changes.mean()), float(p), int(kept.sum()))


def shift_trend(
    embeddings: np.ndarray, versions: Sequence[int], reference_mean: np.ndarray, *, level: float, seed: int = 0
) -> Trend:
    """Whether the mean embedding moves away from a reference: a permutation test that exchanges versions in prompts.

    Of a Frechet distance this is the part that a policy does not raise by growing more uniform. Permutations are drawn
    until ten are as extreme as what was found (Besag and Clifford 1991), at most 20 / level.

    Args:
        embeddings: [V, P, S, D]; a (prompt, seed) that lacks one at some version (NaN) is left out at all.
        reference_mean: [D].
        level: that the p-value will be compared with.
    """
    complete = np.isfinite(embeddings).all(axis=(0, 3))
    prompts, seeds = np.nonzero(complete)
    groups = np.unique(prompts, return_inverse=True)[1]
    num_prompts = int(groups.max(initial=-1)) + 1
    if num_prompts < MIN_PROMPTS:
        return UNKNOWN
    clips = embeddings[:, prompts, seeds].astype(np.float64) - reference_mean  # [V, n, D]
    num_versions, n, dim = clips.shape
    pool = clips.reshape(num_versions * n, dim)
    products, weights = pool @ pool.T, slope_weights(versions)

    def changes(rows: np.ndarray) -> np.ndarray:
        """[B, V, n] rows of the pool -> [B]."""
        members = np.zeros((*rows.shape[:2], len(pool)))
        np.put_along_axis(members, rows, 1.0, axis=2)
        return squared_shifts(products, members) @ weights

    own = np.arange(num_versions * n).reshape(1, num_versions, n)
    found = float(changes(own)[0])
    rng, drawn, extreme = np.random.default_rng(seed), 0, 0
    while extreme < STOP_AFTER and drawn < 20 / level:
        orders = rng.permuted(np.tile(np.arange(num_versions), (BATCH, num_prompts, 1)), axis=2)  # [B, P, V]
        for change in changes(orders[:, groups].transpose(0, 2, 1) * n + np.arange(n)):
            drawn, extreme = drawn + 1, extreme + int(change >= found)
            if extreme == STOP_AFTER:
                return Trend(found, extreme / drawn, num_prompts)
    return Trend(found, (extreme + 1) / (drawn + 1), num_prompts)


def squared_shifts(products: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Squared length of the mean of some vectors, without bias from their number: the mean product of any two of them.

    Args:
        products: [N, N] inner products.
        members: [..., N] of 0 and 1.
    """
    total = np.einsum("...i,...i->...", members @ products, members)
    n = members.sum(axis=-1)
    return (total - members @ np.diagonal(products)) / (n * (n - 1))
