"""The paired comparison against numbers worked out by hand."""

import math

import numpy as np
import pytest

from rlloop.evaluation.statistics import bootstrap_interval, estimate, paired, prompt_means


def test_means_gain_and_p_by_hand():
    # Prompt means before 0, 1, 2, 3; after 1, 3, 5, 7: gains 1, 2, 3, 4, mean 2.5, sd sqrt(5/3), t = 2.5 / (sd / 2).
    before = [[-1.0, 1.0], [0.0, 2.0], [2.0, 2.0], [3.0, 3.0]]
    after = [[1.0, 1.0], [2.0, 4.0], [5.0, 5.0], [6.0, 8.0]]
    result = paired(before, after)
    assert (result.mean_before, result.mean_after, result.gain) == (1.5, 4.0, 2.5)
    assert (result.num_prompts, result.num_missing) == (4, 0)
    # With 3 degrees of freedom, P(|T| > t) = 1 - 2/pi * (atan(u) + u / (1 + u^2)), u = t / sqrt(3).
    u = 2.5 / (math.sqrt(5 / 3) / 2) / math.sqrt(3)
    assert result.p_value == pytest.approx(1 - 2 / math.pi * (math.atan(u) + u / (1 + u * u)), rel=1e-9)
    assert 1.0 <= result.ci_low < 2.5 < result.ci_high <= 4.0


def test_missing_values_are_dropped_in_pairs_and_counted():
    before = [[0.0, None], [1.0, 5.0], [None, float("nan")]]
    after = [[1.0, 9.0], [2.0, None], [1.0, 1.0]]
    result = paired(before, after)
    assert result.num_missing == 4
    assert (result.num_prompts, result.mean_before, result.mean_after) == (2, 0.5, 1.5)


def test_prompts_weigh_the_same_whatever_is_missing():
    result = paired([[0.0, 0.0, 0.0], [0.0, None, None]], [[0.0, 0.0, 0.0], [1.0, None, None]])
    assert result.gain == 0.5


def test_one_prompt_has_no_interval_and_proves_nothing():
    result = paired([[0.0, 1.0]], [[1.0, 2.0]])
    assert (result.gain, result.p_value, result.num_prompts) == (1.0, 1.0, 1)
    assert math.isnan(result.ci_low) and math.isnan(result.ci_high)


def test_without_any_pair_everything_is_undefined():
    result = paired([[None]], [[1.0]])
    assert math.isnan(result.gain) and result.p_value == 1.0 and result.num_prompts == 0


@pytest.mark.parametrize(("gain", "p_value"), [(0.0, 1.0), (0.1, 0.0), (-0.1, 0.0)])
def test_equal_gains(gain, p_value):
    before = np.array([[0.1], [0.7], [0.3]])
    result = paired(before, before + gain)
    assert result.p_value == p_value
    assert result.ci_low == pytest.approx(gain) and result.ci_high == pytest.approx(gain)


def test_interval_is_seeded_and_near_the_normal_one():
    gains = np.random.default_rng(0).normal(0.1, 0.2, size=400)
    low, high = bootstrap_interval(gains, seed=1)
    assert (low, high) == bootstrap_interval(gains, seed=1)
    half = 1.96 * gains.std() / 20
    assert low == pytest.approx(gains.mean() - half, abs=0.003)
    assert high == pytest.approx(gains.mean() + half, abs=0.003)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\[1, 2\] and \[1, 1\]"):
        paired([[0.0, 1.0]], [[0.0]])


def test_estimate_is_the_mean_over_prompts_of_what_is_there():
    found = estimate([[1.0, 3.0], [5.0, None], [None, float("nan")]])
    assert (found.mean, found.num_prompts, found.num_missing) == (3.5, 2, 3)
    assert 2.0 <= found.ci_low < 3.5 < found.ci_high <= 5.0
    assert np.array_equal(prompt_means([[1.0, 3.0], [None, None]]), [2.0, np.nan], equal_nan=True)
    assert math.isnan(estimate([[None]]).mean) and estimate([[None]]).num_prompts == 0
