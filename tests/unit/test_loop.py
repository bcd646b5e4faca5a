"""Plan, ledger, gate rule: decisions as values, tested without Ray."""

import pytest

from rlloop.config import build
from rlloop.loop import gate
from rlloop.loop import records as r
from rlloop.loop.ledger import Ledger
from rlloop.loop.plan import Plan, clip_seeds, prompt_index


def make_ledger(stages=((3, 4),)) -> Ledger:
    """A ledger of stages (generations, tickets)."""
    raw = [{"name": f"s{n}", "generations": g, "tickets": t} for n, (g, t) in enumerate(stages)]
    ledger = Ledger(Plan.from_config(build({"stages": raw})))
    ledger.apply(r.SegmentBegan(1))
    return ledger


def grant(ledger, slot, staleness=0, segment=1):
    decision = gate.next_tickets(ledger, segment, slot, staleness, draining=False)
    if isinstance(decision, gate.Grant) and slot not in ledger.slots:
        ledger.apply(r.Leased(decision.tickets[0], decision.version, segment, slot))
    return decision


def buffer(ledger, ticket, score=1.0):
    ledger.apply(r.Buffered(ticket, ledger.tickets[ticket].version or 0, (r.RolloutRecord(0, 7, {"x": score}),)))


def close_and_publish(ledger, k):
    chosen = ledger.plan.generations[k].first_ticket
    ledger.apply(r.Selected(k, ((chosen, 0, ""),)))
    ledger.apply(r.Published(k + 1))


def test_plan_has_cumulative_ticket_ranges_and_finds_generations():
    plan = make_ledger(((2, 4), (1, 3))).plan
    assert [(g.first_ticket, g.end_ticket, g.stage) for g in plan.generations] == [(0, 4, 0), (4, 8, 0), (8, 11, 1)]
    assert [plan.generation_of(t).k for t in (0, 3, 4, 7, 8, 10)] == [0, 0, 1, 1, 2, 2]
    assert plan.required_versions() == [0, 2, 3]
    assert plan.versions_to_keep(1, max_staleness=1) == {0, 1, 2, 3}
    assert plan.versions_to_keep(0, max_staleness=2) == {0, 2, 3}
    with pytest.raises(ValueError, match="ticket 11"):
        plan.generation_of(11)


def test_every_prompt_comes_once_before_any_comes_again():
    first = [prompt_index(5, ticket, 7) for ticket in range(7)]
    second = [prompt_index(5, ticket, 7) for ticket in range(7, 14)]
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert first == [prompt_index(5, ticket, 7) for ticket in range(7)]


def test_seeds_depend_on_run_and_ticket_and_differ_between_clips():
    seeds = clip_seeds(1, 2, 4)
    assert seeds == clip_seeds(1, 2, 4)
    assert len({*seeds, *clip_seeds(1, 3, 4), *clip_seeds(2, 2, 4)}) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_synchronous_gate_hands_out_one_cohort_and_waits():
    ledger = make_ledger()
    assert [grant(ledger, slot).tickets[0] for slot in range(4)] == [0, 1, 2, 3]
    assert grant(ledger, 4) == gate.Wait(queued=(0, 1, 2, 3))
    ledger.apply(r.Started(1, "sampler-1", 0))
    assert grant(ledger, 4) == gate.Wait(queued=(0, 2, 3))
    for ticket in range(4):
        buffer(ledger, ticket)
    assert grant(ledger, 4) == gate.Wait()  # closed, but version 1 is not published
    close_and_publish(ledger, 0)
    assert grant(ledger, 4) == gate.Grant((4,), 1)


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_staleness_never_exceeds_the_bound_and_tickets_come_in_order(staleness):
    ledger = make_ledger(((4, 3),))
    slot, seen = 0, []
    while ledger.version < 4:
        decision = grant(ledger, slot, staleness)
        if isinstance(decision, gate.Grant):
            seen.append(decision.tickets[0])
            assert 0 <= ledger.plan.generation_of(decision.tickets[0]).k - decision.version <= staleness
            slot += 1
            continue
        k = ledger.version
        for ticket in ledger.plan.generations[k].tickets:
            buffer(ledger, ticket)
        close_and_publish(ledger, k)
    assert seen == list(range(12))


