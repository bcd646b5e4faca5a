"""The judges of a run: which they are, what evaluations leave for them, and what becomes of an alarm."""

import json
from dataclasses import replace

import numpy as np
import pytest

from rlloop.config import ALARM_EVALUATIONS, ALARM_PROMPTS, build
from rlloop.evaluation import alarm, trends
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
    stages = [{"name": "a", "generations": 2}]
    stopping = build({"stages": stages, "evaluation": {"alarm": {"action": "stop"}}})
    assert stopping.digest() == build({"stages": stages}).digest()


def alarm_of(action: str, generations: int = 2, ranked: dict | None = None, target: str = "mini", **evaluation) -> dict:
    stage = {"name": "a", "generations": generations, "selection": {"rank_by": ranked or {"tunejury_mini": 1.0}}}
    return {
        "generator": {"target": target}, "stages": [stage], "evaluation": {**evaluation, "alarm": {"action": action}}
    }  # fmt: skip


@pytest.mark.parametrize("action", ["stop", "rollback"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_prompts": 3}, "takes 4 held-out prompts; evaluation.num_prompts is 3"),
        ({"generations": 1}, "takes 3 evaluations; 2 are made of 1 versions in 1 stages .*in_between true"),
        ({"generations": 9, "in_between": False}, "takes 3 evaluations; 2 are made of 9 versions .*in_between false"),
        ({"scores": ["tunejury_mini"], "target": "tests.fakes:tiny_generator"}, "no score of"),
        ({"ranked": {"tunejury_mini": -1.0}}, "'tunejury_mini' rises, which a stage ranks by with weight -1"),
    ],
)
def test_an_alarm_that_cannot_ring_is_refused(action, given, message):
    build(alarm_of("warn", **given))  # nothing hangs on it there
    build(alarm_of(action))
    with pytest.raises(ValueError, match=message) as caught:
        build(alarm_of(action, **given))
    assert "\n" not in str(caught.value) and f"action is {action}" in str(caught.value)


def test_the_refusals_are_those_of_the_rule():
    assert (ALARM_PROMPTS, ALARM_EVALUATIONS) == (trends.MIN_PROMPTS, alarm.MIN_EVALUATIONS)


def test_the_reward_under_another_name_is_no_judge():
    def of(*scores) -> dict:
        return {"evaluation": {"scores": ["tunejury_mini", *scores]}}

    with pytest.raises(ValueError, match="judge 'twin' is tunejury_mini with the options of 'tunejury_mini'"):
        build(of({"name": "twin", "target": "tunejury_mini"}))
    loud = {"scorer": {"rewards": ["tunejury_mini", {"name": "loud", "target": "a.b:C", "options": {"top": 1}}]}}
    ranked = {"stages": [{"name": "a", "selection": {"rank_by": {"tunejury_mini": 1.0, "loud": -0.5}}}]}
    with pytest.raises(ValueError, match="judge 'C2' is a.b:C with the options of 'loud'"):
        build({**loud, **ranked, **of({"name": "C2", "target": "a.b:C", "options": {"top": 1}})})
    other = build({**loud, **ranked, **of({"name": "C2", "target": "a.b:C", "options": {"top": 2}})})
    assert "C2" in other.judges()
    with pytest.raises(ValueError, match="'loud' is ranked by"):  # against it is by it, too
        build({**loud, **ranked, "evaluation": {"scores": ["tunejury_mini", "loud"], "alarm": {"judges": ["loud"]}}})


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
    assert np.array_equal(read_embeddings(tmp_path, result, "frechet_mini", 200)[:, 0], found)
    assert np.isnan(read_embeddings(tmp_path, replace(result, version=5), "frechet_mini", 200)).all()
    far = judges.distances({"frechet_mini": found[None]})["frechet_mini"]
    reference = judges.references["frechet_mini"]
    assert far["value"] > 0 and far["n"] == 3
    assert (far["reference"], far["reference_n"]) == (reference.checksum, reference.count)
    assert judges.distances({"frechet_mini": found[:1, None]}) == {}
