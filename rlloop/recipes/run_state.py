"""What the buffer folds its journal into, and how it stays small: the ledger, and figures of the closed cohorts.

Scores, times and selections are dropped once nothing can read them any more; `rlloop ledger` and the report read the
journal itself, which keeps everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rlloop.config import Config
from rlloop.loop import ledger_state
from rlloop.loop import records as r
from rlloop.loop.ledger import Ledger
from rlloop.loop.plan import Plan
from rlloop.loop.snapshot import CohortStats
from rlloop.recipes.cohort import cohort_stats

KEPT_COHORTS = 64  # figures of the first and the newest ones; the curves have all of them


class RunState:
    """Life: fresh or loaded from a snapshot -> folded, record by record -> dumped."""

    def __init__(self, config: Config, plan: Plan) -> None:
        self.config, self.plan = config, plan
        self.ledger = Ledger(plan)
        self.cohorts: dict[int, CohortStats] = {}

    def fold(self, record: r.Record, when: float) -> None:
        """Applies one record; what it makes superfluous is dropped."""
        self.ledger.apply(record, when)
        if isinstance(record, r.Selected) and self.plan.generations[record.generation].tickets:
            self.cohorts[record.generation] = cohort_stats(self.ledger, record.generation, when)
            if len(self.cohorts) > KEPT_COHORTS:
                del self.cohorts[sorted(self.cohorts)[1]]
        if isinstance(record, r.Published):
            floor = oldest_start(self.ledger.version, self.config)
            self.ledger.forget_selections(self.plan.selections_to_keep(floor), floor)
            self.ledger.forget_cohorts(first_read_cohort(self.ledger))

    def dump(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"ledger": ledger_state.dump(self.ledger), "cohorts": [asdict(c) for c in self.cohorts.values()]}

    def load(self, data: Mapping[str, Any]) -> None:
        """Inverse of `dump`.

        Raises:
            ValueError: it is of another plan or of a newer version of this program.
        """
        self.ledger = ledger_state.load(self.plan, data["ledger"])
        self.cohorts = {found["generation"]: _cohort(found) for found in data["cohorts"]}


def oldest_start(version: int, config: Config) -> int:
    """The oldest generation that a trainer may have to begin again: it falls back over the newest checkpoints only."""
    return max(0, version - config.trainer.keep_checkpoints)


def newest_cohort(ledger: Ledger) -> int | None:
    """The newest selected generation that has tickets: its clips are listened to and shown in the report."""
    return max((k for k in ledger.selections if ledger.plan.generations[k].tickets), default=None)


def first_read_cohort(ledger: Ledger) -> int:
    """The first cohort whose scores may still be read: the newest selected one, or the start of the next window."""
    plan, first = ledger.plan, ledger.version
    newest = newest_cohort(ledger)
    needed = first if newest is None else min(first, newest)
    pending = next((g for g in plan.generations[first:] if g.k not in ledger.selections), None)
    if pending is None:
        return needed
    found, k = 0, pending.k
    window = plan.stage_of(k).selection.window
    while found < window and k > ledger.forgotten and plan.generations[k - 1].stage == pending.stage:
        k -= 1
        found += sum(len(ledger.tickets[number].rollouts) for number in plan.generations[k].tickets)
    return min(needed, k)


def _cohort(data: Mapping[str, Any]) -> CohortStats:
    """JSON makes texts of whole-number keys and lists of tuples."""
    versions = {int(v): count for v, count in data["policy_versions"].items()}
    by_version = {int(v): (mean, count) for v, (mean, count) in data["reward_by_version"].items()}
    return CohortStats(**{**data, "policy_versions": versions, "reward_by_version": by_version})
