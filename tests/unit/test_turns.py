"""When a checkpoint is made between two updates: for a node that is about to go, once, and by the clock."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import ray.train

from actors import turns
from actors.checkpointer import Checkpointer
from actors.ranks import Ranks
from actors.trainer import Stopped, Worker
from actors.turns import Turn, Turns


@dataclass(frozen=True)
class Follower(Ranks):
    """A rank that hears what rank 0 says."""

    said: tuple = ("", False, False)

    def broadcast(self, value):
        return self.said


class Reporter:
    """A buffer that has nothing to say but `stop`."""

    def __init__(self, stop: str = "") -> None:
        self.stop, self.sent = stop, []

    def heard(self) -> str:
        return self.stop

    def send(self, state: str) -> None:
        self.sent.append(state)


@pytest.fixture
def clock(monkeypatch):
    """Seconds from the begin; all of a process have this clock."""
    now = SimpleNamespace(seconds=0)
    monkeypatch.setattr(turns.time, "monotonic", lambda: 1000 + now.seconds)
    return now


@pytest.fixture
def cluster(clock, monkeypatch):
    """`notices`: second -> ranks by node, from then on. `asked`: the seconds at which Train was asked."""
    found = SimpleNamespace(notices={}, asked=[])

    def get_preemption_info():
        found.asked.append(clock.seconds)
        nodes = [nodes for second, nodes in sorted(found.notices.items()) if second <= clock.seconds]
        return ray.train.PreemptionInfo(None, nodes[-1]) if nodes and nodes[-1] else None

    monkeypatch.setattr(ray.train, "get_preemption_info", get_preemption_info)
    return found


def timed(minutes: float | None) -> Checkpointer:
    """A checkpointer of which only the clock is there; its last checkpoint is of now."""
    found = Checkpointer.__new__(Checkpointer)
    found.config = SimpleNamespace(trainer=SimpleNamespace(checkpoint_minutes=minutes))
    found.saved_at = turns.time.monotonic()
    return found


def saves(clock, taking: Turns, seconds: int) -> list[int]:
    """The seconds after which a checkpoint is asked for; an update takes one."""
    found = []
    for _ in range(seconds):
        clock.seconds += 1
        if taking.take("", "training generation 0").saves:
            taking.checkpointer.saved_at = turns.time.monotonic()
            found.append(clock.seconds)
    return found


def test_each_node_that_is_about_to_go_leads_to_one_checkpoint(clock, cluster, caplog):
    first, second, third = {"n1": [0]}, {"n2": [1, 2]}, {"n3": [0]}
    cluster.notices = {14: first, 30: first | second, 50: {}, 60: second, 80: third, 90: first | third}
    assert saves(clock, Turns(Ranks(0, 1), timed(None), Reporter()), 100) == [18, 30, 84]
    assert cluster.asked == list(range(6, 101, 6))  # a look costs a barrier of all ranks: not at every update
    assert [record.args[0] for record in caplog.records] == [["n1"], ["n2"], ["n3"]]


def test_a_checkpoint_is_due_when_the_last_one_is_older_than_so_many_minutes(clock):
    made, never = timed(1.5), timed(None)
    clock.seconds = 90
    assert not made.is_due
    clock.seconds = 91
    assert made.is_due and not never.is_due
    made.saved_at = turns.time.monotonic()
    assert not made.is_due


def test_the_clock_asks_for_checkpoints_beside_the_notices(clock, cluster):
    """A minute counts from the last one, whatever asked for it."""
    cluster.notices = {100: {"n1": [0]}}
    assert saves(clock, Turns(Ranks(0, 1), timed(1), Reporter()), 230) == [61, 102, 163, 224]


def test_rank_0_finds_out_and_the_others_hear_it(clock, cluster):
    reporter = Reporter("the plan is done")
    first = Turns(Ranks(0, 1), timed(None), reporter)
    assert first.take("", "training generation 2") == Turn("the plan is done", False)
    assert first.take("the disk is full", "training generation 2") == Turn("the disk is full", False)
    assert reporter.sent == ["training generation 2"] * 2
    silent = Reporter("never asked")
    for heard, second, turn, asked in [
        (("the run is stopped", True, False), 0, Turn("the run is stopped", True), []),
        (("", False, True), 1, Turn("", False), [1]),  # its own clock would not ask yet
        (("", True, True), 2, Turn("", True), [1, 2]),  # one checkpoint for both
        (("", False, False), 100, Turn("", False), [1, 2]),
    ]:
        clock.seconds = second
        assert Turns(Follower(1, 2, heard), timed(None), silent).take("", "") == turn
        assert silent.sent == [] and cluster.asked == asked


def test_between_steps_a_turn_or_the_count_of_updates_makes_a_checkpoint():
    made, worker = [], Worker.__new__(Worker)
    worker.config = SimpleNamespace(trainer=SimpleNamespace(checkpoint_every=4))
    worker.plan = SimpleNamespace(steps_before=lambda k: 10 * k)
    worker.ranks, worker.averages = Ranks(1, 2), None
    worker.reporter = SimpleNamespace(points=[])
    worker.checkpointer = SimpleNamespace(save=lambda k, done, points, averages: made.append((k, done)) or "")
    for done in range(1, 10):
        worker._between_steps(2, done, Turn("", saves=done == 7))
    assert made == [(2, 4), (2, 7), (2, 8)]
    with pytest.raises(Stopped, match="^the plan is done$"):
        worker._between_steps(2, 9, Turn("the plan is done", saves=False))
    assert made[3:] == [(2, 9)]
