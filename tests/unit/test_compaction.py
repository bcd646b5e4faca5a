"""The journal in parts: a snapshot and the records after it lead to the same state, whatever a crash left behind."""

import json
import shutil

import pytest

from rlloop.config import build
from rlloop.loop import records as r
from rlloop.loop.journal import Journal, encode
from rlloop.loop.ledger import Ledger
from rlloop.loop.ledger_state import dump, load
from rlloop.loop.plan import Plan

PLAN = Plan.from_config(build({"stages": [{"name": "s", "generations": 3, "tickets": 2}]}))


def history():
    """Three generations of two tickets: one fails, one is released once, one is dropped."""
    records = [r.EpochBegan(1), r.SegmentBegan(1)]
    for k in range(3):
        for ticket in (2 * k, 2 * k + 1):
            records += [r.Leased(ticket, k, 1, ticket), r.Started(ticket, "sampler-1", 0)]
            if ticket == 3:
                records += [r.Released(3, 1, "boom"), r.Leased(3, k, 1, 9)]
            if ticket == 4:
                records += [r.Failed(4, "boom")]
            else:
                rollout = r.RolloutRecord(0, 7, {"x": 0.1 * ticket, "y": None}, {"y": "silent"})
                records += [r.Buffered(ticket, k, (rollout,), 10, {"sampler": 0.5})]
        records += [r.Selected(k, ((2 * k + 1, 0, ""),)), r.Published(k + 1)]
    return records


def fold(records, ledger=None):
    ledger = ledger or Ledger(PLAN)
    for record, when in records:
        ledger.apply(record, when)
    return ledger


def restored(folder):
    state, records = Journal(folder / "journal.log").restore()
    return fold(records, load(PLAN, state) if state is not None else None)


def plain(ledger):
    return json.loads(json.dumps(dump(ledger)))


def write(folder, compact_after):
    """A journal of the whole history; compacted after the records with these numbers."""
    journal, ledger = Journal(folder / "journal.log"), Ledger(PLAN)
    for number, record in enumerate(history()):
        ledger.apply(record, journal.append(record))
        if number in compact_after:
            journal.compact(dump(ledger))
    return ledger


def columns(scores):
    """As plain values; NaN, which equals nothing, as text."""
    names = sorted(scores.tables)
    return (
        [part.tolist() for part in scores.keys()],
        {n: list(map(str, scores.scores(n))) for n in names},
        scores.reasons,
    )


@pytest.mark.parametrize("forgotten", [0, 1, 3])
def test_a_ledger_comes_back_from_its_snapshot_with_every_field(forgotten):
    ledger = fold((record, 5.0 + n) for n, record in enumerate(history()))
    ledger.forget_cohorts(forgotten)
    again = load(PLAN, plain(ledger))
    assert vars(again).keys() == vars(ledger).keys()
    for name, value in vars(ledger).items():
        if name == "scores":
            assert {k: columns(scores) for k, scores in again.scores.items()} == {
                k: columns(scores) for k, scores in value.items()
            }
        elif name != "tickets":
            assert getattr(again, name) == value, name
    assert again.tickets.known == ledger.tickets.known and again.tickets.states == ledger.tickets.states
    assert [t.state for t in again.tickets] == ["dropped", "trained", "dropped", "trained", "failed", "trained"]


def test_a_snapshot_of_another_plan_or_of_a_newer_program_is_refused():
    state = plain(Ledger(PLAN))
    with pytest.raises(ValueError, match="a plan of 6 tickets, this one has 1"):
        load(Plan.from_config(build({"stages": [{"name": "s", "tickets": 1}]})), state)
    with pytest.raises(ValueError, match="its field fortune is unknown"):
        load(PLAN, {**state, "fortune": 1})


def test_the_state_is_the_same_wherever_it_was_compacted(tmp_path):
    for number in range(0, len(history()), 4):
        folder = tmp_path / str(number)
        assert plain(restored_after(folder, {number})) == plain(fold(Journal(folder / "journal.log").read()))
        assert [record for record, _ in Journal(folder / "journal.log").read()] == history()


def restored_after(folder, compact_after):
    write(folder, compact_after)
    return restored(folder)


def test_a_restart_reads_the_last_part_only(tmp_path):
    write(tmp_path, {5, 9})
    state, records = Journal(tmp_path / "journal.log").restore()
    assert state is not None and [record for record, _ in records] == history()[10:]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "archive",
        "journal.log",
        "snapshot-000001",
        "snapshot-000002",
    ]


