"""A judge that falls while the reward rises ends a run that asked for it, and the same command goes on if told to."""

import pytest

from rlloop.loop import checkpoints
from rlloop.loop import records as r
from tests.ray import runs
from tests.ray.conftest import SYNCHRONOUS

pytestmark = [pytest.mark.ray, pytest.mark.long]
OVERRIDES = (
    SYNCHRONOUS,
    "generator.options={step_delay_s: 0.2}",  # time to evaluate every version
    "stages.0.generations=6",
    "evaluation.scores=['tests.fakes:Loudness', 'tests.fakes:Betrayed']",
)


def test_the_alarm_stops_and_rolls_back_and_the_run_goes_on_when_told(tmp_path):
    run_dir = tmp_path / "run"
    summary = runs.finish(runs.start(run_dir, *OVERRIDES, "evaluation.alarm.action=rollback"), run_dir, status=3)
    first = summary["alarms"][0]
    assert summary["status"] == "stopped" and "Betrayed" in summary["reason"]
    assert first["judge"] == "Betrayed" and first["change"] < 0 < first["reward_change"]
    assert summary["result_version"] == first["best_version"] == 0
    for evaluation in summary["evaluations"]:  # what a rollback may go back to stays
        assert checkpoints.read_marker(checkpoints.folder(run_dir, evaluation["version"]))
    stopped_at = runs.count(runs.records(run_dir), r.Published)
    assert stopped_at < 6

    again = runs.run(run_dir, *OVERRIDES)  # the alarm's action decides no result: the same run goes on, warned
    assert again["status"] == "finished" and again["alarms"] and again["result_version"] == 6
    runs.check_exactness(run_dir, *OVERRIDES)
