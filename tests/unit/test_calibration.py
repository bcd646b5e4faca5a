"""Margins and systems: accuracy, calibration error, and anchor offsets by hand and by gradient."""

import json

import numpy as np
import pytest
from scipy.optimize import approx_fprime, brentq
from scipy.special import expit
from typer.testing import CliRunner

from rlloop.commands.main import app
from rlloop.data.comparisons import Comparisons, read_comparisons
from rlloop.recipes.reward_calibration import calibrate
from rlloop.rewards.calibration import (
    calibration_objective,
    expected_calibration_error,
    fit_offsets,
    negative_log_likelihood,
    pair_accuracy,
)


def made_up(num_pairs: int = 400, seed: int = 0) -> Comparisons:
    """Three systems of one quality; the reward likes `loud` by 2 and `dull` by -1 more than people do. Some ties."""
    rng = np.random.default_rng(seed)
    names = np.array(["dull", "loud", "plain"])
    bias = {"dull": -1.0, "loud": 2.0, "plain": 0.0}
    a, b = names[rng.integers(0, 3, num_pairs)], names[rng.integers(0, 3, num_pairs)]
    quality = rng.normal(0, 2, (2, num_pairs))
    target = (rng.random(num_pairs) < expit(quality[0] - quality[1])).astype(float)
    target[::20] = 0.5
    reward = [q + [bias[name] for name in side] for q, side in zip(quality, (a, b), strict=True)]
    return Comparisons(reward[0], reward[1], target, a.tolist(), b.tolist())


# Margins


def test_accuracy_leaves_ties_out():
    margin, target = np.array([1.0, -1, 2, 0, 5, -5]), np.array([1.0, 0, 0, 1, 0.5, 0.5])
    assert pair_accuracy(margin, target) == pytest.approx(2.5 / 4)  # the margin of 0 is half right
    assert np.isnan(pair_accuracy(margin[4:], target[4:]))


def test_calibration_error_by_hand():
    # Two bins of two: |margin| 0 and 0 (confidence 0.5, accuracy 0.5), then 2 and 2 (expit(2) = 0.8808, accuracy 0.5).
    margin, target = np.array([0.0, 0, 2, -2, 9]), np.array([1.0, 0, 1, 1, 0.5])
    assert expected_calibration_error(margin, target, num_bins=2) == pytest.approx((expit(2) - 0.5) / 2)
    assert expected_calibration_error(margin[:2], target[:2], num_bins=10) == pytest.approx(0)


def test_honest_margins_are_calibrated_and_exaggerated_ones_are_not():
    rng = np.random.default_rng(0)
    margin = rng.normal(0, 1.5, 20_000)
    target = (rng.random(20_000) < expit(margin)).astype(float)
    assert expected_calibration_error(margin, target) < 0.015
    assert expected_calibration_error(4 * margin, target) > 0.1


# Offsets


def test_the_likelihood_by_hand():
    # P(a better) = sigmoid((1 - 0.5) - (0 - 0.2)) = sigmoid(0.7)
    one = np.array([1.0]), np.array([0]), np.array([1])
    offsets = np.array([0.5, 0.2])
    assert negative_log_likelihood(offsets, *one, np.array([1.0]))[0] == pytest.approx(-np.log(expit(0.7)))
    assert negative_log_likelihood(offsets, *one, np.array([0.0]))[0] == pytest.approx(-np.log(1 - expit(0.7)))
    value, _ = calibration_objective(offsets, *one, np.array([1.0]), 3.0)
    assert value == pytest.approx(-np.log(expit(0.7)) + 3 * (0.25 + 0.04))  # the whole penalty, not half of it


def test_the_gradient_is_that_of_the_objective():
    rng = np.random.default_rng(0)
    margin, a, b = rng.normal(size=50), rng.integers(0, 4, 50), rng.integers(0, 4, 50)
    target = rng.integers(0, 2, 50).astype(float)
    for offsets in (np.zeros(4), rng.normal(size=4)):
        args = (margin, a, b, target, 0.7)
        numeric = approx_fprime(offsets, lambda x, args=args: calibration_objective(x, *args)[0], 1e-7)
        assert calibration_objective(offsets, *args)[1] == pytest.approx(numeric, abs=1e-5)


def test_two_systems_by_hand():
    # One win of a with equal rewards: by symmetry offsets (-x, x), minimising log(1 + exp(-2 x)) + 2 x^2,
    # so 4 x = 2 sigmoid(-2 x).
    x = brentq(lambda x: 4 * x - 2 * expit(-2 * x), 0, 1)
    one = np.zeros(1), np.array([0]), np.array([1]), np.ones(1)
    assert fit_offsets(*one, 2) == pytest.approx([-x, x], abs=1e-6)
    # With a pinned at 0: minimise log(1 + exp(-y)) + y^2, so 2 y = sigmoid(-y).
    y = brentq(lambda y: 2 * y - expit(-y), 0, 1)
    assert fit_offsets(*one, 2, anchor=0) == pytest.approx([0, y], abs=1e-6)
    assert fit_offsets(*one, 2, strength=1e6) == pytest.approx([0, 0], abs=1e-5)


