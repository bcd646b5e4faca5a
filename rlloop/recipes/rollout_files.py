"""The rollouts of a run on disk: which are kept, and how many bytes they are.

Kept are whole cohorts that are not published yet, the newest ones for the listeners and the report, and of earlier ones
the selected tickets that a phase may still read.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from numbers import Real
from pathlib import Path

from rlloop.config import Config
from rlloop.data.rollouts import ScoredTicket, rollout_path
from rlloop.loop.ledger import Ledger
from rlloop.loop.plan import Plan
from rlloop.loop.records import RolloutRecord
from rlloop.recipes.run_state import newest_cohort, oldest_start


class RolloutFiles:
    """Life of a file: added -> kept while its cohort is read -> kept while its selection is read -> removed."""

    def __init__(self, run_dir: Path, config: Config, plan: Plan) -> None:
        self.run_dir, self.config, self.plan = run_dir, config, plan
        self.sizes: defaultdict[int, dict[int, int]] = defaultdict(dict)  # generation -> ticket -> bytes
        self.num_bytes = 0
        for folder in (run_dir / "rollouts").glob("*"):  # not later: others write there
            with contextlib.suppress(OSError):
                folder.rmdir()  # where it is empty
        for path in (run_dir / "rollouts").glob("*/*.parquet"):
            if path.stem.isdigit() and int(path.stem) < plan.num_tickets:
                self.add(int(path.stem), path.stat().st_size)

    def add(self, ticket: int, num_bytes: int) -> None:
        """A ticket's file was written, perhaps anew."""
        cohort = self.sizes[self.plan.generation_of(ticket).k]
        self.num_bytes += num_bytes - cohort.get(ticket, 0)
        cohort[ticket] = num_bytes

    def prune(self, ledger: Ledger) -> None:
        """Removes what nothing can read any more. Idempotent; what a crash left is removed by the next call."""
        floor = oldest_start(ledger.version, self.config)
        selections = self.plan.selections_to_keep(floor) | set(range(floor, ledger.version))
        whole = {newest_cohort(ledger), ledger.version - 1}
        for k in [k for k in self.sizes if k < ledger.version and k not in whole]:
            for ticket in list(self.sizes[k]):
                if k not in selections or ledger.tickets[ticket].state == "dropped":
                    self._remove(k, ticket)
            if not self.sizes[k]:
                del self.sizes[k]

    def _remove(self, k: int, ticket: int) -> None:
        rollout_path(self.run_dir, ticket).unlink(missing_ok=True)
        self.num_bytes -= self.sizes[k].pop(ticket)


def rollout_records(scored: ScoredTicket) -> tuple[RolloutRecord, ...]:
    """What the ledger keeps of a ticket's clips. Checked before anything is journaled: a replay has to take it.

    Raises:
        ValueError: other numbers of seeds, scores and reasons.
        TypeError: a score is no number, or a reason no text.
    """
    clips = zip(scored.seeds, scored.scores, scored.reasons, strict=True)
    records = tuple(RolloutRecord(n, seed, dict(scores), dict(why)) for n, (seed, scores, why) in enumerate(clips))
    for record in records:
        for name, score in record.scores.items():
            if not isinstance(name, str) or not isinstance(score, Real | None):
                raise TypeError(f"score {name!r} is {type(score).__name__}, expected a number or None")
        for name, why in record.reasons.items():
            if not isinstance(name, str) or not isinstance(why, str):
                raise TypeError(f"the reason of {name!r} is {type(why).__name__}, expected a text")
    return records
