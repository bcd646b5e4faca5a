"""What every rank does after an update: go on, save, or stop. Rank 0 finds out, all hear it in one broadcast."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from actors.checkpointer import Checkpointer
from actors.ranks import Ranks
from actors.reporter import Reporter

log = logging.getLogger(__name__)
PREEMPTION_EVERY_S = 5.0


@dataclass(frozen=True)
class Turn:
    """`stop` is the reason to end, or ''; `saves` asks for a checkpoint before the next update."""

    stop: str
    saves: bool


class Turns:
    """Reads the buffer's answer, the clock, and the cluster's notices of nodes that are about to go."""

    def __init__(self, ranks: Ranks, checkpointer: Checkpointer, reporter: Reporter) -> None:
        self.ranks, self.checkpointer, self.reporter = ranks, checkpointer, reporter
        self.asked_at = time.monotonic()
        self.heeded: set[str] = set()  # nodes whose notice led to a checkpoint

    def take(self, problem: str, state: str) -> Turn:
        """One turn, after an update: a report, a broadcast, and every few seconds a look for notices."""
        stop, asks = problem, False
        if self.ranks.is_first:
            stop = problem or self.reporter.heard()
            self.reporter.send(state)
            asks = time.monotonic() - self.asked_at > PREEMPTION_EVERY_S
        stop, saves, asks = self.ranks.broadcast((stop, self.checkpointer.is_due, asks))
        return Turn(stop, (self._is_noticed() if asks else False) or saves)

    def _is_noticed(self) -> bool:
        """Whether a node of this group is about to be taken away and no checkpoint was made for it yet. A barrier."""
        import ray.train

        self.asked_at = time.monotonic()
        notice = ray.train.get_preemption_info()
        nodes = set(notice.preempted_node_ids) if notice is not None else set()
        if nodes <= self.heeded:
            return False
        log.warning("nodes %s are about to be taken away: a checkpoint is written now", sorted(nodes - self.heeded))
        self.heeded |= nodes
        return True
