"""The chaos bench without processes: what it calls a breach, a recovery and a balanced order, on data made by hand."""

import json

import pytest

from bench.chaos import left, parse
from bench.chaos_checks import Results, breaches_so_far, curve_breaches, differences, replay
from bench.chaos_plan import next_pause, order_of_roles
from bench.chaos_recovery import (
    DEFINITIONS,
    RECOVERY,
    Sight,
    never_recovered,
    of_earlier_segments,
    recovered_at,
)
from bench.chaos_report import (
    append_lines,
    code_state,
    find_reference,
    is_alone,
    of_code,
    read_lines,
    report,
    run_lines,
    table,
)
from bench.chaos_roles import WEIGHTS, Kill, Process
from bench.chaos_run import PRESET, Outcome
from rlloop.config import load
from rlloop.loop import records as r
from rlloop.loop.plan import Plan

OVERRIDES = ["stages.0.generations=2", "stages.0.tickets=2", "stages.0.phases.0.updates=3"]
CONFIG = load(PRESET, OVERRIDES)
PLAN = Plan.from_config(CONFIG)


def journal() -> list[r.Record]:
    """Two generations of two tickets, without a disturbance."""
    found: list[r.Record] = [r.EpochBegan(1), r.SegmentBegan(1)]
    for k in range(2):
        for ticket in (2 * k, 2 * k + 1):
            found += [r.Leased(ticket, k, 1, ticket), r.Started(ticket, "sampler-7-a", 0)]
            found += [r.Started(ticket, "scorer-8-b", 0), r.Buffered(ticket, k, ())]
        found += [r.Selected(k, ((2 * k, 0, ""),)), r.Published(k + 1)]
    return found


def test_an_undisturbed_journal_breaks_no_promise_wherever_it_is_cut_off():
    found = journal()
    assert all(not breaches_so_far(found[:cut], CONFIG) for cut in range(len(found) + 1))
    assert [ticket.state for ticket in replay(found, CONFIG).tickets] == ["trained", "dropped"] * 2


def test_a_worker_whose_segment_is_over_is_no_victim():
    """It may live for seconds beside its successor, whose work would then count as nobody's."""
    first = [(record, 0.0) for record in journal()]
    assert of_earlier_segments(first) == frozenset()
    begun = [*first, (r.SegmentBegan(2), 1.0)]
    assert of_earlier_segments(begun) == {7, 8}
    assert of_earlier_segments([*begun, (r.Started(4, "sampler-7-c", 0), 2.0)]) == {8}, "a pid that is used again"


def test_each_broken_promise_is_found():
    whole = journal()
    without_a_ticket = [record for record in whole if record != r.Buffered(1, 0, ())]
    assert "tickets [1] are in no final state" in breaches_so_far(without_a_ticket, CONFIG)[0]
    late = [r.Buffered(2, 0, ()) if record == r.Buffered(2, 1, ()) else record for record in whole]
    assert "ticket 2: staleness 1, the bound is 0" in breaches_so_far(late, CONFIG)[0]
    assert not breaches_so_far(late, load(PRESET, [*OVERRIDES, "loop.max_staleness=1"]))
    twice = [r.Selected(1, ((0, 0, ""),)) if record == r.Selected(1, ((2, 0, ""),)) else record for record in whole]
    assert breaches_so_far(twice, CONFIG)
    assert breaches_so_far([*whole[:-1], r.Published(3)], CONFIG)
    assert breaches_so_far([*whole, r.Published(2)], CONFIG)


def curves_of(plan) -> dict[str, list[tuple[int, float]]]:
    updates, cohorts = [(n, 1.0) for n in range(1, 7)], [(n, 1.0) for n in range(2)]
    return {
        "train/loss": updates, "train/grad_norm": updates, "reward/cohort_mean": cohorts, "reward/policy_mean": cohorts,
        "reward/heldout": [(version, 1.0) for version in plan.required_versions()],
    }  # fmt: skip


def test_a_doubled_and_a_missing_point_are_found():
    points = curves_of(PLAN)
    assert curve_breaches(points, PLAN, {0, 1}) == []
    doubled = {**points, "train/loss": [*points["train/loss"], (3, 1.0)]}
    assert curve_breaches(doubled, PLAN, {0, 1}) == ["curve train/loss: 1 steps twice, the first is 3"]
    missing = {**points, "train/grad_norm": points["train/grad_norm"][:3]}
    assert curve_breaches(missing, PLAN, {0, 1}) == ["curve train/grad_norm: 3 points missing, steps 4 to 6"]
    assert len(curve_breaches({}, PLAN, {0, 1})) == 5


