"""What cannot be trained is refused before anything runs, with both numbers."""

import re
from pathlib import Path

import pytest
import yaml

from rlloop.algorithms.base import BUILT_IN
from rlloop.algorithms.checks import check_stages, most_clips
from rlloop.config import build, find_preset, load
from rlloop.resources import sizes

CRPO = ("stages.0.algorithm=crpo", "stages.0.selection.rank_by={alignment_mini: 1.0}")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["stages.0.tickets=10"], "top_fraction 0.1 of 40 rollouts leaves 4, fewer than min_examples 8"),
        (["stages.0.phases.0.batch_size=31"], "batch_size 31, above the selection of at most 30 rollouts"),
        ([*CRPO, "sampler.clips_per_prompt=1"], "needs 2 candidates a prompt, sampler.clips_per_prompt is 1"),
        ([*CRPO, "stages.0.phases.0.batch_size=76"], "batch_size 76, above the selection of at most 75 pairs"),
        ([*CRPO, "stages.0.options={beta: 0}"], "beta is 0, expected a finite number above 0"),
        ([*CRPO, "stages.0.options={betta: 1}"], "has the options .*beta.*found .*betta"),
        (["stages.0.algorithm=ppo"], "algorithm 'ppo' is none of"),
        (
            [*CRPO, "corpus=x", "stages.0.phases.0.sources={current: 1.0, corpus: 1.0}"],
            "mixes in the corpus, which holds clips; crpo takes pairs",
        ),
        (
            ["stages.0.tickets=0", "corpus=x", "stages.0.phases.0.sources={corpus: 1.0}"],
            "learns from rollouts, but the stage has 0 tickets",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(overrides, said):
    with pytest.raises(ValueError, match=said):
        check_stages(load("mini", overrides))


@pytest.mark.parametrize("preset", ["mini", "paper", "paper_mini", "tunejury_mode3"])
def test_presets_can_be_trained(preset):
    check_stages(load(preset))


def stage(name: str, algorithm: str, tickets: int, sources: dict, generations: int = 1, batch_size: int = 4) -> dict:
    phase = {"updates": 1, "batch_size": batch_size, "sources": sources}
    return {
        "name": name, "algorithm": algorithm, "tickets": tickets, "generations": generations, "phases": [phase],
        "selection": {"top_fraction": 0.25},
    }  # fmt: skip


def check(*stages: dict) -> None:
    """Of 4 clips a prompt."""
    check_stages(build({"corpus": "x", "stages": list(stages)}))


CURRENT, CORPUS = {"current": 1.0}, {"corpus": 1.0}
SFT = stage("sft", "sft", 0, CORPUS)
EXPERTS, PAIRS, GRADED = (
    stage(name, algorithm, 8, CURRENT)
    for name, algorithm in (("experts", "expert_iteration"), ("pairs", "crpo"), ("graded", "nft"))
)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([SFT, stage("b", "expert_iteration", 0, {"previous": 1})], "'previous' never exists at generation 1"),
        ([SFT, stage("b", "expert_iteration", 0, {"generation:0": 1})], "'generation:0' never exists at generation 1"),
        ([SFT, stage("b", "expert_iteration", 8, {"current": 1, "generation:0": 1})], "'generation:0' never exists"),
        ([EXPERTS, stage("b", "expert_iteration", 8, {"current": 1, "generation:1": 1})], "'generation:1' never"),
        ([EXPERTS, stage("b", "sft", 0, {"previous": 1}, generations=2)], "no source of .* exists at generation 2"),
        ([EXPERTS, stage("b", "crpo", 0, {"stage:experts": 1})], "'stage:experts', .* clips; crpo takes pairs"),
        ([EXPERTS, stage("b", "nft", 0, {"stage:experts": 1})], "clips; nft takes clips with advantages"),
        ([EXPERTS, stage("b", "nft", 8, {"current": 1, "generation:0": 1})], "clips; nft takes clips with adv"),
        ([PAIRS, stage("b", "expert_iteration", 0, {"stage:pairs": 1})], "crpo selected: pairs; expert_it.* clips"),
        ([PAIRS, stage("b", "expert_iteration", 8, {"current": 1, "previous": 1}, 2)], "crpo selected: pairs"),
        ([GRADED, stage("b", "sft", 0, {"stage:graded": 1})], "nft selected: clips with advantages; sft takes clips"),
        ([stage("b", "nft", 8, {"current": 1, "corpus": 1})], "corpus, which holds clips; nft takes clips with adv"),
        ([EXPERTS, stage("b", "sft", 0, {"previous": 1}, 1, 9)], "batch_size 9, .* at most 8 rollouts"),
        (
            [EXPERTS, stage("b", "expert_iteration", 8, {"current": 1, "previous": 1}, 1, 17)],
            "batch_size 17, .* at most 16",
        ),
        ([PAIRS, stage("b", "crpo", 0, {"stage:pairs": 1}, 1, 9)], "batch_size 9, .* at most 8 pairs"),
        # one selection by two names counts once, one without weight not at all
        ([EXPERTS, stage("b", "sft", 0, {"previous": 1, "stage:experts": 1}, 1, 9)], "at most 8 rollouts"),
        ([EXPERTS, stage("b", "expert_iteration", 8, {"stage:experts": 1, "current": 0}, 1, 9)], "at most 8 rollouts"),
    ],
)
def test_a_stage_that_needs_what_no_stage_before_it_made_is_refused(stages, said):
    with pytest.raises(ValueError, match=said) as caught:
        check(*stages)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "stages",
    [
        [EXPERTS, stage("b", "sft", 0, {"previous": 1, "corpus": 1}, generations=2, batch_size=64)],
        [EXPERTS, stage("b", "expert_iteration", 0, {"previous": 1})],
        [stage("a", "expert_iteration", 8, {"current": 1, "previous": 1, "generation:0": 1}, generations=3)],
        [SFT, stage("b", "expert_iteration", 8, {"current": 1, "previous": 1}, generations=2)],
        [PAIRS, SFT, stage("b", "crpo", 8, {"current": 1, "stage:pairs": 1}, batch_size=16)],
        [GRADED, stage("b", "nft", 0, {"generation:0": 1}, batch_size=16)],
    ],
)
def test_selections_that_are_there_and_of_the_same_kind_may_be_read(stages):
    check(*stages)


