"""The buffer as a plain object: idempotent calls, replay, skipping, a disk that fills. No Ray is started."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from actors import startup
from actors.buffer import Buffer
from actors.observer import Observer
from actors.session import Session
from rlloop.config import load
from rlloop.data.corpus import CorpusRow, CorpusSpec, CorpusWriter
from rlloop.data.rollouts import ScoredTicket, read_rows, read_selected, rollout_path
from rlloop.loop import gate
from rlloop.loop.checkpoints import newest
from rlloop.loop.snapshot import TrainPoint
from tests.ray.runs import FAKE


@pytest.fixture
def session(tmp_path):
    startup.store_config(tmp_path, load(FAKE, ["loop.max_staleness=0"]))
    return Session(str(tmp_path), startup.take_epoch(tmp_path))


def restart(buffer, epoch=None):
    buffer._lock.close()
    session = buffer.session if epoch is None else replace(buffer.session, epoch=epoch)
    return Buffer(session)


def scored(ticket, scores, version=0):
    n = len(scores)
    return ScoredTicket(
        ticket, version, "a prompt", list(range(n)), np.zeros((n, 8, 4), np.float16), [{"Loudness": s} for s in scores],
        [{} if s is not None else {"Loudness": "Loudness: silent"} for s in scores], {"sampler": 0.1, "scorer": 0.1},
    )  # fmt: skip


def lease_and_commit(buffer, segment, slots):
    for slot in slots:
        granted = buffer.next_tickets(segment, slot)
        assert isinstance(granted, gate.Grant)
        assert buffer.started([granted.tickets[0]], "sampler-1")[0] == ["go"]
        assert buffer.commit(scored(granted.tickets[0], [granted.tickets[0] + c / 10 for c in range(4)]))


def rows_of(session, selected):
    return read_selected(session.path, selected.examples, selected.advantages, "Loudness")


def test_a_snapshot_of_an_earlier_version_is_left_aside_for_the_records(session, caplog):
    buffer = Buffer(session)
    lease_and_commit(buffer, buffer.begin_segment(), range(3))
    state = buffer.state.dump()
    del state["ledger"]["leased"]
    buffer.journal.compact(state)
    again = restart(buffer)
    assert "its field leased is missing" in caplog.text
    assert again.ledger.counts == buffer.ledger.counts and again.ledger.counts["buffered"] == 3
    assert again.ledger.clips_generated == 12 and again.next_tickets(1, 3).tickets == (3,)


def test_reasons_that_are_no_texts_cost_their_ticket_an_attempt_and_no_replay(session):
    buffer = Buffer(session)
    segment = buffer.begin_segment()
    ticket = buffer.next_tickets(segment, 0).tickets[0]
    odd = replace(scored(ticket, [1.0] * 4), reasons=[{"Loudness": ["a", "list"]}] * 4, slot=0)
    assert buffer.commit(odd) == 1 and buffer.ledger.tickets[ticket].attempts == 1
    assert "the reason of 'Loudness' is list, expected a text" in buffer.messages[-1]
    assert restart(buffer).ledger.counts["buffered"] == 0


def test_a_sampler_that_goes_on_within_its_slot_is_progress(session):
    """The tickets of a slot are committed with its last one, which may take longer than loop.stall_timeout_s."""
    buffer = Buffer(session)
    segment = buffer.begin_segment()
    first, second = (buffer.next_tickets(segment, slot).tickets[0] for slot in range(2))
    buffer.started([first], "sampler-1")
    assert not buffer.report(0)["has_worked"], "it may die of it"
    buffer.started([first], "sampler-2")
    assert not buffer.report(0)["has_worked"]
    buffer.started([second], "sampler-2")
    assert buffer.report(0)["has_worked"], "it has finished one"


def test_held_out_clips_are_progress_but_the_first_work_is_a_commit(session):
    buffer = Buffer(session)
    buffer.add_busy("evaluator", 1.0)
    assert buffer.report(0)["last_progress"] and not buffer.report(0)["has_worked"]
    lease_and_commit(buffer, buffer.begin_segment(), range(1))
    assert buffer.report(0)["has_worked"]


def test_a_slot_of_several_tickets_is_leased_and_committed(session):
    startup.store_config(session.path, load(FAKE, ["loop.max_staleness=0", "loop.tickets_per_slot=4"]))
    buffer = Buffer(Session(session.run_dir, session.epoch))
    segment = buffer.begin_segment()
    hands = [buffer.next_tickets(segment, slot).tickets for slot in range(3)]
    assert hands == [buffer.next_tickets(segment, slot).tickets for slot in range(3)], "idempotent by slot"
    assert [ticket for hand in hands for ticket in hand] == list(range(sum(map(len, hands)))) and len(hands[0]) > 1
    for ticket in hands[0]:
        assert buffer.started([ticket], "sampler-1")[0] == ["go"]
    several = list(hands[0])
    assert buffer.started(several, "scorer-1")[0] == ["go"] * len(several)
    assert buffer.started(several, "scorer-2")[0] == ["part"] * len(several), "scorer-1 died of one of them"
    assert buffer.started(several[:1], "scorer-2")[0] == ["go"]
    for ticket in hands[0]:
        assert buffer.commit(scored(ticket, [1.0] * 4))
    assert buffer.report(0)["slots_under_way"] == 2
    again = restart(buffer)
    assert again.next_tickets(segment, 0).tickets == hands[0]
    assert again.ledger.counts["leased"] == sum(map(len, hands[1:]))


def test_a_cohort_is_selected_once_and_its_rows_come_in_order(session):
    buffer = Buffer(session)
    lease_and_commit(buffer, buffer.begin_segment(), range(8))
    kind, selected = buffer.selection(0)
    rows = rows_of(session, selected)
    assert kind == "rows" and len(rows) == 8  # a quarter of 32
    assert [(row.ticket, row.clip) for row in rows] == [(7, 3), (7, 2), (7, 1), (7, 0), (6, 3), (6, 2), (6, 1), (6, 0)]
    assert rows[0].score == pytest.approx(7.3) and rows[0].latents.shape == (8, 4)
    assert buffer.selection(1) == ("wait", "")


def test_the_first_commit_wins_and_late_workers_skip(session):
    buffer = Buffer(session)
    segment = buffer.begin_segment()
    lease_and_commit(buffer, segment, [0])
    assert not buffer.commit(scored(0, [9.0] * 4))
    assert buffer.started([0], "sampler-2") == (["skip"], 0)
    assert buffer.ledger.tickets[0].rollouts[0].scores["Loudness"] == 0.0


def test_a_restart_replays_everything_and_rolls_nothing_back(session):
    buffer = Buffer(session)
    segment = buffer.begin_segment()
    lease_and_commit(buffer, segment, range(8))
    buffer.published(1)
    lease_and_commit(buffer, segment, range(8, 10))
    before = json.dumps(buffer.report(0)["tickets"], sort_keys=True)
    again = restart(buffer)
    assert json.dumps(again.report(0)["tickets"], sort_keys=True) == before
    assert again.ledger.version == 1 and again.selection(0)[0] == "rows"
    again.published(1)  # a trainer that repeats itself changes nothing
    assert again.ledger.version == 1
    assert again.next_tickets(segment, 8) == buffer.next_tickets(segment, 8)


def test_a_crash_between_the_last_commit_and_the_selection_is_made_up_for(session, monkeypatch):
    buffer = Buffer(session)
    segment = buffer.begin_segment()
    lease_and_commit(buffer, segment, range(7))
    monkeypatch.setattr(buffer, "_close_cohorts", lambda: None)
    lease_and_commit(buffer, segment, [7])
    assert buffer.selection(0)[0] == "wait"
    assert restart(buffer).selection(0)[0] == "rows"


def test_failed_rows_are_retried_and_then_final(session):
    buffer = Buffer(session)
    segment = buffer.begin_segment()
    for slot in range(3):
        granted = buffer.next_tickets(segment, slot)
        assert granted.tickets[0] == 0
        buffer.commit(ScoredTicket(0, 0, failure="sampler: boom", slot=slot))
    assert buffer.ledger.tickets[0].state == "failed"
    assert buffer.report(0)["failures"]["sampler: boom"] == 3
    assert buffer.next_tickets(segment, 3).tickets[0] == 1


def test_missing_scores_are_counted_and_never_selected(session):
    buffer = Buffer(session)
    segment = buffer.begin_segment()
    for slot in range(8):
        ticket = buffer.next_tickets(segment, slot).tickets[0]
        buffer.commit(scored(ticket, [None, None, None, -5.0 - ticket]))
    rows = rows_of(session, buffer.selection(0)[1])
    assert [row.score for row in rows] == [-5.0, -6.0]
    assert buffer.report(0)["failures"]["Loudness: silent"] == 24


def test_stop_ends_the_gate_and_answers_the_trainer(session):
    buffer = Buffer(session)
    segment = buffer.begin_segment()
    buffer.stop("enough")
    buffer.stop("later")
    assert isinstance(buffer.next_tickets(segment, 0), gate.End)
    assert buffer.selection(0) == ("stop", "enough") and buffer.wanted_version() is None


def test_a_place_that_cannot_be_written_stops_the_run_with_one_line_and_loses_nothing(session):
    buffer = Buffer(session)
    segment = buffer.begin_segment()
    lease_and_commit(buffer, segment, [0])
    folder = session.path / "rollouts" / "00000"
    folder.rename(folder.with_suffix(".away"))
    folder.touch()  # a file where the folder was: writing fails with an OSError, as on a full disk
    ticket = buffer.next_tickets(segment, 1).tickets[0]
    buffer.commit(scored(ticket, [1.0] * 4))
    assert "cannot write" in buffer.report(0)["fatal"] and "\n" not in buffer.report(0)["fatal"]
    assert buffer.ledger.tickets[ticket].state == "leased"
    assert restart(buffer).ledger.tickets[0].state == "buffered"


def test_a_second_driver_takes_the_next_epoch_and_other_settings_are_refused(session, tmp_path):
    buffer = restart(Buffer(session), startup.take_epoch(tmp_path))
    assert buffer.ledger.epoch == 2
    with pytest.raises(ValueError, match="loop.max_staleness=0, this one has loop.max_staleness=1"):
        startup.refuse_other_config(tmp_path, load(FAKE))
    startup.refuse_other_config(tmp_path, load(FAKE, ["loop.max_staleness=0", "sampler.num_actors=5"]))


def test_prompts_that_changed_since_the_run_began_are_refused(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a slow waltz\na fast polka\n")
    config = load(FAKE, [f"prompts={file}"])
    startup.store_prompts(tmp_path, config)
    startup.store_prompts(tmp_path, config)
    file.write_text("a slow waltz\n")
    with pytest.raises(ValueError, match="train prompts are 1 others than the 2"):
        startup.store_prompts(tmp_path, config)


def test_two_drivers_cannot_hold_one_run_directory(tmp_path):
    lock = startup.lock_run_dir(tmp_path)
    with pytest.raises(ValueError, match="is in use by another run"):
        startup.lock_run_dir(tmp_path)
    lock.close()
    startup.lock_run_dir(tmp_path).close()


def test_version_zero_is_written_once_and_a_damaged_one_is_not_overwritten(tmp_path):
    config = load(FAKE)
    left = tmp_path / "checkpoints" / "v000000-s000000" / ".tmpA0HrDj"  # of a start that was killed as it wrote it
    left.parent.mkdir(parents=True)
    left.touch()
    startup.write_version_zero(tmp_path, config, startup.version_zero(tmp_path, config))
    path, marker = newest(tmp_path, config.digest())
    assert (marker.version, marker.step) == (0, 0) and set(marker.files) == {"weights.safetensors"}
    assert startup.version_zero(tmp_path, config) is None
    weights = path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2])
    with pytest.raises(ValueError, match="is no valid checkpoint"):
        startup.version_zero(tmp_path, config)


CROSS_LOAD = "stages=[{name: over, algorithm: cross_load, tickets: 0, phases: [], variant: v2}]"


def test_a_network_that_cannot_go_over_to_a_variant_is_refused_and_leaves_nothing(tmp_path):
    config = load("mini", [CROSS_LOAD.replace("v2", "v3")])
    with pytest.raises(ValueError, match="stages.over: weights of score variant v1 do not fit v3"):
        startup.version_zero(tmp_path, config)
    assert not list(tmp_path.iterdir())
    assert startup.version_zero(tmp_path, load("mini", [CROSS_LOAD])) is not None


def test_a_corpus_is_found_before_anything_is_written_and_must_stay_the_same(tmp_path):
    run_dir, config = tmp_path / "run", load(FAKE, [f"corpus={tmp_path / 'nowhere'}"])
    with pytest.raises(ValueError, match="nowhere"):
        startup.find_corpus(run_dir, config)
    for name, rows in (("a", 3), ("b", 4)):
        with CorpusWriter(tmp_path / name, CorpusSpec((8, 4), "", ("Loudness",))) as writer:
            for n in range(rows):
                writer.add(CorpusRow(str(n), "a choir", np.zeros((8, 4), np.float32), None, None, {"Loudness": 1.0}))
    run_dir.mkdir()
    startup.store_corpus(run_dir, startup.find_corpus(run_dir, load(FAKE, [f"corpus={tmp_path / 'a'}"])))
    assert startup.find_corpus(run_dir, load(FAKE, [f"corpus={tmp_path / 'a'}"]))["rows"] == 3
    with pytest.raises(ValueError, match="with 4 rows is another than the one of 3 rows"):
        startup.find_corpus(run_dir, load(FAKE, [f"corpus={tmp_path / 'b'}"]))


def point(step: int) -> TrainPoint:
    return TrainPoint(step, 0, 1.0, 1e-4, 0.5, seconds=2.0, time=0.0, metrics={"margin": 1.0})


def steps(buffer) -> list[int]:
    return [point.step for point in buffer.report(0)["points"]]


def test_points_that_come_again_are_taken_once(session):
    """A trainer that was restarted reports those of its checkpoint again."""
    buffer = Buffer(session)
    assert buffer.progress("restored", 0, [point(n) for n in (1, 2)]).newest_step == 2
    assert buffer.busy.shares(time.time()).get("trainer", 0.0) == 0.0  # worked before this start
    assert buffer.progress("training", 2, [point(n) for n in (3, 4)]).newest_step == 4
    assert buffer.progress("restored", 0, [point(n) for n in (1, 2, 3)]).newest_step == 4
    assert steps(buffer) == [1, 2, 3, 4]


def test_a_restarted_buffer_takes_no_points_behind_a_gap_and_is_given_all(session):
    buffer = Buffer(session)
    buffer.progress("training", 0, [point(n) for n in range(1, 101)])
    again = restart(buffer)
    heard = again.progress("training", 100, [point(101)])
    assert heard.newest_step == 0 and steps(again) == []
    heard = again.progress("training", heard.newest_step, [point(n) for n in range(1, 103)])
    assert heard.newest_step == 102 and steps(again) == list(range(1, 103))
    again.stop("enough")
    assert again.progress("training", 102, []).stop_reason == "enough"


def test_scaling_cuts_the_segment_short_and_outlives_a_restart(session):
    buffer = Buffer(session)
    segment = buffer.begin_segment()
    begun, first = buffer.next_tickets(segment, 1), buffer.next_tickets(segment, 0)
    assert buffer.started([begun.tickets[0]], "sampler-1") == (["go"], 0)
    assert buffer.scale({"sampler": 5}) == {"sampler": 5, "scorer": 1}
    assert not buffer.is_over(segment), "a ticket is still under way"
    assert buffer.commit(scored(begun.tickets[0], [0.0] * 4))
    assert buffer.next_tickets(segment, 0) == first, "a slot that has its ticket keeps it"
    assert isinstance(buffer.next_tickets(segment, 2), gate.End)
    assert buffer.is_over(segment), "nobody has begun the ticket"
    assert buffer.started([first.tickets[0]], "sampler-1") == (["skip"], 0), "so nobody begins it in this segment"
    assert buffer.pools().sizes["sampler"] == 2 and buffer.pools().wanted["sampler"] == 5
    assert buffer.commit(scored(first.tickets[0], [0.0] * 4))
    assert buffer.is_over(segment) and buffer.wanted_version() == 0
    again = restart(buffer)
    assert isinstance(again.next_tickets(segment, 2), gate.End), "the cut is in the journal"
    assert isinstance(again.next_tickets(again.begin_segment(), 0), gate.Grant)
    assert again.pools().sizes["sampler"] == 5
    assert [row.num_actors for row in again.takes({"scorer": 3}) if row.role in ("sampler", "scorer")] == [5, 3]


@pytest.mark.parametrize(
    ("sizes", "said"), [({"samplers": 2}, "its pools are sampler, scorer"), ({"scorer": 0}, "one")]
)
def test_sizes_that_cannot_be_are_refused_and_change_nothing(session, sizes, said):
    buffer = Buffer(session)
    with pytest.raises(ValueError, match=said):
        buffer.scale({"sampler": 3, **sizes})
    assert buffer.pool_sizes() == {"sampler": 2, "scorer": 1} and not buffer.ledger.scaled


def test_threads_commit_at_once_and_each_ticket_counts_once(session):
    buffer = Buffer(session)
    segment = buffer.begin_segment()
    tickets = [buffer.next_tickets(segment, slot).tickets[0] for slot in range(8)]
    barrier, counted = threading.Barrier(16), []

    def commit(ticket, score):
        assert buffer.started([ticket], "sampler-1")[0] == ["go"]
        barrier.wait()
        counted.append((ticket, buffer.commit(scored(ticket, [score] * 4))))

    threads = [threading.Thread(target=commit, args=(ticket, s)) for ticket in tickets for s in (0.0, 1.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ticket for ticket, counts in counted if counts) == tickets
    again = restart(buffer)
    assert again.ledger.counts == buffer.ledger.counts and again.selection(0)[0] == "rows"
    for ticket in tickets:  # the file is of the commit that counted
        kept = {rollout.scores["Loudness"] for rollout in buffer.ledger.tickets[ticket].rollouts}
        assert {row.score for row in read_rows(rollout_path(session.path, ticket), {0: ""}, "Loudness")} == kept


def test_a_commit_that_is_sent_again_while_the_first_is_at_the_disk_waits_for_it(session):
    buffer = Buffer(session)
    granted = buffer.next_tickets(buffer.begin_segment(), 0)
    buffer._committing.add(granted.tickets[0])  # the first call, at its Parquet file
    with ThreadPoolExecutor(1) as threads:
        again = threads.submit(buffer.commit, scored(granted.tickets[0], [0.5] * 4))
        time.sleep(0.3)
        assert not again.done()
        buffer._committing.discard(granted.tickets[0])  # it failed; the second one does its work
        assert again.result(10)
    assert buffer.ledger.tickets[granted.tickets[0]].state == "buffered"


def test_rollouts_that_do_not_fit_together_cost_their_ticket_an_attempt(session):
    buffer = Buffer(session)
    granted = buffer.next_tickets(buffer.begin_segment(), 0)
    assert buffer.started([granted.tickets[0]], "sampler-1")[0] == ["go"]
    assert buffer.commit(replace(scored(granted.tickets[0], [0.5] * 4), reasons=[{}], slot=0))
    entry = buffer.ledger.tickets[granted.tickets[0]]
    assert (entry.state, entry.attempts) == ("open", 1) and any("no valid rollouts" in line for line in buffer.messages)


@pytest.mark.parametrize(
    "asks", [lambda buffer: buffer.selection(0), lambda buffer: buffer.progress("training generation 0", 0, [])]
)
def test_a_disk_that_fills_while_no_gate_asks_ends_the_run(session, asks):
    """In a stage without tickets, or in the last generation, the trainer alone is there."""
    buffer = Buffer(session)
    buffer.free_bytes = lambda path: 2**20
    asks(buffer)
    assert "limits.min_free_disk" in buffer.fatal
    assert buffer.selection(0)[0] == "stop" and buffer.progress("training", 0, []).stop_reason == buffer.fatal


@pytest.mark.parametrize("gone, attempts", [({"00000001ffff"}, 0), ({"00000002ffff"}, 1), (set(), 1)])
def test_a_worker_that_went_with_its_node_is_no_attempt_of_its_ticket(session, gone, attempts):
    buffer = Buffer(session)
    segment = buffer.begin_segment()
    (ticket,) = buffer.next_tickets(segment, 0).tickets
    assert buffer.started([ticket], "sampler-7-a-00000001")[0] == ["go"]
    buffer = restart(buffer)  # the names in the journal tell the nodes
    buffer.nodes_lost(gone)
    assert buffer.started([ticket], "sampler-9-b-00000003")[0] == ["go"]
    assert buffer.ledger.tickets[ticket].attempts == attempts


def test_a_ticket_is_not_failed_by_nodes_that_go_again_and_again(session):
    buffer = Buffer(session)
    segment = buffer.begin_segment()
    (ticket,) = buffer.next_tickets(segment, 0).tickets
    for n in range(buffer.config.loop.max_attempts + 2):
        assert buffer.started([ticket], f"sampler-1-a-{n:08}")[0] == ["go"]
        buffer.nodes_lost({f"{n:08}ffff"})


def test_a_new_size_is_what_the_views_are_told_from_the_next_segment_on(session):
    buffer = Buffer(session)
    buffer.begin_segment()
    buffer.scale({"sampler": 5})
    assert buffer.report(0)["sizes"]["sampler"] == 2
    buffer.begin_segment()
    observer = SimpleNamespace(report=buffer.report(0), session=session)
    observer._sizes = lambda: Observer._sizes(observer)
    assert Observer._pools(observer)["sampler"].num_actors == 5