def test_a_version_that_sampled_nothing_has_no_mean_and_one_that_did_has():
    points = {**curves_of(PLAN), "reward/policy_mean": [(0, 1.0)]}
    assert curve_breaches(points, PLAN, {0}) == []
    assert curve_breaches(points, PLAN, {0, 1}) == ["curve reward/policy_mean: 1 points missing, steps 1 to 1"]


def test_results_are_compared_part_by_part():
    assert differences(Results(1, "a", "b"), Results(1, "a", "b")) == []
    assert differences(Results(1, "a", "b"), Results(2, "a", "c")) == [
        "weights differ from the undisturbed run's", "losses differ from the undisturbed run's",
    ]  # fmt: skip


def kill(role, time=10.0, pids=(7,), lost=(), number=0, recovered=None) -> Kill:
    known = {name: frozenset(pids) for name in RECOVERY}
    return Kill(number, role, time, time, "recovered", 0, known, lost, recovered=recovered)


def sight(*records, marked=(), **processes) -> Sight:
    return Sight(50.0, records, marked, {role: [Process(*one) for one in found] for role, found in processes.items()})


def test_a_role_has_recovered_when_a_new_process_of_it_has_done_work():
    old = [(r.Started(3, "sampler-7-a", 0), 11.0), (r.Buffered(3, 0, ()), 12.0)]
    new = [(r.Started(4, "sampler-9-c", 0), 13.0), (r.Buffered(4, 0, ()), 14.0)]
    assert recovered_at(kill("sampler"), sight(*old)) is None
    assert recovered_at(kill("sampler"), sight(*old, *new)) == 14.0
    assert recovered_at(kill("scorer"), sight(*old, *new)) is None
    assert recovered_at(kill("pump"), sight(*old)) is None
    assert recovered_at(kill("pump"), sight((r.SegmentBegan(2), 11.5), *old)) == 12.0
    assert recovered_at(kill("driver"), sight((r.EpochBegan(2), 13.5), *new, marked=[12.0])) == 14.0
    assert recovered_at(kill("buffer"), sight((r.SegmentBegan(1), 9.0), *old)) == 11.0
    assert recovered_at(kill("gate"), sight((r.Leased(4, 0, 1, 4), 12.5))) == 12.5
    assert recovered_at(kill("trainer"), sight(marked=[9.0, 16.0])) == 16.0
    assert recovered_at(kill("store"), sight(store=[(7, True)])) is None
    assert recovered_at(kill("store"), sight(store=[(9, False)])) is None
    assert recovered_at(kill("store"), sight(store=[(9, True)])) == 50.0


def test_a_node_has_recovered_when_all_that_was_on_it_has():
    lost = kill("node", lost=("sampler", "trainer"))
    work = [(r.Started(4, "sampler-9-c", 0), 13.0), (r.Buffered(4, 0, ()), 14.0)]
    assert recovered_at(lost, sight(*work)) is None
    assert recovered_at(lost, sight(*work, marked=[20.0])) == 20.0
    assert recovered_at(kill("node"), sight()) == 10.0  # nothing was there


def test_roles_are_killed_in_turn_and_moments_come_from_the_seed():
    counts: dict[str, int] = {}
    for number in range(200):
        role = order_of_roles(0, number, counts, WEIGHTS)[0]
        counts[role] = counts.get(role, 0) + 1
    often = [counts[role] for role, weight in WEIGHTS.items() if weight == 1]
    assert min(often) >= 15 and max(often) - min(often) <= 1 and set(counts) == set(WEIGHTS) == set(DEFINITIONS)
    assert next_pause(0, 5, False) == next_pause(0, 5, False) != next_pause(1, 5, False)
    assert next_pause(0, 5, True).after == "start"
    assert {next_pause(0, number, False).after for number in range(60)} == {"recovered", "killed", "replaced"}


