"""Scores of a cohort as columns, filled ticket by ticket: a cohort of a million clips is ranked in milliseconds.

Derived from the ledger's tickets and never stored. It lives as long as their rollouts do: from the first that is
buffered until the cohort is forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from rlloop.loop.records import RolloutRecord


class CohortScores:
    """A row a ticket, a place a clip; places without a clip have clip -1 and score NaN, as a missing score has.

    So the columns are in the order of (ticket, place) whatever the order of arrival, and sums over them are the same
    after a restart.
    """

    def __init__(self, tickets: range) -> None:
        self.tickets = tickets
        self.clips = np.full((len(tickets), 0), -1, np.int32)
        self.places = np.zeros(0, np.int32)  # the ticket of each place
        self.num_clips = 0
        self.tables: dict[str, np.ndarray] = {}  # score -> [tickets, places]
        self.reasons: Counter[str] = Counter()  # of missing scores

    def add(self, ticket: int, rollouts: Sequence[RolloutRecord]) -> None:
        """Notes the rollouts of a ticket, once."""
        row = ticket - self.tickets.start
        self._widen(len(rollouts))
        self.num_clips += len(rollouts)
        for place, rollout in enumerate(rollouts):
            self.clips[row, place] = rollout.clip
            for name, score in rollout.scores.items():
                if name not in self.tables:
                    self.tables[name] = np.full(self.clips.shape, np.nan)
                self.tables[name][row, place] = np.nan if score is None else score
            if rollout.reasons:
                self.reasons.update(rollout.reasons.values())

    def _widen(self, places: int) -> None:
        missing = places - self.clips.shape[1]
        if missing > 0:
            right = ((0, 0), (0, missing))
            self.clips = np.pad(self.clips, right, constant_values=-1)
            self.places = np.repeat(np.arange(self.tickets.start, self.tickets.stop, dtype=np.int32), places)
            self.tables = {name: np.pad(table, right, constant_values=np.nan) for name, table in self.tables.items()}

    def keys(self) -> tuple[np.ndarray, np.ndarray]:
        """Ticket and clip of each rollout, [N] each; to be read only, as all columns are."""
        return self.there(self.places), self.there(self.clips.reshape(-1))

    def scores(self, name: str) -> np.ndarray:
        """[N] one score of each rollout, NaN where it is missing."""
        return self.there(self.column(name))

    def column(self, name: str) -> np.ndarray:
        """[tickets * places] one score at each place, NaN where it is missing or there is no clip; to be read only."""
        table = self.tables.get(name)
        return np.full(self.clips.size, np.nan) if table is None else table.reshape(-1)

    def chosen(self, keys: Iterable[tuple[int, int]]) -> np.ndarray:
        """[N] whether a rollout is one of these (ticket, clip)."""
        found = np.zeros(self.clips.shape, bool)
        pairs = np.array(list(keys), np.int64).reshape(-1, 2)
        rows = pairs[:, 0] - self.tickets.start
        nth, places = np.nonzero(self.clips[rows] == pairs[:, 1:])
        found[rows[nth], places] = True
        return self.there(found.reshape(-1))

    def there(self, column: np.ndarray) -> np.ndarray:
        """Without the places that hold no clip; the column itself where all do."""
        return column if self.num_clips == self.clips.size else column[self.clips.reshape(-1) >= 0]