def test_any_cut_of_the_last_part_keeps_every_complete_record_and_appending_goes_on(tmp_path):
    write(tmp_path / "whole", {5, 9})
    data = (tmp_path / "whole" / "journal.log").read_bytes()
    ends = [n + 1 for n, byte in enumerate(data) if byte == 10]
    folder = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", folder)
    for cut in [*range(ends[1] + 1), *ends, *range(ends[-2], ends[-1])]:  # the part's line, the first and last record
        (folder / "journal.log").write_bytes(data[:cut])
        kept = 10 + max(0, sum(end <= cut for end in ends) - 1)  # the first line is the part's number
        journal = Journal(folder / "journal.log")
        assert [record for record, _ in journal.restore()[1]] == history()[10:kept]
        journal.append(r.EpochBegan(7))
        assert [record for record, _ in Journal(folder / "journal.log").read()] == [*history()[:kept], r.EpochBegan(7)]


STEPS = ("archive/000002.gz.tmp", "archive/000002.gz", "snapshot-000002.tmp", "snapshot-000002", "journal.log.tmp")


@pytest.mark.parametrize("reached", range(len(STEPS) + 1))
@pytest.mark.parametrize("cut", [False, True])
def test_a_kill_between_the_steps_of_a_compaction_loses_nothing(tmp_path, reached, cut):
    """What is there after each step is put beside the journal before it; the file being written may be cut short."""
    before, after = tmp_path / "before", tmp_path / "after"
    ledger = write(before, {5})
    shutil.copytree(before, after)
    Journal(after / "journal.log").compact(dump(ledger))
    finals = {name: after / name.removesuffix(".tmp") for name in STEPS}
    for name in STEPS[:reached]:
        if name.endswith(".tmp") and name != STEPS[reached - 1]:
            continue  # it was renamed by the step after it
        data = finals[name].read_bytes()
        (before / name).write_bytes(data[: len(data) // 2] if cut and name == STEPS[reached - 1] else data)
    assert plain(restored(before)) == plain(ledger)
    journal = Journal(before / "journal.log")
    list(journal.replay())
    ledger.apply(r.EpochBegan(7), journal.append(r.EpochBegan(7)))  # records go on in the part that is current
    assert plain(restored(before)) == plain(ledger)
    journal.compact(dump(ledger))
    assert plain(restored(before)) == plain(ledger)
    assert [record for record, _ in Journal(before / "journal.log").read()] == [*history(), r.EpochBegan(7)]


@pytest.mark.parametrize("damage", [lambda data: data[:-1][:40], lambda data: data[:30] + b"#" + data[31:]])
def test_a_damaged_snapshot_falls_back_to_the_one_before_and_then_to_the_records(tmp_path, damage, caplog):
    ledger = write(tmp_path, {5, 9, 12})
    for name in ("snapshot-000003", "snapshot-000002"):
        path = tmp_path / name
        path.write_bytes(damage(path.read_bytes()))
        assert plain(restored(tmp_path)) == plain(ledger)
        assert f"{name}: fails its checksum" in caplog.text
    assert not (tmp_path / "snapshot-000001").exists()  # two are kept; here the archive stands in for it


def test_a_damaged_archive_is_refused_only_where_it_is_needed(tmp_path):
    ledger = write(tmp_path, {5, 9})
    archive = tmp_path / "archive" / "000001.gz"
    archive.write_bytes(archive.read_bytes()[:-9])
    assert plain(restored(tmp_path)) == plain(ledger)
    with pytest.raises(ValueError, match="part 1 of the journal cannot be read"):
        list(Journal(tmp_path / "journal.log").read())
    archive.unlink()
    with pytest.raises(ValueError, match="000001.gz: part 1 of the journal cannot be read"):
        list(Journal(tmp_path / "journal.log").read())


def test_a_full_disk_during_a_compaction_leaves_the_journal_as_it_was(tmp_path):
    ledger = write(tmp_path, {5})
    journal = Journal(tmp_path / "journal.log")
    (tmp_path / "archive" / "000002.gz.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        journal.compact(dump(ledger))
    ledger.apply(r.EpochBegan(7), journal.append(r.EpochBegan(7)))
    assert plain(restored(tmp_path)) == plain(ledger)


def test_a_first_record_that_is_of_no_part_is_part_one(tmp_path):
    (tmp_path / "journal.log").write_bytes(encode(r.to_json(r.EpochBegan(3), 1.0)))
    assert restored(tmp_path).epoch == 3