def test_only_what_nothing_else_disturbed_counts_as_alone():
    first, second = kill("pump", 10.0, number=0, recovered=20.0), kill("store", 15.0, number=1, recovered=16.0)
    third = kill("gate", 30.0, number=2, recovered=31.0)
    kills = [first, second, third]
    assert [is_alone(one, kills) for one in kills] == [False, False, True]
    second.recovered = None
    assert not is_alone(third, kills)


def test_the_file_of_results_comes_back_as_a_table(tmp_path):
    kills = [kill("pump", 10.0, number=0, recovered=20.0), kill("pump", 30.0, number=1, recovered=34.0)]
    outcome = Outcome([*kills, kill("node", 40.0, number=2)], ["something was lost"], 60.0, 2, Results(1, "a", "b"))
    append_lines(tmp_path / "lines", [{"kind": "reference", "settings": "d", "code": "c", "results": {
        "weights": 1, "selections": "a", "losses": "b"}}])  # fmt: skip
    append_lines(tmp_path / "lines", run_lines(outcome, run=0, seed=0, topology="one node", settings="d", code="c"))
    lines = read_lines(tmp_path / "lines")
    assert find_reference(lines, "d") == Results(1, "a", "b") and find_reference(lines, "e") is None
    assert "| pump | 2 | 2 | 7.0 | 9.4 | 10.0 | 0 |  |  |" in table([line for line in lines if line["kind"] == "kill"])
    text = report(lines, "2026-01-01", "c")
    assert "**3 kills** by SIGKILL with `d` in 1 runs (1 on one node)" in text and "bit by bit" in text
    assert "**Violations: 1.**" in text and "run 0: something was lost" in text
    assert json.loads((tmp_path / "lines").read_text().splitlines()[-1])["commands"] == 2


def test_kills_of_earlier_code_do_not_count_and_are_reported_apart():
    settings = parse(["--kills", "2", "--seed", "3"])
    outcome = Outcome([kill("pump", recovered=12.0)], ["lost"], 60.0, 1, Results(1, "a", "b"))
    place = {"run": 0, "seed": 3, "topology": "one node", "settings": ""}
    old = run_lines(outcome, **place, code="of another day")
    nameless = [{key: value for key, value in line.items() if key != "code"} for line in old]
    assert left(settings, [*old, *nameless]) == 2
    found = run_lines(Outcome(outcome.kills, [], 60.0, 1, outcome.results), **place, code=settings.code)
    assert left(settings, [*old, *nameless, *found]) == 1
    assert left(parse(["--kills", "2", "--seed", "4"]), found) == 2, "another seed"
    text = report([*old, *nameless, *found], "2026-01-01", settings.code)
    assert "earlier code: 2 kills, 2 violations" in text and "| pump | 1 | 1 | 2.0 |" in text
    assert "**1 kills** by SIGKILL" in text and "**Violations: 0.**" in text and "Violations:\n" not in text
    reference = {"kind": "reference", "settings": "", "results": {"weights": 1, "selections": "a", "losses": "b"}}
    assert find_reference(of_code([reference], settings.code), "") is None, "nothing is compared with other code's"


def test_code_is_the_same_until_a_file_of_the_loop_changes(tmp_path):
    for name in ("actors/pump.py", "rlloop/loop/gate.py", "bench/chaos.py", "bench/chaos.jsonl", "docs/guide.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a")
    before = code_state(tmp_path)
    for name in ("bench/chaos.jsonl", "docs/guide.md", "docs/new.md"):
        (tmp_path / name).write_text("b")
    assert code_state(tmp_path) == before
    for name in ("actors/pump.py", "rlloop/loop/gate.py", "bench/chaos.py", "rlloop/new.py"):
        (tmp_path / name).write_text("b")
        assert code_state(tmp_path) != before, name
        before = code_state(tmp_path)


def test_a_role_that_never_worked_again_is_a_violation_unless_the_run_was_about_to_end():
    kills = [kill("pump", recovered=12.0), kill("store", number=1), kill("gate", number=2)]
    kills[1].version, kills[2].version = 9, 10
    assert never_recovered(kills, 12) == ["kill 1 (store) at version 9 of 12: it never worked again"]


@pytest.mark.parametrize("role", sorted(WEIGHTS))
def test_every_role_says_when_it_has_recovered(role):
    assert DEFINITIONS[role] and (role == "node" or role in RECOVERY)