def test_ties_and_strangers_have_no_say():
    one = np.zeros(2), np.array([0, 2]), np.array([1, 1]), np.array([1.0, 0.5])
    offsets = fit_offsets(*one, 4)
    assert offsets[2:] == pytest.approx([0, 0]) and offsets[1] > 0.1


def test_offsets_find_what_the_reward_overrates():
    found = calibrate(made_up(4000), anchor="plain")
    assert found["offsets"]["plain"] == 0
    assert found["offsets"]["loud"] == pytest.approx(2, abs=0.25)
    assert found["offsets"]["dull"] == pytest.approx(-1, abs=0.25)
    heldout = found["heldout"]
    assert heldout["after"]["accuracy"] > heldout["before"]["accuracy"] + 0.02
    assert heldout["after"]["negative_log_likelihood"] < heldout["before"]["negative_log_likelihood"]
    assert found["comparisons"] + found["ties_left_out"] == 4000 and found["ties_left_out"] == 200


def test_held_out_means_held_out():
    # Labels at random: offsets fitted to a pair's own label would seem to help.
    rng = np.random.default_rng(1)
    names = [f"system {n}" for n in range(60)]
    a, b = rng.permutation(60).tolist(), rng.permutation(60).tolist()
    systems = [[names[n] for n in side] for side in (a, b)]
    data = Comparisons(np.zeros(60), np.zeros(60), rng.integers(0, 2, 60).astype(float), *systems)
    found = calibrate(data, strength=0.01)
    assert found["heldout"]["after"]["accuracy"] < 0.7
    assert calibrate(data, strength=0.01) == found


@pytest.mark.parametrize(
    ("options", "message"),
    [({"anchor": "none"}, "anchor 'none' occurs in no comparison"), ({"num_folds": 500}, "500 folds of 38 decided")],
)
def test_what_cannot_be_calibrated_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        calibrate(made_up(40), **options)


# Files and the command


def write(path, data: Comparisons) -> list[dict]:
    winners = {1.0: "model_a", 0.0: "model_b", 0.5: "tie"}
    columns = zip(data.reward_a, data.reward_b, data.system_a, data.system_b, data.target, strict=True)
    rows = [
        {"reward_a": ra, "reward_b": rb, "system_a": a, "system_b": b, "winner": winners[t]}
        for ra, rb, a, b, t in columns
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return rows


def test_the_command_writes_offsets(tmp_path):
    write(tmp_path / "pairs.jsonl", made_up())
    out = tmp_path / "new" / "offsets.json"
    result = CliRunner().invoke(
        app, ["reward", "calibrate", str(tmp_path / "pairs.jsonl"), "--out", str(out), "--anchor", "plain"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text()) == calibrate(made_up(), anchor="plain")
    assert "+0.000  plain" in result.output and "held-out accuracy" in result.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"winner": "a"}, "winner of row 1 is 'a', expected one of model_a, model_b, tie"),
        ({"reward_a": None}, "reward_a of row 1 is None, expected a number"),
        ({"system_b": ""}, "system_b of row 1 is empty"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, change, message):
    rows = write(tmp_path / "pairs.jsonl", made_up(5))
    rows[1] |= change
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(ValueError, match=message):
        read_comparisons(tmp_path / "pairs.jsonl")


def test_a_file_that_is_none_is_refused(tmp_path):
    for name, text, message in [
        ("a.jsonl", "{", "line 1 is not JSON"),
        ("b.jsonl", "", "holds no rows"),
        ("c.parquet", "x", "not a readable Parquet"),
        ("list.jsonl", '{"winner": "tie"}\n["tie"]', "line 2 is a list, expected an object"),
        ("number.jsonl", "3", "line 1 is a int, expected an object"),
        ("latin.jsonl", '{"winner": "tie"}\n{"system_a": "\xe9"}', "line 2 is not UTF-8"),
        ("mixed.jsonl", '{"reward_a": 1.0}\n{"reward_a": "x"}', "values of different kinds in different lines"),
        ("mixed2.jsonl", '{"system_a": "x"}\n{"system_a": 1}', "values of different kinds in different lines"),
        ("d.jsonl", '{"system_a": "x", "system_b": "y", "winner": "tie"}', "has no reward_a"),
    ]:
        (tmp_path / name).write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=message) as caught:
            read_comparisons(tmp_path / name)
        assert "\n" not in str(caught.value) and name in str(caught.value)
    with pytest.raises(ValueError, match="missing"):
        read_comparisons(tmp_path / "nowhere.jsonl")