def test_the_published_numbers_are_those_of_the_preset():
    config = load("paper")
    counts = sizes(config)
    assert counts.candidates_per_generation["expert_iteration"] == 630
    assert counts.selected_per_generation == {"sft": 0, "expert_iteration": 64, "cross_load": 0, "crpo": 4000}
    sft = config.stages[0].phases[0]
    assert [step for step in range(1, sft.updates) if sft.rate(step) < sft.rate(step - 1) / 2] == [161_000, 181_000]
    mode3 = load("tunejury_mode3")
    assert (sizes(mode3).candidates, most_clips(mode3, mode3.stages[0])) == (900, 90)


@pytest.mark.parametrize("preset", ["mini", "paper", "paper_mini", "tunejury_mode3"])
def test_presets_go_on_with_half_of_a_cohort(preset):
    config = load(preset)
    for stage in config.stages:
        assert not stage.tickets or stage.selection.min_examples <= most_clips(config, stage) / 2, stage.name


def test_the_plan_of_the_ray_tests_goes_through_every_built_in():
    config = load(Path(__file__).parents[1] / "stages.yaml", ["corpus=x"])
    check_stages(config)
    assert {stage.algorithm for stage in config.stages} == set(BUILT_IN)


def test_the_commented_stage_of_the_paper_can_stand_in_for_crpo():
    text = find_preset("paper").read_text()
    commented = re.search(r"^  # - name: nft\n(?:  #   .*\n)+", text, re.MULTILINE)[0]
    (nft,) = yaml.safe_load(commented.replace("  # ", "  "))
    raw = yaml.safe_load(text)
    config = build({**raw, "stages": [nft if one["name"] == "crpo" else one for one in raw["stages"]]})
    check_stages(config)
    assert config.stages[-1].algorithm == "nft" and sizes(config).selected_per_generation["nft"] == 4000


def test_a_plan_that_cannot_be_is_refused_by_the_configuration():
    for overrides, said in (
        (["stages.0.phases.0.sources={corpus: 1.0}"], "source 'corpus' needs corpus=FOLDER"),
        (["stages.0.variant=v2"], "is one generation without tickets and phases; found .*'tickets': 75"),
        (["stages.0.phases=[]"], "has no phases"),
        (["stages.0.tickets=0"], "source 'current' is this stage's selection, but the stage has 0 tickets"),
        (["stages.0.phases.0.sources={current: 1, 'stage:none': 1}"], "no earlier stage with tickets has that name"),
        (["stages.0.phases.0.micro_batch_size=5"], "micro_batch_size 5 does not divide the 16 examples"),
    ):
        with pytest.raises(ValueError, match=said):
            load("mini", overrides)
