"""The judges of a run: which they are, what evaluations leave for them, and what becomes of an alarm."""

import json
from dataclasses import replace

import numpy as np
import pytest

from rlloop.config import build
from rlloop.loop.snapshot import EvaluationResult
from rlloop.recipes.evaluations import stored_results, write_result
from rlloop.recipes.judges import SetJudges, alarms, read_embeddings, write_embeddings
from rlloop.rewards.base import Clip
from rlloop.views.summary import alarm_lines, build_summary
from tests.unit.snapshots import snapshot

P, S = 8, 2
CONFIG = build(
    {
        "generator": {"target": "tests.fakes:tiny_generator"},
        "evaluation": {"scores": ["tunejury_mini", "judge_mini"], "alarm": {"action": "rollback"}},
        "stages": [{"name": "a", "generations": 3}],
    }
)


def test_judges_are_what_no_stage_uses():
    default = build({})
    assert default.judges() == ["alignment_mini", "judge_mini", "frechet_mini"]  # ranks by the reward alone
    ranked = {"name": "a", "selection": {"rank_by": {"tunejury_mini": 1.0, "alignment_mini": 1.0}}}
    assert build({"stages": [ranked]}).judges() == ["judge_mini", "frechet_mini"]
    assert build({"evaluation": {"alarm": {"judges": []}}}).judges() == []
    assert CONFIG.judges() == ["judge_mini"]  # the ear of frechet_mini was made for the mini stack's clips


@pytest.mark.parametrize(
    ("judge", "message"),
    [("tunejury_mini", "'tunejury_mini' is ranked by or trained with"), ("nobody", "'nobody' is not among")],
)
def test_a_judge_is_held_out_and_evaluated(judge, message):
    with pytest.raises(ValueError, match=message):
        build({"evaluation": {"alarm": {"judges": [judge]}}})


def test_the_alarm_decides_no_result():
    assert build({"evaluation": {"alarm": {"action": "stop"}}}).digest() == build({}).digest()


def evaluations(reward: list[float], judge: list[float]) -> list[EvaluationResult]:
    rng = np.random.default_rng(0)

    def scores(mean: float) -> list:
        return (mean + 0.05 * rng.standard_normal((P, S))).tolist()

    prompts, seeds = [f"prompt {p}" for p in range(P)], [[p, p + 100] for p in range(P)]
    return [
        EvaluationResult(v, "a", prompts, seeds, {"tunejury_mini": scores(r), "judge_mini": scores(j)}, [], 1.0, 2.0)
        for v, (r, j) in enumerate(zip(reward, judge, strict=True))
    ]


def test_an_alarm_is_stored_with_its_evaluation_and_reaches_the_summary(tmp_path):
    results = evaluations([0.0, 0.3, 0.6, 0.9], [0.9, 0.6, 0.3, 0.0])
    found = [alarms(CONFIG, tmp_path, results[: n + 1], num_planned=4) for n in range(4)]
    assert not found[0] and not found[1] and found[3]
    for result, raised in zip(results, found, strict=True):
        write_result(tmp_path, replace(result, alarms=raised))
    stored = stored_results(tmp_path)
    assert stored[3].alarms[0]["judge"] == "judge_mini" and stored[3].alarms[0]["best_version"] == 0
    summary = build_summary(CONFIG, snapshot("runs/x", version=3, evaluations=stored), status="stopped", reason="alarm")
    assert summary["result_version"] == 0 and summary["alarms"][-1]["version"] == 3
    json.dumps(summary)
    lines = alarm_lines(summary)
    assert lines[0].startswith("ALARM: from version 0 to") and "result is version 0" in lines[-2]


def test_a_rollback_names_the_best_version_that_can_still_be_loaded(tmp_path):
    """Under another action checkpoints were removed; a resume that is told to roll back finds what is left."""
    results = evaluations([0.0, 0.3, 0.6, 0.9], [0.6, 0.9, 0.3, 0.0])
    raised = alarms(CONFIG, tmp_path, results, num_planned=4)
    write_result(tmp_path, replace(results[3], alarms=raised))
    shown = snapshot("runs/x", version=3, evaluations=[*results[:3], *stored_results(tmp_path)])
    assert raised[0]["best_version"] == 1
    for kept, named in (({0, 1, 2, 3}, 1), ({0, 2, 3}, 0), ({2, 3}, 2), ({0}, 0)):
        assert build_summary(CONFIG, shown, kept)["result_version"] == named


def test_no_alarm_where_judge_and_reward_rise_together(tmp_path):
    results = evaluations([0.0, 0.3, 0.6, 0.9], [0.0, 0.3, 0.6, 0.9])
    assert not alarms(CONFIG, tmp_path, results, num_planned=4)
    summary = build_summary(CONFIG, snapshot("runs/x", version=3, evaluations=results))
    assert summary["alarms"] == [] and summary["result_version"] == 3 and alarm_lines(summary) == []


def test_sets_are_heard_and_kept_and_a_broken_clip_costs_its_batch(tmp_path):
    judges = SetJudges(build({}))
    rng = np.random.default_rng(1)
    clips = [Clip((0.1 * rng.standard_normal(16_000)).astype(np.float32), 16_000, "") for _ in range(3)]
    found = judges.embed(clips)["frechet_mini"]
    assert found.shape == (3, 200) and np.isfinite(found).all()
    assert np.isnan(judges.embed([Clip(np.zeros((2, 2), np.float32), 16_000, "")])["frechet_mini"]).all()
    write_embeddings(tmp_path, 4, {"frechet_mini": found.reshape(3, 1, 200)})
    (result,) = [replace(one, version=4) for one in evaluations([0.0], [0.0])]
    assert np.array_equal(read_embeddings(tmp_path, result, "frechet_mini")[:, 0], found)
    assert np.isnan(read_embeddings(tmp_path, replace(result, version=5), "frechet_mini")).all()
    assert judges.distances({"frechet_mini": found[None]})["frechet_mini"] > 0
    assert judges.distances({"frechet_mini": found[:1, None]}) == {}
