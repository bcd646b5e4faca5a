"""Streams of a corpus: the order depends on seed, stage and position alone, the reader is bounded and ahead."""

import gc
import threading
import time
from collections import Counter

import numpy as np
import pytest

from rlloop.data.corpus import Corpus, CorpusRow, CorpusSpec, open_corpus
from rlloop.data.corpus_stream import CorpusOrder, CorpusStream
from tests.unit.test_corpus import make_row, write, write_npz


class FakeCorpus(Corpus):
    """Rows named shard/row, of no content; notes what is read."""

    def __init__(self, shard_rows, group_rows=8, broken=()):
        self.folder, self.spec = "fake", CorpusSpec((1, 1), "")
        self.shard_rows, self.group_rows = np.array(shard_rows, np.int64), group_rows
        self.broken, self.read, self.gate = set(broken), [], threading.Event()
        self.gate.set()

    def read_group(self, shard, group):
        self.gate.wait(10)
        self.read.append((shard, group))
        if (shard, group) in self.broken:
            raise ValueError(f"shard {shard} group {group} is broken")
        first = group * self.group_rows
        count = min(self.group_rows, int(self.shard_rows[shard]) - first)
        return [CorpusRow(f"{shard}/{first + n}", "", np.zeros((1, 1), np.float32)) for n in range(count)]


UNEVEN = (37, 8, 1, 64, 30)  # 140 rows, 20 groups of at most 8


def ids(corpus, positions, seed=1, stage=0, window=32):
    with CorpusStream(corpus, seed, stage, window) as stream:
        return [row.id for row in stream.rows(positions)]


