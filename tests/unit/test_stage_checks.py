"""What cannot be trained is refused before anything runs, with both numbers."""

import pytest

from rlloop.algorithms.checks import check_stages, most_clips
from rlloop.config import load
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
            "mixes in the corpus, whose clips are no pairs",
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


def test_the_published_numbers_are_those_of_the_preset():
    config = load("paper")
    counts = sizes(config)
    assert counts.candidates_per_generation["expert_iteration"] == 630
    assert counts.selected_per_generation == {"sft": 0, "expert_iteration": 64, "cross_load": 0, "crpo": 4000}
    sft = config.stages[0].phases[0]
    assert [step for step in range(1, sft.updates) if sft.rate(step) < sft.rate(step - 1) / 2] == [161_000, 181_000]
    mode3 = load("tunejury_mode3")
    assert (sizes(mode3).candidates, most_clips(mode3, mode3.stages[0])) == (900, 90)


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
