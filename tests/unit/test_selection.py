"""Selection equals a plain sort; blending is hand-computed; a missing score is never zero."""

import json
import math
import random
import time

import numpy as np
import pytest

from rlloop.algorithms.base import Candidate, Example, load_algorithm
from rlloop.algorithms.expert_iteration import ExpertIteration
from rlloop.algorithms.selection import (
    Candidates,
    above_threshold,
    best_against_worst,
    rank,
    top_fraction,
    top_fraction_per_prompt,
    window_threshold,
    with_advantages,
)
from rlloop.config import Selection, build
from rlloop.loop import ledger_state
from rlloop.loop import records as r
from rlloop.loop.ledger import Ledger
from rlloop.loop.plan import Plan
from rlloop.recipes.cohort import close_cohort, cohort_candidates, cohort_stats
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


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([5.0, 1.0, 5.0, 4.0], [0]),  # fewer than ten: one, of the tied the first
        ([2.0] * 20, [0, 1]),  # all equal
        ([math.nan, -1.0, math.nan, -2.0], [1]),
        ([math.nan] * 12, []),
        ([float(n % 7) for n in range(30)], [6, 13, 20]),
        ([-math.inf, math.inf, 0.0], [2]),  # an infinite score is none
    ],
)
def test_the_best_decile_is_a_plain_sort(scores, kept):
    ranked = rank([Candidate(n, 0, score) for n, score in enumerate(scores)])
    assert [e.ticket for e in ExpertIteration().select(ranked, Selection(top_fraction=0.1), None)] == kept
    usable = sorted((-s, n) for n, s in enumerate(scores) if math.isfinite(s))
    assert kept == [n for _, n in usable[: max(1, len(usable) // 10)]]


def pairs(scores):
    """best_against_worst of {ticket: scores by clip} as {ticket: (winner, loser)}, checked to be in order."""
    candidates = [Candidate(t, c, s) for t, clips in scores.items() for c, s in enumerate(clips)]
    random.Random(0).shuffle(candidates)
    found = best_against_worst(candidates)
    assert [e.role for e in found] == ["winner", "loser"] * (len(found) // 2)
    assert [e.ticket for e in found] == sorted(e.ticket for e in found) and {e.advantage for e in found} <= {0.0}
    return {w.ticket: (w.clip, loser.clip) for w, loser in zip(found[::2], found[1::2], strict=True)}


def test_the_best_of_each_prompt_against_its_worst():
    assert pairs({3: [0.2, 0.9, 0.1], 1: [-5.0, -4.0], 2: [1.0, 2.0, 3.0, 4.0]}) == {1: (1, 0), 2: (3, 0), 3: (1, 2)}


@pytest.mark.parametrize(
    ("clips", "pair"),
    [
        ([], None),
        ([1.0], None),  # one candidate
        ([1.0, math.nan], None),  # one that is scored
        ([2.0, 2.0, 2.0], None),  # nothing to prefer
        ([3.0, 3.0, 1.0], (0, 2)),  # of equal bests the first
        ([3.0, 1.0, 1.0], (0, 2)),  # of equal worsts the last
        ([1.0, math.nan, 3.0, math.inf], (2, 0)),
    ],
)
def test_pairs_of_few_and_of_equal_candidates(clips, pair):
    assert pairs({0: clips, 1: [0.0, 1.0]}) == ({0: pair} if pair else {}) | {1: (1, 0)}


def test_pairs_are_made_in_one_pass():
    """20,000 prompts take well under a second of CPU; minutes, if each were looked for among all."""
    candidates = rank([Candidate(t, c, math.sin(t * 5 + c)) for t in range(20_000) for c in range(5)])
    began = time.process_time()
    assert len(best_against_worst(candidates)) == 40_000
    assert time.process_time() - began < 10


def test_advantages_leave_out_who_has_no_peer():
    """Scores 1 and 3, and 5 alone: spread sqrt(8/3) of all three, mean 2 of the first two."""
    candidates = [Candidate(0, 0, 1.0), Candidate(0, 1, 3.0), Candidate(0, 2, math.nan), Candidate(1, 0, 5.0)]
    first, second = with_advantages(candidates, scale=2.0, clip=10.0)
    assert (first[:3], second[:3]) == ((0, 0, ""), (0, 1, ""))
    assert (first.advantage, second.advantage) == pytest.approx((-0.5 / math.sqrt(8 / 3), 0.5 / math.sqrt(8 / 3)))


@pytest.mark.parametrize("scores", [[], [0.1] * 3, [math.nan, math.nan], [7.0]])
def test_without_differences_nobody_has_an_advantage(scores):
    assert with_advantages([Candidate(0, n, s) for n, s in enumerate(scores)], scale=1.0, clip=1.0) == []


def test_an_example_says_no_more_than_it_must():
    assert Example(1, 2) == (1, 2, "", 0.0)


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


def record_by_record(ledger, k, stage):
    """What a cohort's ranking is, taken from its rollouts one at a time: sorted (-score, ticket, clip), all scores."""
    numbers = ledger.plan.generations[k].tickets
    found = [(number, rollout) for number in numbers for rollout in ledger.tickets[number].rollouts]
    names = stage.selection.rank_by
    scores = blend({name: [rollout.scores.get(name) for _, rollout in found] for name in names}, names)
    keyed = zip(scores.tolist(), found, strict=True)
    return sorted((-s, n, rollout.clip) for s, (n, rollout) in keyed if math.isfinite(s)), scores


@pytest.mark.parametrize("weights", [{"x": 1.0}, {"x": 0.3, "y": 1.7}, {"x": -1.0}])
@pytest.mark.parametrize("seed", range(4))
def test_columns_of_a_cohort_are_its_rollouts_whatever_arrives_when(seed, weights):
    """Tickets in any order, some that fail, of other sizes and clip numbers, with scores that lack; then a snapshot."""
    rng = random.Random(seed)
    selection = {"rank_by": weights, "window": 70, "top_fraction": 0.2}
    stage = {"name": "s", "tickets": 30, "generations": 3, "selection": selection, "label_score": "x"}
    config = build({"stages": [stage], "scorer": {"rewards": ["m:x", "m:y"]}, "sampler": {"clips_per_prompt": 4}})
    ledger, arrivals = Ledger(Plan.from_config(config)), list(range(90))
    rng.shuffle(arrivals)
    for ticket in arrivals:
        clips = rng.sample(range(9), rng.randrange(5))
        values = [{n: rng.choice([None, 1.0, rng.random()]) for n in rng.sample("xy", rng.randrange(3))} for _ in clips]
        rollouts = [
            r.RolloutRecord(c, c, v, {n: "silent" for n in v if v[n] is None})
            for c, v in zip(clips, values, strict=True)
        ]
        ledger.apply(r.Buffered(ticket, 0, tuple(rollouts)) if clips else r.Failed(ticket, "died"))
    again = ledger_state.load(ledger.plan, json.loads(json.dumps(ledger_state.dump(ledger))))
    window = []
    for k in range(3):
        settings = ledger.plan.stage_of(k)
        expected, scores = record_by_record(ledger, k, settings)
        window = [*window, *scores][-70:]
        for each in (ledger, again):
            found = cohort_candidates(each, k, settings)
            assert [(-c.score, c.ticket, c.clip) for c in found] == expected
            threshold = float(np.quantile([s for s in window if math.isfinite(s)], 0.8))
            taken = tuple((t, c, "") for s, t, c in expected if -s >= threshold)
            assert close_cohort(each, k, ExpertIteration()).examples == taken
            each.apply(close_cohort(each, k, ExpertIteration()))
        assert cohort_stats(ledger, k, 0.0) == cohort_stats(again, k, 0.0)
        found = [rollout for n in ledger.plan.generations[k].tickets for rollout in ledger.tickets[n].rollouts]
        values = [rollout.scores["y"] for rollout in found if rollout.scores.get("y") is not None]
        stats = cohort_stats(ledger, k, 0.0)
        assert stats.scores["y"] == float(np.mean(values)) and stats.num_rollouts == len(found)
        assert stats.missing == {"silent": sum(len(rollout.reasons) for rollout in found)}


def test_columns_go_with_the_scores_of_a_forgotten_cohort():
    ledger = cohort([1.0, 2.0])
    ledger.apply(close_cohort(ledger, 0, ExpertIteration()))
    ledger.apply(r.Published(1))
    assert list(ledger.scores) == [0]
    ledger.forget_cohorts(1)
    assert not ledger.scores and not cohort_candidates(ledger, 0, ledger.plan.stages[0])


def test_a_cohort_is_ranked_without_a_look_at_its_tickets():
    """Which are objects: a million of them take seconds, in the buffer's turn."""
    ledger = cohort([float(n % 7) for n in range(70)], top_fraction=0.1)
    ledger.tickets = None
    assert [ticket for ticket, _, _ in close_cohort(ledger, 0, ExpertIteration()).examples] == list(range(6, 49, 7))


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


@pytest.mark.parametrize("levels", [1, 3, 50, 10**9])
@pytest.mark.parametrize("count", [0, 1, 7, 199, 200, 300])
def test_columns_rank_and_choose_as_the_plain_sort_does(levels, count):
    rng = random.Random(levels + count)
    keys = [(t, c) for t in range(50) for c in range(4)]
    rng.shuffle(keys)
    scores = [math.nan if rng.random() < 0.1 else float(rng.randrange(levels)) for _ in keys]
    columns = Candidates(*np.array(keys).T, np.array(scores))
    plain = rank([Candidate(t, c, s) for (t, c), s in zip(keys, scores, strict=True)])
    assert list(columns) == plain and len(columns) == len(plain) and columns[-1] == plain[-1]
    assert list(zip(*(column.tolist() for column in columns.best(count)), strict=True)) == [
        (c.ticket, c.clip) for c in plain[:count]
    ]
    for fraction in (0.001, 0.1, 0.5, 1.0):
        assert top_fraction(columns, fraction) == top_fraction(plain, fraction)
        assert top_fraction_per_prompt(columns, fraction) == top_fraction_per_prompt(plain, fraction)
    assert best_against_worst(columns) == best_against_worst(plain)
    assert with_advantages(columns, scale=1.0, clip=9.0) == with_advantages(plain, scale=1.0, clip=9.0)
    assert above_threshold(columns, 1.0) == above_threshold(plain, 1.0)
