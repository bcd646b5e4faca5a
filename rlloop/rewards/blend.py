"""Ranking score of a population: one named score as it is, or several as a weighted sum of z-scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def blend(scores: Mapping[str, Sequence[float | None]], weights: Mapping[str, float]) -> np.ndarray:
    """Blends named scores over the population that is passed in (arXiv:2606.21670 stage 2; reference.md section 1.1).

    The paper blends TuneJury's reward and CLAP's similarity with equal weights over all candidates of a round. A single
    name is not scaled, only turned round by a negative weight: its order is all that ranking needs.

    Args:
        scores: name -> [N] values, None or not finite where missing.
        weights: name -> weight.
    Returns:
        [N] float64; NaN wherever any of the weighted scores is missing: a missing score is never zero. It may be an
        array that was passed in, and is to be read only.
    Raises:
        ValueError: no weights, a weight for a score that is not there, or scores of different lengths.
    """
    if not weights or weights.keys() - scores.keys():
        raise ValueError(f"blend: weights for {sorted(weights)}, expected some of the scores {sorted(scores)}")
    columns = {name: as_column(scores[name]) for name in weights}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"blend: one population is expected, but the scores count {lengths}")
    if len(columns) == 1:
        ((name, values),) = columns.items()
        return values if weights[name] > 0 else values * np.sign(weights[name])
    return np.sum([weights[name] * z_scores(values) for name, values in columns.items()], axis=0)


def z_scores(values: np.ndarray) -> np.ndarray:
    """[N] minus the mean, over the standard deviation (divided by N) of those that are not NaN; NaN stays.

    Zero where all are equal: such a score prefers none.
    """
    present = values[~np.isnan(values)]
    spread = present.std() if present.size else 0.0
    # The mean of equal numbers can differ from them by rounding, and the deviation then is that rounding.
    if not spread > 1e-12 * np.abs(present).max(initial=0.0):
        return values * 0.0
    return (values - present.mean()) / spread


def as_column(values: Sequence[float | None]) -> np.ndarray:
    """[N] float64, NaN for what is missing or not finite; an array without infinities stays itself."""
    is_array = isinstance(values, np.ndarray) and values.dtype == np.float64
    column = values if is_array else np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    infinite = np.isinf(column)
    return np.where(infinite, np.nan, column) if infinite.any() else column
