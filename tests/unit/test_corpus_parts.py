"""The collector: one corpus in the order of its keys, whoever is first and however often it is killed."""

import json

import numpy as np
import pytest

from rlloop.data.corpus import CorpusRow, CorpusSpec, open_corpus
from rlloop.recipes.corpus_parts import Collector, Outcome, part_folder, row_id, write_part

SPEC = CorpusSpec((3, 2), "test", ("reward",))
KEYS = [f"k{n}" for n in range(8)]


def leave(folder, key, count=2):
    number = KEYS.index(key)
    rows = [CorpusRow(row_id(key, n), f"song {number}", np.full((3, 2), number + n / 10)) for n in range(count)]
    write_part(folder, key, rows, SPEC)
    return Outcome(key, count)


def nothing(done, failed):
    pass


def prepare(folder, keys=KEYS, claim="c"):
    return Collector(folder, SPEC, keys, claim)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith(("part-", "corpus"))}


def whole(folder):
    with prepare(folder) as collector:
        collector.collect((leave(folder, key) for key in KEYS), nothing)
        assert collector.finish() == 16
    return contents(folder)


def test_rows_are_in_the_order_of_the_keys_whoever_is_first(tmp_path):
    expected = whole(tmp_path / "a")
    seen = []
    with prepare(tmp_path / "b") as collector:
        outcomes = (leave(tmp_path / "b", KEYS[n]) for n in (3, 0, 7, 1, 2, 1, 6, 5, 4))  # one comes twice
        collector.collect(outcomes, lambda *done: seen.append(done))
        collector.finish()
    assert contents(tmp_path / "b") == expected and seen == [(1, 0)] * 8
    assert [row.id for row in open_corpus(tmp_path / "b")] == [row_id(key, n) for key in KEYS for n in range(2)]
    assert not (tmp_path / "b" / "pending").exists()


def test_a_killed_job_goes_on_and_ends_with_the_same_bytes(tmp_path):
    expected = whole(tmp_path / "a")
    folder = tmp_path / "b"
    with prepare(folder) as collector:
        collector.collect((leave(folder, KEYS[n]) for n in (0, 2, 1)), nothing)
    half = part_folder(folder, KEYS[4])  # as a worker's kill leaves it: a shard and no corpus.json
    leave(folder, KEYS[4])
    (half / "corpus.json").unlink()
    with pytest.raises(ValueError, match="half-written|not a corpus"):
        open_corpus(folder)
    with prepare(folder) as again:
        assert again.todo() == KEYS[3:] and again.resumed == 3
        again.collect((leave(folder, key) for key in reversed(again.todo())), nothing)
        again.finish()
    assert contents(folder) == expected
    with prepare(folder) as finished:
        assert finished.todo() == []
        assert finished.finish() == 16
    assert contents(folder) == expected


def test_a_kill_between_shard_and_removal_of_its_parts_repeats_no_row(tmp_path):
    expected, folder = whole(tmp_path / "a"), tmp_path / "b"
    with prepare(folder) as collector:
        collector.collect((leave(folder, key) for key in KEYS[:3]), nothing)
        collector.writer.flush()  # the shard is there, and so are the parts
    with prepare(folder) as again:
        assert again.todo() == KEYS[3:]
        again.collect((leave(folder, key) for key in again.todo()), nothing)
        assert again.finish() == 16
    rows = [(row.id, row.mean.tolist()) for row in open_corpus(folder)]
    assert rows == [(row.id, row.mean.tolist()) for row in open_corpus(tmp_path / "a")]
    assert contents(folder).keys() == {*expected, "part-00001.parquet"}


def test_parts_are_removed_once_their_rows_are_in_a_shard(tmp_path):
    with prepare(tmp_path) as collector:
        collector.writer.shard_rows = 4
        collector.collect((leave(tmp_path, key) for key in KEYS[:5]), nothing)
        left = [key for key in KEYS if part_folder(tmp_path, key).exists()]
    assert left == [KEYS[4]]


def test_failures_are_listed_and_tried_again(tmp_path):
    listed = tmp_path / "failures.jsonl"
    with prepare(tmp_path, KEYS[:3]) as collector:
        collector.fail({KEYS[2]: "no such file"})
        collector.collect([Outcome(KEYS[1], 0, "is\nno audio")], nothing)
        assert [json.loads(line)["id"] for line in listed.read_text().splitlines()] == [KEYS[2], KEYS[1]]
        collector.collect([leave(tmp_path, KEYS[0])], nothing)
        assert collector.finish() == 2
    assert [json.loads(line) for line in listed.read_text().splitlines()] == [
        {"id": KEYS[1], "reason": "is no audio"},
        {"id": KEYS[2], "reason": "no such file"},
    ]
    with prepare(tmp_path, KEYS[:3]) as again:
        assert again.todo() == KEYS[1:3]
        again.collect([leave(tmp_path, key) for key in again.todo()], nothing)
        assert again.finish() == 6
    assert not listed.exists()


def test_missing_scores_are_counted_by_reason(tmp_path):
    with prepare(tmp_path, KEYS[:2]) as collector:
        found = [leave(tmp_path, KEYS[0]), leave(tmp_path, KEYS[1])]
        missing = collector.collect([Outcome(o.key, 2, missing={"reward: moody": 2}) for o in found], nothing)
    assert missing == {"reward: moody": 4}


def test_a_job_that_cannot_work_is_given_up(tmp_path):
    keys = [f"k{n}" for n in range(100)]
    with prepare(tmp_path, keys) as collector, pytest.raises(ValueError, match="the first 64 failed.*out of memory"):
        collector.collect((Outcome(key, 0, "out of memory") for key in keys), nothing)


def test_a_job_that_has_worked_goes_on_whatever_fails_first(tmp_path):
    """What failed before is tried again first: on a resume these failures say nothing of the job."""
    keys = [*(f"k{n:03d}" for n in range(100)), KEYS[0]]
    with prepare(tmp_path, keys) as collector:
        collector.collect([leave(tmp_path, keys[-1])], nothing)
    with prepare(tmp_path, keys) as collector:
        collector.collect((Outcome(key, 0, "silent") for key in keys[:-1]), nothing)
        assert collector.finish() == 2
    with prepare(tmp_path, keys) as collector:  # and again, on the finished corpus
        collector.collect((Outcome(key, 0, "silent") for key in keys[:-1]), nothing)
        assert collector.finish() == 2


def test_without_a_row_there_is_no_corpus(tmp_path):
    with prepare(tmp_path, ["a"]) as collector:
        collector.collect([Outcome("a", 0, "silent")], nothing)
        with pytest.raises(ValueError, match="none of 1 gave a row.*a: silent"):
            collector.finish()
    assert (tmp_path / "failures.jsonl").exists() and not (tmp_path / "corpus.json").exists()


def test_another_job_s_folder_is_refused(tmp_path):
    whole(tmp_path / "a")
    with pytest.raises(ValueError, match="was begun with others"):
        prepare(tmp_path / "a", claim="d")
    (tmp_path / "a" / "prepare.json").unlink()
    with pytest.raises(ValueError, match="did not begin"):
        prepare(tmp_path / "a")
    with prepare(tmp_path / "b"), pytest.raises(ValueError, match="another process prepares"):
        prepare(tmp_path / "b")


def test_a_row_that_float16_lacks_leaves_no_part(tmp_path):
    row = CorpusRow("k0_0", "", np.full((3, 2), 1e6))
    with pytest.raises(ValueError, match="float16"):
        write_part(tmp_path, "k0", [row], SPEC)
    assert not part_folder(tmp_path, "k0").exists()
