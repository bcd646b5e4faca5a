"""The summary: after is the last version, guards, files."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from rlloop.config import build
from rlloop.views.summary import alarm_lines, build_summary, print_summary, verdict_lines, write_summary
from tests.unit.snapshots import ALIGNMENT, JUDGE, REWARD, evaluation, snapshot

CONFIG = build({"evaluation": {"num_prompts": 2, "seeds_per_prompt": 2}})


def test_after_is_the_last_version_not_the_best(tmp_path):
    summary = build_summary(CONFIG, snapshot(str(tmp_path)))
    assert summary["reward_before"] == pytest.approx(0.2)
    assert summary["reward_after"] == pytest.approx(0.4)  # version 1 had 0.9
    assert summary["reward_gain"] == pytest.approx(0.2)
    assert summary["score_label"] == REWARD
    assert summary["num_eval_prompts"] == 2 and summary["policy_versions"] == 2
    assert [entry["version"] for entry in summary["evaluations"]] == [0, 1, 2]


def test_without_an_evaluation_of_the_last_version_after_is_the_newest_that_has_one(tmp_path):
    stopped = build_summary(CONFIG, snapshot(str(tmp_path), version=3), status="stopped", reason="SIGINT received")
    assert (stopped["after_version"], stopped["policy_versions"]) == (2, 3)
    assert stopped["reward_gain"] == pytest.approx(0.2) and stopped["paired_p_value"] is not None
    assert "after is version 2: of 3 versions it is the newest that was evaluated" in verdict_lines(stopped)
    whole = build_summary(CONFIG, snapshot(str(tmp_path)))
    assert whole["after_version"] == 2 and not any("newest" in line for line in verdict_lines(whole))


@pytest.mark.parametrize("versions", [[0], [2]])
def test_without_a_before_or_an_after_there_is_no_gain(tmp_path, versions):
    evaluations = tuple(evaluation(version, [[0.0, 0.2], [0.4, 0.2]]) for version in versions)
    stopped = build_summary(CONFIG, snapshot(str(tmp_path), evaluations=evaluations), status="stopped", reason="SIGINT")
    assert stopped["reward_gain"] is None and stopped["paired_p_value"] is None
    assert (stopped["reward_before"], stopped["reward_after"]).count(None) == 1
    assert verdict_lines(stopped)[0].startswith("no before and after")
    json.dumps(stopped, allow_nan=False)


@pytest.mark.parametrize(("action", "goes_on"), [("warn", False), ("stop", True), ("rollback", True)])
def test_only_where_an_alarm_ends_runs_the_summary_says_how_to_go_on(tmp_path, action, goes_on):
    settings = {"evaluation": {"alarm": {"action": action}}, "stages": [{"name": "a", "generations": 3}]}
    found = {"judge": JUDGE, "text": "judge_mini fell", "ranking": [2, 0, 1]}
    rung = (evaluation(0, [[0.0, 0.2], [0.4, 0.2]]), replace(evaluation(2, [[0.1, 0.3], [0.7, 0.5]]), alarms=(found,)))
    summary = build_summary(
        build(settings), snapshot(str(tmp_path), evaluations=rung), status="stopped", reason="SIGINT"
    )
    lines = alarm_lines(summary)
    assert lines[0] == "ALARM: judge_mini fell" and ("goes on all the same" in lines[-1]) is goes_on


def test_a_guard_falls_only_if_significant(tmp_path):
    # Equal falls of 0.1 on both prompts: no variance, p = 0. Rises and unequal falls of two prompts prove nothing.
    fallen, unequal = [[0.1, 0.2], [0.3, 0.0]], [[0.1, 0.2], [0.4, 0.1]]
    for after, fell in ((fallen, True), (unequal, False), ([[1.2, 1.3], [1.4, 1.1]], False)):
        evaluations = (evaluation(0, [[0, 0], [0, 0]]), evaluation(2, [[1, 1], [1, 1]], alignment=after))
        guards = build_summary(CONFIG, snapshot(str(tmp_path), evaluations=evaluations))["guards"]
        assert guards[ALIGNMENT]["fell"] is fell
        assert guards[JUDGE] == {"fell": False, "gain": 0.0, "p": 1.0}


def test_different_seeds_are_no_pair(tmp_path):
    first, last = evaluation(0, [[0, 0], [0, 0]]), evaluation(2, [[1, 1], [1, 1]])
    other = replace(last, seeds=[[1, 2], [3, 5]])
    with pytest.raises(ValueError, match="different prompts or seeds"):
        build_summary(CONFIG, snapshot(str(tmp_path), evaluations=(first, other)))


def test_file_is_whole_and_has_what_readers_need(tmp_path):
    path = write_summary(tmp_path, build_summary(CONFIG, snapshot(str(tmp_path))))
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]
    needed = "reward_before reward_after reward_gain ci_low ci_high paired_p_value num_eval_prompts seeds_per_prompt"
    needed += " policy_versions tickets clips_generated wall_seconds scores guards evaluations failures restarts"
    needed += " score_label run_dir status reason"
    assert set(needed.split()) <= json.loads(path.read_text()).keys()


def test_terminal_names_the_commands(tmp_path):
    out = io.StringIO()
    print_summary(build_summary(CONFIG, snapshot("/data/my runs/a")), Console(file=out, width=80))
    assert "tensorboard --logdir '/data/my runs/a'" in out.getvalue()
    assert "gain +0.200" in out.getvalue() and "p = " in out.getvalue()