def until(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# ---- the order


@pytest.mark.parametrize("window", [1, 7, 32, 139, 140, 141, 5000])
def test_an_epoch_visits_every_row_once(window):
    found = ids(FakeCorpus(UNEVEN), range(420), window=window)
    every = {f"{shard}/{row}" for shard, rows in enumerate(UNEVEN) for row in range(rows)}
    epochs = [found[:140], found[140:280], found[280:]]
    for epoch in epochs:
        assert len(epoch) == len(set(epoch)) and set(epoch) == every
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_windows_are_consecutive_rows_of_the_shuffled_shards():
    laid = ids(FakeCorpus(UNEVEN), range(140), window=1)
    shards = list(dict.fromkeys(int(name.split("/")[0]) for name in laid))
    assert laid == [f"{shard}/{row}" for shard in shards for row in range(UNEVEN[shard])]
    assert shards != sorted(shards)
    found = ids(FakeCorpus(UNEVEN), range(140), window=32)
    for first in range(0, 140, 32):
        window = found[first : first + 32]
        assert sorted(window) == sorted(laid[first : first + 32])
        assert window != laid[first : first + 32]


def test_every_window_is_shuffled_in_a_way_of_its_own():
    found = [int(name[2:]) for name in ids(FakeCorpus([40]), range(80), window=20)]
    windows = [tuple(row % 20 for row in found[first : first + 20]) for first in range(0, 80, 20)]
    assert len(set(windows)) == 4 and all(sorted(window) == list(range(20)) for window in windows)


def test_seeds_stages_and_nothing_else_change_the_order():
    first = ids(FakeCorpus(UNEVEN), range(140))
    assert first == ids(FakeCorpus(UNEVEN), range(140))
    assert first != ids(FakeCorpus(UNEVEN), range(140), seed=2)
    assert first != ids(FakeCorpus(UNEVEN), range(140), stage=1)


def test_slices_of_two_ranks_are_the_batch_of_one():
    whole = ids(FakeCorpus(UNEVEN), range(320))
    with CorpusStream(FakeCorpus(UNEVEN), 1, 0, 32) as a, CorpusStream(FakeCorpus(UNEVEN), 1, 0, 32) as b:
        for first in range(0, 320, 10):
            both = a.rows(range(first, first + 5)) + b.rows(range(first + 5, first + 10))
            assert [row.id for row in both] == whole[first : first + 10]


def test_a_resumed_stream_goes_on_as_if_undisturbed():
    whole = ids(FakeCorpus(UNEVEN), range(300))
    for position in range(0, 300, 13):
        assert ids(FakeCorpus(UNEVEN), range(position, 300)) == whole[position:]


def test_positions_may_come_in_any_order():
    whole = ids(FakeCorpus(UNEVEN), range(300))
    positions = np.random.default_rng(0).permutation(300).tolist() + [5, 5, 299]
    assert ids(FakeCorpus(UNEVEN), positions) == [whole[position] for position in positions]
    assert ids(FakeCorpus(UNEVEN), []) == []


def test_a_far_position_costs_no_walk():
    order = CorpusOrder(np.full(10_000, 512), 0, 0, 2048)
    window = order.window(order.locate(10**12)[0])
    assert len(set(zip(window.shards.tolist(), window.rows.tolist(), strict=True))) == 2048
    corpus = FakeCorpus([64] * 50)
    assert len(ids(corpus, range(3200 * 10**9 + 1600, 3200 * 10**9 + 1604), window=64)) == 4
    assert len(corpus.read) <= 2 * 8 + 2


def test_a_window_below_one_is_refused():
    with pytest.raises(ValueError, match="corpus_window is 0"):
        CorpusStream(FakeCorpus(UNEVEN), 0, 0, 0)


# ---- the reader


@pytest.mark.parametrize("window", [1, 20, 64])
def test_memory_is_bounded_by_the_window(window):
    corpus = FakeCorpus([61] * 10)
    with CorpusStream(corpus, 3, 0, window) as stream:
        for first in range(0, 2 * len(corpus), 48):
            stream.rows(range(first, first + 48))
            assert stream.held_rows <= 2 * window + 2 * corpus.group_rows


def test_rows_that_are_no_longer_needed_are_freed():
    corpus = FakeCorpus([64] * 40)
    gc.collect()
    before = sum(isinstance(x, CorpusRow) for x in gc.get_objects())
    with CorpusStream(corpus, 0, 0, 64) as stream:
        for first in range(0, 4 * len(corpus), 32):
            stream.rows(range(first, first + 32))
        gc.collect()
        assert sum(isinstance(x, CorpusRow) for x in gc.get_objects()) - before <= 2 * 64 + 4 * 8


def test_the_reader_is_a_window_ahead_of_a_slow_trainer():
    corpus = FakeCorpus([64] * 10)
    with CorpusStream(corpus, 0, 0, 64) as stream:
        stream.rows(range(4))
        until(lambda: stream.held_rows == 128)  # two windows of eight groups
        corpus.gate.clear()
        waited_s = stream.waited_s
        stream.rows(range(4, 128))  # all of it is there: a reader that has to read would wait for the gate
        assert stream.waited_s == waited_s
        corpus.gate.set()
        until(lambda: len(corpus.read) == 24)


def test_what_two_windows_share_is_read_once():
    corpus = FakeCorpus(UNEVEN)
    ids(corpus, range(140 * 3), window=1000)
    assert sorted(corpus.read) == sorted(set(corpus.read)) and len(corpus.read) == 19
    corpus = FakeCorpus([60] * 2)
    ids(corpus, range(120), window=20)
    assert max(Counter(corpus.read[:15]).values()) == 1


def test_an_error_of_the_reader_reaches_the_caller_who_needs_the_row():
    healthy = ids(FakeCorpus(UNEVEN), range(140))
    bad = [f"3/{row}" for row in range(16, 24)]
    corpus = FakeCorpus(UNEVEN, broken={(3, 2)})
    with CorpusStream(corpus, 1, 0, 32) as stream:
        for position, name in enumerate(healthy):
            if name in bad:
                with pytest.raises(ValueError, match="shard 3 group 2 is broken"):
                    stream.rows([position])
            else:
                assert stream.rows([position])[0].id == name
        position = healthy.index(bad[0])
        with pytest.raises(ValueError, match="broken"):
            stream.rows([position])
        corpus.broken.clear()  # copied again, say
        assert stream.rows([position])[0].id == bad[0]


def test_a_closed_stream_ends_its_thread_and_those_who_wait():
    corpus = FakeCorpus(UNEVEN)
    stream = CorpusStream(corpus, 0, 0, 32)
    assert stream.rows([0])
    corpus.gate.clear()
    caught = []

    def ask():
        try:
            stream.rows([139])
        except ValueError as error:
            caught.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    closing = threading.Thread(target=stream.close)
    closing.start()
    asking.join(10)
    corpus.gate.set()
    closing.join(10)
    stream.close()
    assert not asking.is_alive() and not closing.is_alive() and stream.held_rows == 0
    assert caught and "closed" in caught[0]
    with pytest.raises(ValueError, match="closed"):
        stream.rows([0])


# ---- on disk


def test_a_corpus_on_disk_and_one_of_npz_files(tmp_path):
    rows = [make_row(n) for n in range(200)]
    corpus = open_corpus(write(tmp_path / "parquet", rows, shard_rows=80))
    with CorpusStream(corpus, 0, 2, 64) as stream:
        found = stream.rows(range(200))
    assert sorted(row.id for row in found) == sorted(row.id for row in rows)
    for row in found:
        np.testing.assert_array_equal(row.mean, rows[int(row.id[1:])].mean)
    write_npz(tmp_path / "npz", 20)
    first = ids(open_corpus(tmp_path / "npz"), range(20), window=6)
    assert sorted(first) == sorted(f"00{n}" for n in range(20))
    assert ids(open_corpus(tmp_path / "npz"), range(7, 20), window=6) == first[7:]


def test_damage_on_disk_reaches_the_caller(tmp_path):
    corpus = open_corpus(write(tmp_path, [make_row(n) for n in range(10)]))
    (tmp_path / "part-00000.parquet").write_bytes(b"PAR1")
    with CorpusStream(corpus, 0, 0, 4) as stream, pytest.raises(ValueError, match="part-00000.parquet is damaged"):
        stream.rows([0])
