"""The stage that hands tickets to slots, when its process was restarted and slots come in another order."""

import numpy as np
import pytest

from actors import pools
from rlloop.config import build
from rlloop.loop import gate
from rlloop.loop import records as r
from rlloop.loop.ledger import Ledger
from rlloop.loop.plan import Plan


class Session:
    """A buffer with one cohort of two tickets that may start, and no more before they are trained on."""

    def __init__(self):
        plan = Plan.from_config(build({"stages": [{"name": "s", "tickets": 2}], "trainer": {"num_workers": 1}}))
        self.ledger, self.asked = Ledger(plan), 0
        self.ledger.apply(r.SegmentBegan(1))

    def call(self, who, name, method, segment, slot):
        self.asked += 1
        found = gate.next_tickets(self.ledger, segment, slot, 0, draining=False)
        if isinstance(found, gate.Grant) and slot not in self.ledger.slots:
            self.ledger.apply(r.Leased(found.tickets[0], found.version, segment, slot))
        return found

    def begin(self, ticket):
        self.ledger.apply(r.Started(ticket, "sampler-1", 0))


class Gate(pools.Gate):
    def __init__(self, session):
        self.session, self.segment, self.ended, self.passed = session, 1, False, set()


def ask(stage, slot):
    return int(stage({"id": np.array([slot])})["ticket"][0])


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(pools, "GIVE_WAY_S", 0.01)
    monkeypatch.setattr(pools, "POLL_S", 0.005)


def test_a_slot_that_must_wait_lets_one_pass_that_has_a_ticket_already():
    """Slot 1 was given ticket 1, the process died before it could pass it on, and slot 2 comes before slot 1."""
    session = Session()
    assert [ask(Gate(session), slot) for slot in (0, 1)] == [0, 1]
    session.begin(0)
    again = Gate(session)
    assert ask(again, 2) == -1 and not again.ended
    assert ask(again, 1) == 1
    assert again._may_block(gate.Wait((1,))) is False


def test_a_slot_that_waits_for_tickets_that_went_through_here_keeps_waiting():
    session = Session()
    stage = Gate(session)
    assert [ask(stage, slot) for slot in (0, 1)] == [0, 1]
    before = session.asked

    class Enough(Exception):
        pass

    def call(*args):
        if session.asked > before + 20:
            raise Enough
        return Session.call(session, *args)

    stage.session = type("Watched", (), {"call": staticmethod(call)})
    with pytest.raises(Enough):
        ask(stage, 2)
