"""A corpus as an endless stream whose row at position p is a pure function of (seed, stage, p).

Position p is in epoch p // N. Each epoch lays the shards in an order of its own, cuts the rows that follow into windows
and shuffles every window. So any position is found without reading what lies before, ranks that ask for the slices of a
batch get what one rank would get, and only two windows are in memory. (The baseline shuffles all indices at once,
which reads every row from a place of its own.)
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlloop.data.corpus_format import Corpus, CorpusRow

GroupKey = tuple[int, int]  # shard, row group in it


@dataclass(frozen=True, eq=False)
class Window:
    """Consecutive rows of an epoch, shuffled. shards, rows: [W], where the row of each position is."""

    shards: np.ndarray
    rows: np.ndarray

    def groups(self, group_rows: int) -> list[GroupKey]:
        """The row groups that hold its rows, in the order in which they lie on disk."""
        groups = self.rows // group_rows
        stride = int(groups.max()) + 1
        return [divmod(key, stride) for key in np.unique(self.shards * stride + groups).tolist()]


class CorpusOrder:
    """Where the row of each position is.

    Args:
        shard_rows: [S] rows of every shard.
        seed, stage: of the run and the stage's number; every pair has an order of its own.
        window: rows that are shuffled among each other; in a corpus that is smaller, an epoch is one window.
    """

    def __init__(self, shard_rows: np.ndarray, seed: int, stage: int, window: int):
        if window < 1:
            raise ValueError(f"corpus_window is {window}; expected at least 1")
        self.shard_rows, self.key = shard_rows, (seed, stage)
        self.num_rows = int(shard_rows.sum())
        self.window_rows = min(window, self.num_rows)
        self.windows_per_epoch = -(-self.num_rows // self.window_rows)
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def locate(self, position: int) -> tuple[int, int]:
        """Number of the window, from 0 over all epochs, and index in it."""
        assert position >= 0, position
        epoch, row = divmod(position, self.num_rows)
        return epoch * self.windows_per_epoch + row // self.window_rows, row % self.window_rows

    def window(self, number: int) -> Window:
        epoch, n = divmod(number, self.windows_per_epoch)
        shards, ends = self._epoch(epoch)
        first = n * self.window_rows
        count = min(self.window_rows, self.num_rows - first)
        rows = first + self._rng(6, number).permutation(count)
        places = np.searchsorted(ends, rows, side="right")
        chosen = shards[places]
        return Window(chosen, rows - (ends[places] - self.shard_rows[chosen]))

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """[S] shards in their order and [S] the row of the epoch at which each ends; the last two are kept."""
        if epoch not in self._epochs:
            shards = self._rng(5, epoch).permutation(len(self.shard_rows))
            self._epochs = {e: kept for e, kept in self._epochs.items() if abs(e - epoch) == 1}
            self._epochs[epoch] = shards, np.cumsum(self.shard_rows[shards])
        return self._epochs[epoch]

    def _rng(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([*self.key, purpose, number]))


class CorpusStream:
    """Rows by position, with a thread that reads the window in use and the one after it.

    In memory, as they are stored, are at most the rows of two windows and of four row groups (the windows' edges, and
    the one that is being read, twice), whatever the size of the corpus: `2 * window + 4 * corpus.group_rows` rows. With
    the default window of 2048 that is 0.99 GB in every rank where a row has the published sizes (228 kB); a smaller
    `corpus_window` takes less. Row groups that both windows use, all of them if the corpus is smaller than a window,
    are read once. Beside them are 16 bytes for every shard.

    Positions may be asked for in any order; only ascending ones find their rows read ahead. One caller at a time.

    Life cycle: reading -> closed.

    Args:
        corpus: from open_corpus.
        seed, stage, window: as CorpusOrder.
    """

    def __init__(self, corpus: Corpus, seed: int, stage: int, window: int):
        self.corpus = corpus
        self.order = CorpusOrder(corpus.shard_rows, seed, stage, window)
        self.waited_s = 0.0  # that callers have waited for the reader
        self._number: int | None = None
        self._windows: dict[int, Window] = {}
        self._wanted: set[GroupKey] = set()
        self._pending: deque[GroupKey] = deque()
        self._reading: GroupKey | None = None
        self._groups: dict[GroupKey, Sequence[CorpusRow] | BaseException] = {}
        self._is_closed = False
        self._changed = threading.Condition()
        self._caller = threading.Lock()
        self._thread = threading.Thread(target=self._read_ahead, name="corpus reader", daemon=True)
        self._thread.start()

    def __enter__(self) -> CorpusStream:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self.close()

    @property
    def held_rows(self) -> int:
        """Rows in memory."""
        with self._changed:
            return sum(len(group) for group in self._groups.values() if not isinstance(group, BaseException))

    def rows(self, positions: Sequence[int]) -> list[CorpusRow]:
        """The rows at these positions, in their order.

        Raises:
            ValueError: a file is missing, damaged or foreign (raised for a position that needs it, not before), or the
                stream is closed.
        """
        places = [self.order.locate(position) for position in positions]
        found: dict[int, CorpusRow] = {}
        with self._caller:
            # Window by window, so that a batch larger than a window holds no more of them than another.
            for place in sorted(range(len(places)), key=lambda n: places[n][0]):
                number, n = places[place]
                window = self._aim(number)
                shard, row = int(window.shards[n]), int(window.rows[n])
                group, index = divmod(row, self.corpus.group_rows)
                found[place] = self._wait((shard, group))[index]
        return [found[place] for place in range(len(places))]

    def close(self) -> None:
        """Ends the thread and frees the rows; a second call does nothing."""
        with self._changed:
            self._is_closed = True
            self._pending.clear()
            self._changed.notify_all()
        self._thread.join()
        self._groups.clear()

    def _aim(self, number: int) -> Window:
        """Tells the thread which windows to hold, and drops what is in neither."""
        if number != self._number:
            numbers = (number, number + 1)
            windows = {n: self._windows.get(n) or self.order.window(n) for n in numbers}
            keys = dict.fromkeys(key for n in numbers for key in windows[n].groups(self.corpus.group_rows))
            with self._changed:
                self._number, self._windows, self._wanted = number, windows, set(keys)
                # What failed is read again.
                kept = {key: group for key, group in self._groups.items() if not isinstance(group, BaseException)}
                self._groups = {key: group for key, group in kept.items() if key in keys}
                self._pending = deque(key for key in keys if key not in self._groups and key != self._reading)
                self._changed.notify_all()
        return self._windows[number]

    def _wait(self, key: GroupKey) -> Sequence[CorpusRow]:
        """A row group, as soon as the thread has read it."""
        with self._changed:
            if key not in self._groups:
                began = time.perf_counter()
                self._changed.wait_for(lambda: key in self._groups or self._is_closed)
                self.waited_s += time.perf_counter() - began
            if self._is_closed:
                raise ValueError(f"the stream of {self.corpus.folder} is closed; open another")
            group = self._groups[key]
            if isinstance(group, BaseException):
                self._groups.pop(key)
                self._number = None  # asked again, it is read again
                raise group
            return group

    def _read_ahead(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._is_closed)
                if self._is_closed:
                    return
                key = self._reading = self._pending.popleft()
            try:
                group = self.corpus.read_group(*key)
            except BaseException as error:  # handed to the caller that needs the group
                group = error
            with self._changed:
                self._reading = None
                if key in self._wanted:
                    self._groups[key] = group
                    self._changed.notify_all()
            del group  # else the last one stays while the thread waits
