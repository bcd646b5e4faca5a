"""Ranking score of a population: one named score as it is, or several as a weighted sum of z-scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def blend(scores: Mapping[str, Sequence[float | None]], weights: Mapping[str, float]) -> np.ndarray:
    """Blends named scores over the population that is passed in (arXiv:2606.21670 stage 2; reference.md section 1.1).

    Args:
        scores: name -> [N] values, None or NaN where missing.
        weights: name -> weight; a single name is returned unscaled, several as sum of weight * z.
    Returns:
        [N] float64; NaN wherever any of the weighted scores is missing: a missing score is never zero.
    """
    columns = {n: np.array([np.nan if v is None else v for v in scores[n]], dtype=np.float64) for n in weights}
    if len(columns) == 1:
        ((name, values),) = columns.items()
        return values * np.sign(weights[name])
    total = np.zeros(len(next(iter(columns.values()))))
    for name, values in columns.items():
        finite = values[np.isfinite(values)]
        spread = finite.std() if finite.size else 0.0
        total += weights[name] * ((values - finite.mean()) / spread if spread > 0 else values * 0.0)
    return total
