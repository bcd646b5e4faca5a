"""The sweep over the score scalar: means, rank correlation and its interval."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from rlloop.evaluation.distances import Distance
from rlloop.evaluation.sweep import Point, spearman, summarise_sweep


def points(rise: float, spread: float) -> list[Point]:
    rng = np.random.default_rng(0)
    return [
        Point(s, {"reward": rise * (s or 0.0) + spread * rng.standard_normal((12, 2))})
        for s in (None, 0.0, 1.0, 2.0, 3.0)
    ]


def test_a_policy_that_heeds_its_score_has_rank_correlation_one():
    found = summarise_sweep(points(rise=1.0, spread=0.01))
    assert found["spearman"]["reward"] == {"rho": 1.0, "ci_low": 1.0, "ci_high": 1.0, "num_prompts": 12}
    assert [row["s"] for row in found["points"]] == [None, 0.0, 1.0, 2.0, 3.0]
    assert found["points"][3]["scores"]["reward"]["mean"] == pytest.approx(2.0, abs=0.02)
    json.dumps(found, allow_nan=False)


def test_noise_has_a_wide_interval_around_its_correlation():
    given = points(rise=0.0, spread=1.0)
    found = summarise_sweep(given)["spearman"]["reward"]
    means = [np.mean(point.scores["reward"]) for point in given[1:]]
    assert found["rho"] == pytest.approx(spearmanr([0, 1, 2, 3], means).statistic)
    assert found["ci_low"] <= found["rho"] <= found["ci_high"] and found["ci_high"] - found["ci_low"] > 0.5


def test_ranks_agree_with_scipy_ties_included():
    s, rows = np.array([0.0, 1.0, 1.0, 2.0]), np.array([[1.0, 3.0, 2.0, 2.0], [4.0, 3.0, 2.0, 1.0]])
    assert np.allclose(spearman(s, rows), [spearmanr(s, row).statistic for row in rows])
    assert np.isnan(spearman(s, np.ones((1, 4)))).all()


def test_a_prompt_without_a_score_at_one_point_is_left_out():
    low, high = [[0.0], [5.0], [1.0]], [[1.0], [None], [2.0]]
    found = summarise_sweep([Point(0.0, {"reward": low}), Point(1.0, {"reward": high})])
    assert (found["spearman"]["reward"]["rho"], found["spearman"]["reward"]["num_prompts"]) == (1.0, 2)
    assert found["points"][1]["scores"]["reward"]["num_missing"] == 1
    one = summarise_sweep([Point(0.0, {"reward": low})])["spearman"]["reward"]
    assert one["rho"] is None


def test_distances_of_other_sizes_are_refused():
    far = {n: {"frechet_mini": Distance("frechet_mini", 1.0, n, "abc", 9)} for n in (6, 5)}
    same = [Point(s, {"reward": [[1.0]]}, far[6]) for s in (0.0, 1.0)]
    assert summarise_sweep(same)["points"][1]["distances"] == {"frechet_mini": {"value": 1.0, "n": 6}}
    with pytest.raises(ValueError, match=r"frechet_mini: .* \[5, 6\] clips"):
        summarise_sweep([same[0], Point(1.0, {"reward": [[1.0]]}, far[5])])
