"""Selection equals a plain sort; blending is hand-computed; a missing score is never zero."""

import math
import random

import numpy as np
import pytest

from rlloop.algorithms.base import Candidate, load_algorithm
from rlloop.algorithms.expert_iteration import ExpertIteration
from rlloop.algorithms.selection import rank, top_fraction, window_threshold
from rlloop.config import Selection, build
from rlloop.loop import records as r
from rlloop.loop.ledger import Ledger
from rlloop.loop.plan import Plan
from rlloop.recipes.cohort import close_cohort, cohort_stats
from rlloop.rewards.blend import blend


@pytest.mark.parametrize("seed", range(5))
def test_ranking_is_a_plain_sort_whatever_the_arrival(seed):
    rng = random.Random(seed)
    candidates = [Candidate(t, c, rng.choice([0.0, 1.0, 2.0, math.nan])) for t in range(10) for c in range(4)]
    rng.shuffle(candidates)
    expected = sorted((-c.score, c.ticket, c.clip) for c in candidates if not math.isnan(c.score))
    assert [(-c.score, c.ticket, c.clip) for c in rank(candidates)] == expected


@pytest.mark.parametrize(
    ("count", "fraction", "kept"), [(160, 0.1, 16), (9, 0.1, 1), (0, 0.1, 0), (30, 0.1, 3), (10, 1.0, 10)]
)
def test_top_fraction_counts(count, fraction, kept):
    assert len(top_fraction([Candidate(n, 0, -n) for n in range(count)], fraction)) == kept


def test_per_prompt_keeps_the_best_of_every_ticket():
    ranked = rank([Candidate(t, c, 10 * t + c) for t in range(3) for c in range(4)])
    chosen = ExpertIteration().select(ranked, Selection(top_fraction=0.25, per="prompt"), None)
    assert [(e.ticket, e.clip) for e in chosen] == [(0, 3), (1, 3), (2, 3)]


def test_a_threshold_replaces_the_fraction():
    ranked = rank([Candidate(0, n, n / 10) for n in range(10)])
    chosen = ExpertIteration().select(ranked, Selection(top_fraction=0.1, window=5), 0.65)
    assert [e.clip for e in chosen] == [9, 8, 7]
    assert window_threshold([0, 1, 2, 3, 4], 0.25) == pytest.approx(3.0)
    assert window_threshold([math.nan], 0.5) is None


def test_blend_of_one_is_the_score_and_of_two_is_hand_computed():
    assert blend({"a": [1.0, None]}, {"a": 1.0})[0] == 1.0
    assert np.isnan(blend({"a": [1.0, None]}, {"a": 1.0})[1])
    blended = blend({"a": [0.0, 2.0, 4.0], "b": [1.0, 1.0, None]}, {"a": 1.0, "b": 0.5})
    z = 2 / math.sqrt(8 / 3)
    np.testing.assert_allclose(blended, [-z, 0.0, np.nan])


def cohort(scores, **selection):
    """A ledger with one closed cohort of one-clip tickets with these scores (None is missing)."""
    stage = {"name": "s", "tickets": len(scores), "selection": {"rank_by": {"x": 1.0}, **selection}, "label_score": "x"}
    config = build({"stages": [stage], "scorer": {"rewards": ["m:x"]}, "sampler": {"clips_per_prompt": 1}})
    ledger = Ledger(Plan.from_config(config))
    for ticket, score in enumerate(scores):
        reasons = {} if score is not None else {"x": "x: silent"}
        ledger.apply(r.Buffered(ticket, 0, (r.RolloutRecord(0, 1, {"x": score}, reasons),)))
    return ledger


def test_missing_scores_are_never_selected_even_if_all_others_are_negative():
    ledger = cohort([-3.0, None, -1.0, -2.0], top_fraction=0.5)
    selected = close_cohort(ledger, 0, ExpertIteration())
    assert selected.examples == ((2, 0, ""),)  # floor(3 scored * 0.5)
    ledger.apply(selected)
    stats = cohort_stats(ledger, 0, 0.0)
    assert stats.reward["mean"] == -2.0 and stats.reward["top"] == -1.0 and stats.missing == {"x: silent": 1}


@pytest.mark.parametrize("on_too_few", ["stop", "skip"])
def test_too_few_survivors_stop_or_skip_with_both_numbers(on_too_few):
    ledger = cohort([None, None, 1.0, None, 0.5], min_examples=2, top_fraction=0.5, on_too_few=on_too_few)
    selected = close_cohort(ledger, 0, ExpertIteration())
    problem = selected.stopped if on_too_few == "stop" else selected.skipped
    assert selected.examples == () and "1 of 2 scored rollouts" in problem and "min_examples 2" in problem


def test_equal_scores_are_settled_by_ticket():
    assert close_cohort(cohort([1.0] * 4, top_fraction=0.5), 0, ExpertIteration()).examples == ((0, 0, ""), (1, 0, ""))


def test_an_unknown_algorithm_is_named():
    with pytest.raises(ValueError, match="'nothing' is none of"):
        load_algorithm("nothing")
    with pytest.raises(ValueError, match="cannot be imported"):
        load_algorithm("no.such:Thing")


def test_cohort_figures_are_of_the_reward_itself_and_by_version():
    ledger = cohort([1.0, 3.0, None, 5.0], top_fraction=0.34)
    ledger.tickets[3].version = 7
    ledger.apply(close_cohort(ledger, 0, ExpertIteration()))
    stats = cohort_stats(ledger, 0, 0.0)
    assert stats.reward["mean"] == 3.0 and stats.reward["top"] == 5.0
    assert stats.reward_by_version == {0: (2.0, 2), 7: (5.0, 1)}