def test_no_ticket_of_a_later_stage_before_that_stage():
    ledger = make_ledger(((1, 2), (1, 2)))
    for slot in range(2):
        grant(ledger, slot, staleness=5)
    assert grant(ledger, 2, staleness=5) == gate.Wait(queued=(0, 1))  # leased ones may come back
    for ticket in range(2):
        buffer(ledger, ticket)
    assert isinstance(grant(ledger, 2, staleness=5), gate.End)
    close_and_publish(ledger, 0)
    assert grant(ledger, 2, staleness=5) == gate.Grant((2,), 1)


def test_gate_is_idempotent_by_slot_and_ends_other_segments():
    ledger = make_ledger()
    assert grant(ledger, 0) == grant(ledger, 0) == gate.Grant((0,), 0)
    assert isinstance(grant(ledger, 1, segment=0), gate.End)
    ledger.apply(r.SegmentBegan(2))
    assert ledger.counts["leased"] == 0
    assert isinstance(grant(ledger, 1, segment=1), gate.End)
    assert grant(ledger, 9, segment=2) == gate.Grant((0,), 0)


def test_draining_keeps_granted_slots_and_ends_new_ones():
    ledger = make_ledger()
    grant(ledger, 0)
    assert gate.next_tickets(ledger, 1, 0, 0, draining=True) == gate.Grant((0,), 0)
    assert isinstance(gate.next_tickets(ledger, 1, 1, 0, draining=True), gate.End)


def test_only_deaths_of_the_computing_worker_count_as_attempts():
    ledger = make_ledger()
    grant(ledger, 0)
    for worker, attempts in (("sampler-a", 0), ("sampler-b", 1), ("sampler-c", 2)):
        record = gate.on_started(ledger, 0, worker, max_attempts=3)
        assert record == r.Started(0, worker, attempts)
        ledger.apply(record)
        assert gate.on_started(ledger, 0, worker, max_attempts=3) is None
    assert gate.on_started(ledger, 0, "sampler-d", max_attempts=3) == r.Failed(
        0, "its worker died 3 times while computing it"
    )


def test_a_new_segment_forgets_who_computed_but_not_the_attempts():
    ledger = make_ledger()
    grant(ledger, 0)
    ledger.apply(gate.on_started(ledger, 0, "sampler-a", 3))
    ledger.apply(r.SegmentBegan(2))
    grant(ledger, 0, segment=2)
    assert gate.on_started(ledger, 0, "sampler-b", 3) == r.Started(0, "sampler-b", 0)


def test_failed_rows_release_their_ticket_until_attempts_run_out():
    ledger = make_ledger()
    grant(ledger, 0)
    for attempt in (1, 2):
        slot = ledger.tickets[0].slot
        record = gate.on_failed_row(ledger, 0, slot, "boom", 3)
        assert record == r.Released(0, attempt, "boom")
        ledger.apply(record)
        assert grant(ledger, 10 + attempt).tickets[0] == 0
        assert gate.on_failed_row(ledger, 0, slot, "boom", 3) is None, "the same row again, its ticket leased anew"
    assert gate.on_failed_row(ledger, 0, 12, "boom", 3) == r.Failed(0, "boom")


def test_a_cohort_closes_when_each_ticket_is_buffered_or_failed():
    ledger = make_ledger()
    for slot in range(4):
        grant(ledger, slot)
    for ticket in range(3):
        buffer(ledger, ticket)
    assert not ledger.is_closed(0)
    ledger.apply(r.Failed(3, "boom"))
    assert ledger.is_closed(0)
    ledger.apply(r.Selected(0, ((1, 0, ""),)))
    assert [ledger.tickets[t].state for t in range(4)] == ["dropped", "selected", "dropped", "failed"]
    ledger.apply(r.Published(1))
    assert [ledger.tickets[t].state for t in range(4)] == ["dropped", "trained", "dropped", "failed"]
    assert ledger.counts["trained"] + ledger.counts["dropped"] + ledger.counts["failed"] == 4


def test_what_the_ledger_forbids_is_an_assertion():
    ledger = make_ledger()
    grant(ledger, 0)
    buffer(ledger, 0)
    for record in (r.Buffered(0, 0, ()), r.Published(2), r.SegmentBegan(1), r.Leased(0, 0, 1, 5)):
        with pytest.raises(AssertionError):
            ledger.apply(record)


