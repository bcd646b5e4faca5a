"""The scaling rule on hand-made sequences and on a loop of which the right number of samplers is known."""

import random

import pytest

from rlloop.config import load
from rlloop.config.sections import Autoscale
from rlloop.loop.autoscale import PATIENCE, Idle, Scaling, observe, samplers_idle, scorers_idle, wanted

TO_EIGHT = Autoscale(max=8)
STARVED = Idle(trainer=0.6, samplers=0.02, scorers=0.7)
IN_BALANCE = Idle(trainer=0.05, samplers=0.05, scorers=0.5)
AT_THE_GATE = Idle(trainer=0.0, samplers=0.7, scorers=0.8)


def follow(observations, samplers, bounds=TO_EIGHT):
    """Number of samplers after each observation."""
    state, counts = Scaling(), []
    for idle in observations:
        state, samplers = observe(state, idle, samplers, bounds)
        counts.append(samplers)
    return counts


def test_what_shares_ask_for_by_hand():
    assert wanted(Idle(0.5, 0.0, 0.75), 2, TO_EIGHT) == 4  # half the time waited for: twice as many
    assert wanted(Idle(0.25, 0.0, 0.75), 3, TO_EIGHT) == 4  # 3 / 0.75
    assert wanted(Idle(0.8, 0.0, 0.75), 2, TO_EIGHT) == 4  # never more than twice as many at once
    assert wanted(Idle(0.0, 0.55, 0.9), 4, TO_EIGHT) == 2  # 4 x 0.45 = 1.8 busy, 2 of them would be idle for 0.1
    assert wanted(IN_BALANCE, 3, TO_EIGHT) == 3
    assert wanted(STARVED, 6, TO_EIGHT) == 8 and wanted(AT_THE_GATE, 2, Autoscale(min=2, max=8)) == 2


def test_shares_from_gauges_by_hand():
    """Of two pools of scorers the fuller counts: three actors at work for 0.9 s a second, and one for 0.2 s."""
    sizes = {"sampler": 2, "scorer": 3, "scorer_text": 1}
    assert scorers_idle({"sampler": 1.5, "scorer": 0.9, "scorer_text": 0.4}, sizes) == pytest.approx(0.6)
    assert scorers_idle({}, sizes) == 1.0 and scorers_idle({"scorer": 3.3}, sizes) == 0.0
    assert [samplers_idle(leased, 4) for leased in (0, 1, 4, 9)] == [1.0, 0.75, 0.0, 0.0]


def test_full_scorers_and_a_trainer_that_everybody_waits_for_want_no_samplers():
    assert wanted(Idle(0.6, 0.0, 0.05), 2, TO_EIGHT) == 2
    assert wanted(Idle(0.6, 0.0, 0.2), 4, TO_EIGHT) == 5  # the scorers take 4 / 0.8
    assert wanted(Idle(0.6, 0.6, 0.6), 4, TO_EIGHT) == 4  # nobody works: a start, a stall, or turn by turn


def test_one_to_four_and_back():
    rises = follow([STARVED] * 9, 1, Autoscale(max=4))
    assert rises == [1, 1, 2, 2, 2, 2, 2, 2, 4]
    assert follow([AT_THE_GATE] * 12, 4, Autoscale(max=4)) == [4, 4, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1]


def test_neither_a_moment_nor_a_flutter_moves_it():
    assert set(follow([STARVED, STARVED, IN_BALANCE] * 10, 2)) == {2}
    assert set(follow([STARVED, AT_THE_GATE] * 20, 2)) == {2}


def idle_of(samplers, enough, scorers, noise=0.0, draw=None):
    """A loop in which `enough` samplers (a real number) feed the trainer and the scorers can follow `scorers`."""
    flow = min(samplers, enough, scorers)
    shares = (1 - flow / enough, 1 - flow / samplers, 1 - flow / scorers)
    return Idle(*(min(1.0, max(0.0, share + (draw.uniform(-noise, noise) if draw else 0.0))) for share in shares))


@pytest.mark.parametrize("start", [1, 3, 16])
def test_it_comes_to_rest_at_the_smallest_number_that_feeds_the_trainer(start):
    bounds = Autoscale(max=16)
    for tenths in range(5, 160):
        enough, state, samplers, counts = tenths / 10, Scaling(), start, []
        for _ in range(60):
            state, samplers = observe(state, idle_of(samplers, enough, 64.0), samplers, bounds)
            counts.append(samplers)
        assert len(set(counts[-30:])) == 1, (enough, counts)
        fed = idle_of(samplers, enough, 64.0)
        assert fed.trainer <= 0.15 and (samplers == 1 or idle_of(samplers - 1, enough, 64.0).samplers < 0.1)


def test_noise_does_not_make_it_swing():
    draw = random.Random(0)
    for enough in (1.4, 2.5, 3.0, 6.3):
        state, samplers, counts = Scaling(), 1, []
        for _ in range(400):
            state, samplers = observe(state, idle_of(samplers, enough, 32.0, 0.04, draw), samplers, TO_EIGHT)
            counts.append(samplers)
        changes = sum(a != b for a, b in zip(counts[40:], counts[41:], strict=False))
        assert changes <= 2, (enough, changes)


def test_slow_scorers_end_the_growth():
    state, samplers = Scaling(), 1
    for _ in range(60):
        state, samplers = observe(state, idle_of(samplers, 8.0, 3.0), samplers, TO_EIGHT)
    assert samplers == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sampler.autoscale={min: 3, max: 2}"], "min 3 is above max 2"),
        (["sampler.autoscale={min: 3, max: 4}"], "sampler.num_actors is 2, outside sampler.autoscale 3 to 4"),
        (["sampler.autoscale={max: 4}", "loop.max_staleness=0"], "needs loop.max_staleness 1 or more"),
    ],
)
def test_bounds_that_cannot_work(overrides, message):
    with pytest.raises(ValueError, match=message):
        load("mini", overrides)


def test_patience_is_what_the_sequences_above_assume():
    assert PATIENCE == 3
