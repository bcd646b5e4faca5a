"""Who watches the pools: awaits actors that load, but not for ever, and outlives a buffer that is away."""

from types import SimpleNamespace

import pytest

from actors import autoscaler
from actors.session import NoAnswer
from rlloop.config.sections import Autoscale
from rlloop.loop.autoscale import PATIENCE
from rlloop.loop.snapshot import PoolsNow

BUSY = {"slots_under_way": 2, "trainer_state": "waiting for generation 3", "busy": {"scorer": 0.1}}


class Session:
    """A buffer that has two samplers, of which `at_work` have their model."""

    def __init__(self, at_work):
        self.config = SimpleNamespace(
            sampler=SimpleNamespace(autoscale=Autoscale(min=1, max=8, every_s=1)),
            loop=SimpleNamespace(start_timeout_s=100),
        )
        self.at_work, self.wanted, self.is_away, self.segment = at_work, 2, False, 1

    def call(self, who, name, method, *args, timeout_s):
        if self.is_away:
            raise NoAnswer(who, name, method, timeout_s)
        if method == "scale":
            self.wanted = args[0]["sampler"]
        sizes = {"sampler": 2, "scorer": 1}
        return PoolsNow(self.segment, sizes, {**sizes, "sampler": self.wanted}, {"sampler": self.at_work})


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(autoscaler.time, "monotonic", lambda: now.seconds)
    return now


def look(watch, clock, seconds):
    for _ in range(seconds):
        clock.seconds += 1.1
        watch.look(BUSY)


def test_samplers_that_are_too_few_become_more(clock):
    session = Session(at_work=2)
    look(autoscaler.Autoscaler(session), clock, 2 * PATIENCE + 2)
    assert session.wanted == 4


def test_nothing_is_judged_while_a_pool_loads_and_only_so_long(clock):
    session = Session(at_work=1)
    watch = autoscaler.Autoscaler(session)
    look(watch, clock, 50)
    assert session.wanted == 2
    look(watch, clock, 60)
    assert session.wanted == 4


def test_each_segment_has_the_whole_time_to_load(clock):
    session = Session(at_work=1)
    watch = autoscaler.Autoscaler(session)
    look(watch, clock, 60)
    session.segment = 2
    look(watch, clock, 60)
    assert session.wanted == 2


def test_a_buffer_that_is_away_is_asked_again(clock):
    session = Session(at_work=2)
    watch = autoscaler.Autoscaler(session)
    session.is_away = True
    look(watch, clock, 5)
    session.is_away = False
    look(watch, clock, 2 * PATIENCE + 2)
    assert session.wanted == 4
