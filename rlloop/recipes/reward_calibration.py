"""Calibrates a reward on compared systems (reference.md section 8.4): what each system's clips score too high.

Offsets are subtracted before rewards of different systems are compared. How much that helps is measured by
cross-validation: every comparison is judged by offsets that never saw it.
"""

from __future__ import annotations

import numpy as np

from rlloop.data.comparisons import Comparisons
from rlloop.rewards.calibration import expected_calibration_error, fit_offsets, negative_log_likelihood, pair_accuracy


def calibrate(
    data: Comparisons, *, strength: float = 1.0, anchor: str | None = None, num_folds: int = 5, seed: int = 0
) -> dict:
    """Offsets of all systems from all comparisons, and held-out figures before and after.

    Args:
        strength: of the penalty on offsets; 1 is the published one.
        anchor: a system whose offset stays 0; without one, the penalty fixes the level.
        num_folds: parts of the cross-validation, drawn by `seed`.
    Returns:
        offsets by system, sizes, and held-out accuracy, calibration error and negative log likelihood.
    Raises:
        ValueError: an unknown anchor, or fewer decided comparisons than folds.
    """
    systems = sorted({*data.system_a, *data.system_b})
    if anchor is not None and anchor not in systems:
        raise ValueError(f"anchor {anchor!r} occurs in no comparison; found {', '.join(systems)}")
    decided = data.target != 0.5
    if not 2 <= num_folds <= decided.sum():
        raise ValueError(
            f"{num_folds} folds of {decided.sum()} decided comparisons; expected 2 folds or more of 1 each"
        )
    number = {system: index for index, system in enumerate(systems)}
    a, b = (np.array([number[s] for s in side])[decided] for side in (data.system_a, data.system_b))
    margin, target = (data.reward_a - data.reward_b)[decided], data.target[decided]
    fixed = None if anchor is None else number[anchor]

    def fit(rows: np.ndarray) -> np.ndarray:
        found = (values[rows] for values in (margin, a, b, target))
        return fit_offsets(*found, len(systems), strength=strength, anchor=fixed)

    fold = np.random.default_rng(seed).permutation(len(margin)) % num_folds
    after, loss = margin.copy(), np.zeros(len(margin))
    for one in range(num_folds):
        rows = np.flatnonzero(fold == one)
        offsets = fit(np.flatnonzero(fold != one))
        after[rows] = margin[rows] - offsets[a[rows]] + offsets[b[rows]]
        loss[rows] = negative_log_likelihood(offsets, margin[rows], a[rows], b[rows], target[rows])
    before_loss = negative_log_likelihood(np.zeros(len(systems)), margin, a, b, target)
    return {
        "offsets": dict(zip(systems, fit(np.arange(len(margin))).tolist(), strict=True)),
        "anchor": anchor,
        "strength": strength,
        "comparisons": len(margin),
        "ties_left_out": int((~decided).sum()),
        "heldout": {
            "folds": num_folds,
            "seed": seed,
            "before": figures(margin, target, before_loss),
            "after": figures(after, target, loss),
        },
    }


def figures(margin: np.ndarray, target: np.ndarray, loss: np.ndarray) -> dict[str, float]:
    """Accuracy, calibration error and mean negative log likelihood of margins [N]."""
    return {
        "accuracy": pair_accuracy(margin, target),
        "calibration_error": expected_calibration_error(margin, target),
        "negative_log_likelihood": float(loss.mean()),
    }
