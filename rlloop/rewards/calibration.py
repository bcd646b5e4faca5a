"""How far a reward's margins can be trusted on pairs, and what each system's clips score too high: functions of arrays.

Everywhere a margin is r_a - r_b, and a target is 1 where a was preferred, 0 where b was, and 0.5 for a tie.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

NUM_BINS = 10
MAX_SLOPE = 1e-3  # the published penalty curves by 2 or more, so offsets are then right to 5e-4


def pair_accuracy(margin: np.ndarray, target: np.ndarray) -> float:
    """Share of pairs whose margin points to the winner; ties are left out, and a margin of 0 is half right.

    Args:
        margin, target: [N].
    Returns:
        nan if every pair is a tie.
    """
    decided = target != 0.5
    if not decided.any():
        return float("nan")
    return float(np.mean((np.sign(margin[decided]) * np.sign(target[decided] - 0.5) + 1) / 2))


def expected_calibration_error(margin: np.ndarray, target: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """Mean gap between confidence sigmoid(|margin|) and accuracy over bins of |margin| with equally many pairs.

    Reference.md section 8.3: ten bins, ties left out.

    Args:
        margin, target: [N].
    Returns:
        nan if every pair is a tie.
    """
    decided = target != 0.5
    if not decided.any():
        return float("nan")
    margin, target = margin[decided], target[decided]
    order = np.argsort(np.abs(margin), kind="stable")
    gaps = [
        len(rows) * abs(expit(np.abs(margin[rows])).mean() - pair_accuracy(margin[rows], target[rows]))
        for rows in np.array_split(order, min(num_bins, len(order)))
    ]
    return float(np.sum(gaps) / len(order))


def negative_log_likelihood(
    offsets: np.ndarray, margin: np.ndarray, system_a: np.ndarray, system_b: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """-log P of what was preferred, with P(a better) = sigmoid((r_a - offset_a) - (r_b - offset_b)).

    Args:
        offsets: [S]; margin, target: [N]; system_a, system_b: [N] numbers of systems.
    Returns:
        [N].
    """
    logit = margin - offsets[system_a] + offsets[system_b]
    return np.logaddexp(0, logit) - target * logit


def calibration_objective(
    offsets: np.ndarray,
    margin: np.ndarray,
    system_a: np.ndarray,
    system_b: np.ndarray,
    target: np.ndarray,
    strength: float,
) -> tuple[float, np.ndarray]:
    """Sum of the negative log likelihoods + strength * |offsets|^2, not half of it, and the gradient [S].

    Reference.md section 8.4.
    """
    value = negative_log_likelihood(offsets, margin, system_a, system_b, target).sum() + strength * offsets @ offsets
    slope = expit(margin - offsets[system_a] + offsets[system_b]) - target
    gradient = 2 * strength * offsets
    np.add.at(gradient, system_a, -slope)
    np.add.at(gradient, system_b, slope)
    return float(value), gradient


def fit_offsets(
    margin: np.ndarray,
    system_a: np.ndarray,
    system_b: np.ndarray,
    target: np.ndarray,
    num_systems: int,
    *,
    strength: float = 1.0,
    anchor: int | None = None,
) -> np.ndarray:
    """What to subtract from each system's rewards so that they agree with the preferences (section 8.4).

    Ties are left out. A system without a decided pair gets 0.

    Args:
        margin, target: [N]; system_a, system_b: [N] numbers below `num_systems`.
        strength: of the penalty.
        anchor: a system whose offset stays 0.
    Returns:
        [S] offsets.
    Raises:
        ValueError: the minimiser does not end.
    """
    decided = target != 0.5
    data = (margin[decided], system_a[decided], system_b[decided], target[decided], strength)
    bounds = [(0.0, 0.0) if number == anchor else (None, None) for number in range(num_systems)]
    found = minimize(
        calibration_objective,
        np.zeros(num_systems),
        args=data,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"ftol": 1e-13, "gtol": 1e-8, "maxiter": 10_000},
    )
    slope = np.delete(found.jac, [] if anchor is None else anchor)
    if np.abs(slope).max(initial=0.0) > MAX_SLOPE:  # not `success`: rounding may end the search at the minimum itself
        raise ValueError(f"calibration of {num_systems} systems does not converge: {found.message}")
    return found.x
