"""The journal: what was acknowledged comes back, an incomplete end is cut off, damage is refused."""

import errno
import json
import os
import random
import threading
import time
from itertools import accumulate

import pytest

from rlloop.commands.ledger import lines
from rlloop.config import build
from rlloop.loop import records as r
from rlloop.loop.journal import Journal, decode, encode

RECORDS = [
    r.EpochBegan(1),
    r.SegmentBegan(1),
    r.Leased(3, 0, 1, 0),
    r.Started(3, "w", 0),
    r.Buffered(3, 0, (r.RolloutRecord(0, 9, {"x": 0.1, "y": None}, {"y": "silent"}),), 10, {"sampler": 0.5}),
    r.Failed(4, "boom"),
    r.Selected(0, ((3, 0, ""),)),
    r.Published(1),
]


def write(path):
    journal = Journal(path)
    for record in RECORDS:
        journal.append(record)
    return path.read_bytes()


def test_records_come_back_equal_and_in_order(tmp_path):
    write(tmp_path / "j")
    assert [record for record, _ in Journal(tmp_path / "j").replay()] == RECORDS


def test_any_cut_keeps_every_complete_record_and_appending_goes_on(tmp_path):
    data = write(tmp_path / "j")
    ends = [n + 1 for n, byte in enumerate(data) if byte == 10]
    for cut in random.Random(0).sample(range(len(data)), 60):
        (tmp_path / "k").write_bytes(data[:cut])
        journal = Journal(tmp_path / "k")
        complete = sum(end <= cut for end in ends)
        assert [record for record, _ in journal.replay()] == RECORDS[:complete]
        journal.append(r.Published(5))
        again = [record for record, _ in Journal(tmp_path / "k").replay()]
        assert again == [*RECORDS[:complete], r.Published(5)]


def test_a_flipped_bit_before_the_last_record_is_refused(tmp_path):
    data = bytearray(write(tmp_path / "j"))
    data[30] ^= 4
    (tmp_path / "j").write_bytes(bytes(data))
    with pytest.raises(ValueError, match="fails its checksum and is not of the last ones"):
        list(Journal(tmp_path / "j").replay())


@pytest.mark.parametrize("damaged", [0, 1])
def test_of_a_group_that_was_not_on_disk_what_stands_behind_the_damage_is_cut_off(tmp_path, damaged):
    """After a loss of power a later page may be there and an earlier one not; nobody was told of either."""
    journal = Journal(tmp_path / "j")
    journal.append(RECORDS[0])
    on_disk = (tmp_path / "j").stat().st_size
    for record in RECORDS[1:4]:
        journal.write(record)
    data = bytearray((tmp_path / "j").read_bytes())
    lines = [n for n in range(on_disk, len(data)) if data[n] == 10]
    data[(on_disk, lines[0] + 1)[damaged] + 12] ^= 4
    (tmp_path / "j").write_bytes(bytes(data))
    again = Journal(tmp_path / "j")
    assert [record for record, _ in again.replay()] == RECORDS[: 1 + damaged]
    again.append(r.Published(7))
    assert [record for record, _ in Journal(tmp_path / "j").replay()] == [*RECORDS[: 1 + damaged], r.Published(7)]


def test_damage_is_refused_in_a_group_behind_which_another_was_written(tmp_path):
    journal = Journal(tmp_path / "j")
    for record in RECORDS[:3]:
        journal.write(record)
    journal.flush()
    journal.append(RECORDS[3])
    data = bytearray((tmp_path / "j").read_bytes())
    data[30] ^= 4
    (tmp_path / "j").write_bytes(bytes(data))
    with pytest.raises(ValueError, match="not of the last ones"):
        list(Journal(tmp_path / "j").replay())


def test_a_record_of_another_program_is_named():
    with pytest.raises(ValueError, match="record type 'Foreign'"):
        r.from_json({"type": "Foreign", "time": 1})


def test_encoding_is_one_line_with_checksum_and_length():
    line = encode({"a": 1})
    assert line.endswith(b' 7 {"a":1}\n') and decode(line[:-1]) == {"a": 1}
    assert decode(b"00000000 7 {}") is None


def test_the_ledger_command_prints_every_ticket_and_changes_nothing(tmp_path):
    config = build({"stages": [{"name": "s", "tickets": 3}], "trainer": {"num_workers": 1}})
    (tmp_path / "config.json").write_text(config.model_dump_json())
    journal = Journal(tmp_path / "journal" / "journal.log")
    for record in (r.SegmentBegan(1), r.Leased(0, 0, 1, 0), r.Buffered(0, 0, ()), r.Failed(1, "boom")):
        journal.append(record)
    with journal.path.open("ab") as file:
        file.write(b"half a rec")
    size = journal.path.stat().st_size
    tickets = [json.loads(line) for line in lines(tmp_path)]
    assert [t["state"] for t in tickets] == ["buffered", "failed", "open"]
    assert tickets[1]["reason"] == "boom" and set(tickets[0]["times"]) == {"leased", "buffered"}
    assert journal.path.stat().st_size == size
    with pytest.raises(ValueError, match="holds no run"):
        lines(tmp_path / "nothing")


def test_a_failed_append_leaves_nothing_behind_and_takes_no_later_record(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "j")
    journal.append(r.EpochBegan(1))
    good = journal.path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("rlloop.loop.journal.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            journal.append(r.Published(1))
    assert journal.path.read_bytes() == good
    with pytest.raises(OSError, match="an earlier record failed: No space left"):
        journal.append(r.Published(1))
    assert [record for record, _ in Journal(journal.path).replay()] == [r.EpochBegan(1)]


def test_threads_share_syncs_and_none_is_answered_before_its_record_is_synced(tmp_path, monkeypatch):
    journal, synced, answers, fsync = Journal(tmp_path / "j"), [0], {}, os.fsync

    def slow(descriptor):
        size = os.fstat(descriptor).st_size
        time.sleep(0.01)
        fsync(descriptor)
        synced.append(size)

    def work(first):
        for ticket in range(first, first + 10):
            journal.append(r.Failed(ticket, "x"))
            answers[ticket] = max(synced)

    monkeypatch.setattr("rlloop.loop.journal.os.fsync", slow)
    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ends = list(accumulate(len(line) for line in journal.path.read_bytes().splitlines(keepends=True)))
    found = [record.ticket for record, _ in Journal(tmp_path / "j").replay()]
    assert sorted(found) == [100 * n + k for n in range(8) for k in range(10)]
    assert all(end <= answers[ticket] for ticket, end in zip(found, ends, strict=True))
    assert len(synced) < 60  # of 80 records; about 20 where nobody else works
