"""A sweep's table against hand-computed means, t-intervals and pairs."""

import io
import json

import pytest
from rich.console import Console

from rlloop.recipes.sweep_outcome import Outcome
from rlloop.recipes.sweep_plan import Axis, plan_trials
from rlloop.recipes.sweep_table import aggregate, estimate, figures_of
from rlloop.views.sweep import cells, markdown, settings_table, words

T_2 = 4.302653  # 97.5 % point of Student's t, 2 degrees of freedom
T_1 = 12.706205


def summary(gain, judge=0.0, distance=(5.0, 4.0), label="reward", **other):
    return {
        "status": "finished", "reason": "", "score_label": label, "reward_gain": gain, "alarms": [],
        "policy_versions": 3, "wall_seconds": 60.0,
        "scores": {"judge": {"before": 0.0, "after": judge, "gain": judge, "p": 1.0},
                   label: {"before": 0.5, "after": 0.5 + gain, "gain": gain, "p": 0.1}},
        "evaluations": [{"version": 0, "distances": {"frechet": {"value": distance[0], "n": 9}}},
                        {"version": 3, "distances": {"frechet": {"value": distance[1], "n": 9}}}],
        **other,
    }  # fmt: skip


def swept(tmp_path, *gains, **other):
    """Trials of one axis; gains: per setting one entry a seed, a number or an outcome."""
    trials = plan_trials("mini", [], [Axis("a.rate", tuple(range(len(gains))))], range(len(gains[0])), tmp_path)
    flat = [g if isinstance(g, Outcome) else Outcome("finished", summary=summary(g, **other)) for s in gains for g in s]
    return aggregate(list(zip(trials, flat, strict=True)))


def test_mean_and_t_interval_by_hand():
    found = estimate([0.1, 0.2, 0.3, None, float("nan")])
    half = T_2 * 0.1 / 3**0.5
    assert found["n"] == 3 and found["mean"] == pytest.approx(0.2)
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((0.2 - half, 0.2 + half), abs=1e-6)
    assert estimate([0.1]) == {"mean": 0.1, "ci_low": None, "ci_high": None, "n": 1}
    assert estimate([]) == {"mean": None, "ci_low": None, "ci_high": None, "n": 0}


def test_figures_of_a_run_reward_first_and_distances_of_version_0_and_the_last():
    found = figures_of(summary(0.25, judge=0.125, distance=(5.0, 4.5)))
    assert list(found) == ["reward", "judge", "frechet"]
    assert found["reward"] == {"before": 0.5, "after": 0.75, "gain": 0.25}
    assert found["frechet"] == {"before": 5.0, "after": 4.5, "gain": -0.5}
    plain = summary(0.25) | {
        "evaluations": [{"version": 0, "distances": {"d": 2.0}}, {"version": 3, "distances": {"d": None}}]
    }
    assert figures_of(plain)["d"] == {"before": 2.0, "after": None, "gain": None}


def test_gains_are_paired_with_the_first_setting_by_seed(tmp_path):
    # Seeds differ by far more than settings do: unpaired nothing would be seen, paired the lead is exact.
    found = swept(tmp_path, [0.1, 0.5, 0.9], [0.2, 0.6, 1.0])
    first, second = (row["figures"]["reward"] for row in found["settings"])
    assert first["against_first"] is None
    assert second["against_first"]["mean"] == pytest.approx(0.1)
    assert second["against_first"]["ci_high"] - second["against_first"]["ci_low"] < 1e-9
    assert second["gain"]["ci_high"] - second["gain"]["ci_low"] > 1
    best = found["best"]
    assert (best["label"], best["next"], best["is_told_apart"]) == ("rate=1", "rate=0", True)


def test_a_best_setting_that_is_within_noise_says_so(tmp_path):
    found = swept(tmp_path, [0.1, 0.5], [0.3, 0.4])
    lead = found["best"]["lead"]  # differences 0.2 and -0.1
    half = T_1 * (0.3 / 2**0.5) / 2**0.5
    assert (lead["ci_low"], lead["ci_high"]) == pytest.approx((0.05 - half, 0.05 + half), abs=1e-5)
    assert not found["best"]["is_told_apart"]
    assert any("do not tell the two apart" in line for line in words(found))


