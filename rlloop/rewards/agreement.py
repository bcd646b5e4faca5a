"""How well a reward agrees with labels: pure functions of arrays."""

from collections.abc import Callable

import numpy as np
from scipy.special import comb
from scipy.stats import rankdata


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson correlation of [N] and [N]; nan if one of them is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = x - np.mean(x), y - np.mean(y)
    norm = np.sqrt(np.sum(x * x) * np.sum(y * y))
    return float(np.sum(x * y) / norm)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman rank correlation of [N] and [N], ties at their mean rank."""
    return pearson(rankdata(x), rankdata(y))


def within_system_spearman(x: np.ndarray, y: np.ndarray, system: np.ndarray) -> dict[str, float]:
    """Spearman inside each system [N]: what is left when the reward may not profit from telling systems apart."""
    return {str(name): spearman(x[system == name], y[system == name]) for name in np.unique(system)}


def right_of_ten(similarity: np.ndarray, truth: np.ndarray, num_choices: int = 10) -> float:
    """Share of clips whose own prompt wins against nine others, in expectation over all draws of the nine.

    With k of the M - 1 other prompts less similar than the true one, nine drawn without replacement all lose with
    probability C(k, 9) / C(M - 1, 9). Chance is 0.1. A tie counts as lost.

    Args:
        similarity: [N, M] of N clips and M prompts.
        truth: [N] index of each clip's own prompt.
    """
    num_clips, num_prompts = similarity.shape
    own = similarity[np.arange(num_clips), truth]
    below = np.sum(similarity < own[:, None], axis=1)
    others = num_choices - 1
    return float(np.mean(comb(below, others) / comb(num_prompts - 1, others)))


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float], groups: np.ndarray, num_draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of a statistic of rows, drawing whole groups (prompts), whose rows are not independent.

    Args:
        statistic: row indices to a number.
        groups: [N] the group of each row.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    draws = [
        statistic(np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))]))
        for _ in range(num_draws)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
