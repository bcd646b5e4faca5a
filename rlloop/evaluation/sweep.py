"""A sweep over the conditioning score s: what a policy makes of being asked for more.

A policy that heeds its condition has a reward that rises with s; alignment and distance say at what price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import rankdata

from rlloop.evaluation.distances import Distance
from rlloop.evaluation.statistics import NUM_RESAMPLES, Scores, estimate, plain, prompt_means


@dataclass(frozen=True)
class Point:
    """The same prompts and seeds sampled at one s (None: without a score). `scores`: name -> [P, S]."""

    s: float | None
    scores: Mapping[str, Scores]
    distances: Mapping[str, Distance] = field(default_factory=dict)


def summarise_sweep(points: Sequence[Point], *, seed: int = 0) -> dict[str, Any]:
    """Plain values: per point each score's mean with interval and each distance with its n; per score the rank
    correlation of s with the mean over prompts, with a bootstrap interval over prompts.

    Raises:
        ValueError: a distance is of another number of clips at one s than at another.
    """
    rows = []
    for point in points:
        found = {name: estimate(values, seed=seed) for name, values in point.scores.items()}
        scores = {
            name: {"mean": plain(e.mean), "ci_low": plain(e.ci_low), "ci_high": plain(e.ci_high),
                   "num_prompts": e.num_prompts, "num_missing": e.num_missing}
            for name, e in found.items()
        }  # fmt: skip
        distances = {name: {"value": plain(d.value), "n": d.n} for name, d in point.distances.items()}
        rows.append({"s": point.s, "scores": scores, "distances": distances})
    _refuse_other_n(rows)
    asked = [point for point in points if point.s is not None]
    names = dict.fromkeys(name for point in asked for name in point.scores)
    return {"points": rows, "spearman": {name: rank_correlation(asked, name, seed) for name in names}}


def _refuse_other_n(rows: Sequence[Mapping[str, Any]]) -> None:
    for name in {name for row in rows for name in row["distances"]}:
        sizes = {row["distances"][name]["n"] for row in rows if name in row["distances"]}
        if len(sizes) > 1:
            raise ValueError(
                f"{name}: the points of the sweep hold {sorted(sizes)} clips, and its value depends on n; sample the "
                "same prompts and seeds at every s"
            )


def rank_correlation(points: Sequence[Point], name: str, seed: int = 0) -> dict[str, float | int | None]:
    """Spearman's rho of s against the mean score, and its 95 % percentile interval over prompts.

    Prompts that lack the score at one s are left out at all. None where undefined: fewer than two points, or no spread.
    """
    values = np.array([prompt_means(point.scores[name]) for point in points if name in point.scores])  # [K, P]
    s = np.array([point.s for point in points if name in point.scores], dtype=float)
    out: dict[str, float | int | None] = {"rho": None, "ci_low": None, "ci_high": None, "num_prompts": 0}
    if len(s) < 2:
        return out
    values = values[:, np.isfinite(values).all(axis=0)]
    num_prompts = values.shape[1]
    if num_prompts == 0:
        return out
    rho = spearman(s, values.mean(axis=1)[None])[0]
    draws = np.random.default_rng(seed).integers(num_prompts, size=(NUM_RESAMPLES, num_prompts))
    weights = np.stack([np.bincount(draw, minlength=num_prompts) for draw in draws]) / num_prompts
    rhos = spearman(s, weights @ values.T)
    rhos = rhos[np.isfinite(rhos)]
    low, high = np.quantile(rhos, [0.025, 0.975]) if num_prompts > 1 and len(rhos) else (np.nan, np.nan)
    return {"rho": plain(rho), "ci_low": plain(low), "ci_high": plain(high), "num_prompts": num_prompts}


def spearman(s: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Rank correlation of s [K] with each row of means [R, K]; ties at their mean rank; NaN without spread."""
    x = rankdata(s) - (len(s) + 1) / 2
    y = rankdata(means, axis=1) - (len(s) + 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return (y @ x) / np.sqrt((x @ x) * (y * y).sum(axis=1))