def test_one_seed_names_no_best(tmp_path):
    found = swept(tmp_path, [0.1], [0.9])
    assert found["best"] is None and "they share seed 0 alone" in found["notes"][0]
    assert not any("largest" in line for line in words(found))


def test_an_unfinished_trial_is_listed_and_its_seed_is_left_out_of_pairs(tmp_path):
    failed = Outcome("failed", "out of memory")
    found = swept(tmp_path, [0.1, 0.5, 0.9], [0.2, failed, 1.0], [failed, failed, Outcome("waiting")])
    second, third = found["settings"][1:]
    assert second["n"] == 2 and second["seeds"] == [0, 2] and second["figures"]["reward"]["against_first"]["n"] == 2
    assert third["figures"] == {} and [t["state"] for t in third["unfinished"]] == ["failed", "failed", "waiting"]
    assert "failed: rate=1, seed 1: out of memory" in words(found)
    assert cells(found)[1][1][1] == "2 of 3" and cells(found)[1][2][2] == "-"
    assert found["best"] is None and "they share no finished seed" in found["notes"][0]


def test_settings_are_ranked_on_the_seeds_that_all_have_in_common(tmp_path):
    # By its own survivors the second setting leads, 0.8 to 0.35; on seeds 0 and 1 the first does, 0.2 to 0.15.
    alarm = Outcome("stopped", "alarm: reward rose while judge fell")
    found = swept(tmp_path, [0.1, 0.3, 0.4, 0.6], [0.1, 0.2, 2.1, alarm], [0.0, 0.1, alarm, alarm])
    best = found["best"]
    assert found["settings"][1]["figures"]["reward"]["gain"]["mean"] == pytest.approx(0.8)
    assert (best["label"], best["next"], best["seeds"], best["num_candidates"]) == ("rate=0", "rate=1", [0, 1], 3)
    assert best["gain"]["mean"] == pytest.approx(0.2) and best["gain"]["n"] == 2
    assert best["lead"]["mean"] == pytest.approx(0.05) and best["lead"]["n"] == 2
    assert [row["ended_by_alarm"] for row in found["settings"]] == [0, 1, 2]
    text = "\n".join(words(found))
    assert "over the 2 seeds that all settings finished" in text
    assert "rate=1: its alarm ended 1 of 4 runs" in text and "rate=2: its alarm ended 2 of 4 runs" in text
    assert "rate=0: its alarm" not in text


def test_survivors_of_the_alarm_win_nothing(tmp_path):
    alarm = Outcome("stopped", "alarm: reward rose while judge fell")
    found = swept(tmp_path, [0.1, 0.3, 0.4], [alarm, 0.9, alarm])
    assert found["best"] is None and "they share seed 1 alone" in found["notes"][0]
    assert "stopped: rate=1, seed 0: alarm: reward rose while judge fell" in words(found)


def test_nothing_finished_yet_is_a_table_too(tmp_path):
    found = swept(tmp_path, [Outcome("waiting"), Outcome("waiting")])
    assert found["best"] is None and len(cells(found)[1]) == 1


def test_different_rewards_are_not_ranked(tmp_path):
    trials = plan_trials("mini", [], [Axis("a", (0, 1))], [0, 1], tmp_path)
    labels = ["x", "x", "y", "y"]
    done = [(t, Outcome("finished", summary=summary(0.1, label=lb))) for t, lb in zip(trials, labels, strict=True)]
    found = aggregate(done)
    assert found["best"] is None and "different rewards" in found["notes"][0]


def test_table_markdown_and_json_hold_the_figures(tmp_path):
    found = swept(tmp_path, [0.1, 0.3], [0.2, 0.4], judge=-0.02)
    text = markdown(found, "rlloop sweep mini")
    assert "| rate=1 | 2 | +0.500 | +0.800 | +0.300 [" in text and "frechet after, change" in text
    assert "| -0.020 [-0.020, -0.020] | 4, -1.000 [-1.000, -1.000] |" in text
    console = Console(file=io.StringIO(), width=200)
    console.print(settings_table(found))
    assert "gain over first" in console.file.getvalue() and "+0.100 [+0.100, +0.100]" in console.file.getvalue()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