def test_a_scorer_follows_its_sampler_without_an_attempt_but_its_death_is_one():
    ledger = make_ledger()
    grant(ledger, 0)
    for worker, attempts in (("sampler-a", 0), ("scorer-a", 0), ("scorer-b", 1), ("scorer-c", 2)):
        record = gate.on_started(ledger, 0, worker, max_attempts=3)
        assert record == r.Started(0, worker, attempts)
        ledger.apply(record)
    assert isinstance(gate.on_started(ledger, 0, "scorer-d", max_attempts=3), r.Failed)


def test_hands_shrink_towards_the_end_of_what_may_start():
    """With two samplers each slot gets a quarter of what is left, at most eight: sizes fall to one."""
    ledger, sizes = make_ledger(((2, 40),)), []
    hand = gate.Hand(most=8, samplers=2)
    for slot in range(30):
        found = gate.next_tickets(ledger, 1, slot, 0, draining=False, hand=hand)
        if isinstance(found, gate.Wait):
            break
        again = gate.next_tickets(ledger, 1, slot, 0, draining=False, hand=hand)
        assert again == found, "nothing is leased yet"
        for ticket in found.tickets:
            ledger.apply(r.Leased(ticket, found.version, 1, slot))
        assert gate.next_tickets(ledger, 1, slot, 0, draining=False, hand=hand) == found, "idempotent by slot"
        sizes.append(len(found.tickets))
    assert sizes == [8, 8, 6, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    assert sorted(ledger.leased) == list(range(40)) and ledger.cohort_unleased == {0: 0, 1: 40}


def test_a_hand_spans_cohorts_within_the_bound_but_no_stage():
    ledger = make_ledger(((2, 4), (1, 4)))
    hand = gate.Hand(most=100, samplers=1)
    assert gate.whats_next(ledger, 0, hand) == gate.Grant((0, 1), 0)
    assert gate.whats_next(ledger, 1, hand) == gate.Grant((0, 1, 2, 3), 0)
    assert gate.whats_next(ledger, 5, hand) == gate.Grant((0, 1, 2, 3), 0), "eight tickets of this stage, not twelve"


def test_reopened_tickets_come_first_and_once():
    ledger = make_ledger(((1, 10),))
    for slot in range(6):
        grant(ledger, slot)
    ledger.apply(r.Released(4, 1, "boom"))
    ledger.apply(r.Released(1, 1, "boom"))
    assert ledger.lowest_open() == [1] and ledger.lowest_open(5) == [1, 4, 6, 7, 8] and len(ledger.lowest_open(99)) == 6
    ledger.apply(r.Leased(1, 0, 1, 7))
    ledger.apply(r.Released(1, 2, "boom"))
    assert ledger.lowest_open(3) == [1, 4, 6]
    assert not ledger.slots[7] and grant(ledger, 7).tickets == (1,), "a slot whose ticket was released takes another"


def test_a_death_counts_against_the_ticket_that_was_begun_last():
    """One worker has a slot of three: it finished the first, died of the second, never began the third."""
    ledger = make_ledger()
    for ticket in range(3):
        ledger.apply(r.Leased(ticket, 0, 1, 0))
    for ticket in (0, 1):
        ledger.apply(gate.on_started(ledger, ticket, "sampler-a", max_attempts=3))
    for ticket, attempts in ((0, 0), (1, 1), (2, 0)):
        record = gate.on_started(ledger, ticket, "sampler-b", max_attempts=3)
        assert record == r.Started(ticket, "sampler-b", attempts)
        ledger.apply(record)
    assert gate.next_tickets(ledger, 1, 9, 0, draining=False) == gate.Grant((3,), 0)
    ledger.apply(r.Leased(3, 0, 1, 9))
    assert gate.next_tickets(ledger, 1, 10, 0, draining=False) == gate.Wait(queued=(9,)), "slot 0 has been begun"


def test_a_death_among_tickets_begun_together_parts_them_and_counts_alone():
    ledger = make_ledger()
    for ticket in range(3):
        ledger.apply(r.Leased(ticket, 0, 1, 0))
    assert not gate.must_part(ledger, [0, 1, 2], "scorer-a")
    for ticket in range(3):
        ledger.apply(gate.on_started(ledger, ticket, "scorer-a", 3, together=True))
    assert not gate.must_part(ledger, [0, 1, 2], "scorer-a"), "a repeated call"
    assert gate.must_part(ledger, [0, 1, 2], "scorer-b") and not gate.must_part(ledger, [1], "scorer-b")
    for ticket in (0, 1):  # it dies of ticket 1, alone; which of the three killed scorer-a was not known
        record = gate.on_started(ledger, ticket, "scorer-b", 3)
        assert record == r.Started(ticket, "scorer-b", 0)
        ledger.apply(record)
    assert [gate.on_started(ledger, ticket, "scorer-c", 3).attempts for ticket in range(3)] == [0, 1, 0]


def test_forgotten_cohorts_keep_their_states_and_nothing_else():
    ledger = make_ledger(((3, 2),))
    for k in range(2):
        for slot in range(2):
            buffer(ledger, grant(ledger, 2 * k + slot, staleness=0).tickets[0])
        close_and_publish(ledger, k)
    assert len(ledger.tickets.known) == 4
    ledger.forget_cohorts(1)
    assert [t.state for t in ledger.tickets] == ["trained", "dropped", "trained", "dropped", "open", "open"]
    assert ledger.tickets[0].rollouts == () and ledger.tickets[2].rollouts
    assert sorted(ledger.tickets.known) == [2, 3]
    ledger.forget_selections({0}, 2)
    assert sorted(ledger.selections) == [0]
    with pytest.raises(AssertionError):
        ledger.forget_cohorts(3)
    assert gate.on_started(ledger, 0, "sampler-late", 3) is None
    assert ledger.lowest_open() == [4] and len(ledger.tickets) == 6 and len(ledger.tickets[1:3]) == 2
    with pytest.raises(IndexError):
        ledger.tickets[6]


def test_what_is_held_is_counted_as_it_comes_and_goes():
    ledger = make_ledger(((2, 3),))
    for slot in range(4):  # three of generation 0, one of generation 1 with version 0
        grant(ledger, slot, staleness=1)
    for when, ticket in ((10.0, 2), (11.0, 0), (12.0, 3)):
        ledger.apply(r.Buffered(ticket, 0, (r.RolloutRecord(0, 7, {}), r.RolloutRecord(1, 8, {})), 100), when)
    assert (ledger.held_rollouts, ledger.held_bytes, ledger.lag_buffered) == (6, 300, 1)
    assert next(iter(ledger.held.values())) == 10.0
    ledger.apply(r.Failed(1, "boom"))
    ledger.apply(r.Selected(0, ((0, 0, ""),)))
    assert (ledger.held_rollouts, ledger.held_bytes, ledger.lag_buffered) == (4, 200, 1)
    ledger.apply(r.Published(1))
    assert (list(ledger.held), ledger.held_bytes, ledger.tickets_buffered) == ([3], 100, 3)


def test_reasons_that_all_differ_are_counted_together():
    ledger = make_ledger(((1, 150),))
    for ticket in range(150):
        grant(ledger, ticket)
        ledger.apply(r.Failed(ticket, f"boom at {ticket}"))
    assert len(ledger.failures) == 101 and ledger.failures["other reasons"] == 50


def test_selections_are_kept_as_long_as_a_phase_names_them():
    sources = {
        "a": {"current": 1.0},
        "b": {"current": 1.0, "previous": 1.0},
        "c": {"stage:a": 1.0, "generation:4": 1.0},
    }
    stages = [{"name": n, "generations": 3, "tickets": 2, "phases": [{"sources": s}]} for n, s in sources.items()]
    plan = Plan.from_config(build({"stages": stages}))
    assert plan.selections_to_keep(0) == set()
    assert plan.selections_to_keep(4) == {2, 3}  # stage c reads the last of a; generation 4 is still to come
    assert plan.selections_to_keep(6) == {2, 4, 5}
    assert plan.selections_to_keep(9) == {8}


def test_cached_figures_of_a_plan_are_those_of_its_generations():
    phases = [{"updates": 3}, {"updates": 4}]
    stages = [{"name": "a", "generations": 2, "tickets": 2, "phases": phases},
              {"name": "over", "tickets": 0, "phases": [], "variant": "v2"}, {"name": "b", "tickets": 1}]  # fmt: skip
    plan = Plan.from_config(build({"stages": stages}))
    assert [plan.steps_before(k) for k in range(4)] == [0, 7, 14, 14]
    assert [plan.stage_start(k) for k in range(4)] == [0, 0, 2, 3]
    assert [plan.last_of_stage(name) for name in ("a", "over", "b")] == [1, 2, 3]
    assert [plan.variant_of(version) for version in range(5)] == [None, None, None, "v2", "v2"]
