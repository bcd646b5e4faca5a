"""Buffer: the named actor that owns journal, ledger and selections. Everything it decides is a function of rlloop.

Its restart replays the journal to the end, so it rolls nothing back. Mutating calls are idempotent by ticket,
segment and slot, or version.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections import Counter, deque
from pathlib import Path

from actors.session import Session
from rlloop.algorithms.base import load_algorithm
from rlloop.data.rollouts import ScoredTicket, rollout_path, write_rollouts
from rlloop.loop import gate
from rlloop.loop import records as r
from rlloop.loop.journal import Journal
from rlloop.loop.ledger import Ledger
from rlloop.loop.snapshot import TrainPoint
from rlloop.recipes.cohort import close_cohort, cohort_candidates, cohort_stats
from rlloop.recipes.gauges import BusyWindow

log = logging.getLogger(__name__)


class Buffer:
    """Life: replaying -> running -> stopping (gate and selections answer end and stop)."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.config = session.config
        self._lock = lock_journal(session.path, self.config.loop.wait_timeout_s)
        self.journal = Journal(session.path / "journal" / "journal.log")
        self.ledger = Ledger(session.plan)
        self.closed_at: dict[int, float] = {}
        for record, when in self.journal.replay():
            self._fold(record, when)
        self.stop_reason = ""
        self.fatal = ""
        self.stats: dict[int, object] = {}
        self.points: deque[TrainPoint] = deque(maxlen=20_000)
        self.trainer_state, self.trainer_starts = "starting", 0
        roles = ("sampler", *self.config.scorer.all_pools)
        self.workers: dict[str, set[str]] = {role: set() for role in roles}  # seen in this segment
        self.restarts: Counter[str] = Counter()  # in the segments before
        self._extremes: tuple | None = None
        self.busy = BusyWindow(60.0)
        self.messages: deque[str] = deque(maxlen=50)
        self.last_progress = time.time()
        if self.ledger.epoch < session.epoch:
            self._do(r.EpochBegan(session.epoch))
        self._close_cohorts()

    # ---- the gate's side

    def begin_segment(self) -> int:
        """A new segment number; releases every lease."""
        self._do(r.SegmentBegan(self.ledger.segment + 1))
        self._count_restarts()
        return self.ledger.segment

    def next_ticket(self, segment: int, slot: int) -> gate.Grant | gate.Wait | gate.End:
        """Never blocks; idempotent by segment and slot."""
        decision = gate.next_ticket(
            self.ledger, segment, slot, self.config.loop.max_staleness, draining=bool(self.stop_reason)
        )
        if isinstance(decision, gate.Grant) and slot not in self.ledger.slots:
            self._do(r.Leased(decision.ticket, decision.version, segment, slot))
        return decision

    def started(self, ticket: int, worker: str) -> tuple[str, int]:
        """Answers go, failed (too many deaths: emit a failed row) or skip (the ticket is closed or leased anew).

        The second part is the version of now: what waited in a queue since its lease is sampled with it.
        """
        self.workers[worker.partition("-")[0]].add(worker)
        record = gate.on_started(self.ledger, ticket, worker, self.config.loop.max_attempts)
        if isinstance(record, r.Failed):
            return "failed", self.ledger.version
        if record is not None:
            self._do(record)
        return "go" if self.ledger.tickets[ticket].state == "leased" else "skip", self.ledger.version

    def has_work(self) -> bool:
        """Whether a new segment would find a ticket that may start now."""
        if self.stop_reason:
            return False
        probe = gate.next_ticket(self.ledger, self.ledger.segment, -1, self.config.loop.max_staleness, False)
        return isinstance(probe, gate.Grant) or (isinstance(probe, gate.Wait) and self.ledger.counts["leased"] > 0)

    # ---- the pump's side

    def commit(self, scored: ScoredTicket) -> bool:
        """Buffers a scored ticket, or notes its failure. The first commit wins; answers whether this one counted."""
        state = self.ledger.tickets[scored.ticket].state
        if state not in ("open", "leased"):
            return False
        self.last_progress = time.time()
        if scored.failure:
            record = gate.on_failed_row(self.ledger, scored.ticket, scored.failure, self.config.loop.max_attempts)
            if record is not None:
                self.messages.append(f"ticket {scored.ticket}: {scored.failure}")
                self._do(record)
        else:
            self._buffer(scored)
        self._close_cohorts()
        return True

    def _buffer(self, scored: ScoredTicket) -> None:
        try:
            size = write_rollouts(rollout_path(self.session.path, scored.ticket), scored)
        except OSError as error:
            self._no_disk(error)
            return
        clips = zip(scored.seeds, scored.scores, scored.reasons, strict=True)
        rollouts = tuple(r.RolloutRecord(n, s, dict(sc), dict(why)) for n, (s, sc, why) in enumerate(clips))
        for role, seconds in scored.worker_seconds.items():
            self.busy.add(role, seconds)
        self._do(r.Buffered(scored.ticket, scored.policy_version, rollouts, size, dict(scored.worker_seconds)))

    def _close_cohorts(self) -> None:
        for generation in self.ledger.plan.generations[self.ledger.version :]:
            if generation.k in self.ledger.selections:
                continue
            if not self.ledger.is_closed(generation.k):
                return
            stage = self.ledger.plan.stage_of(generation.k)
            selected = close_cohort(self.ledger, generation.k, load_algorithm(stage.algorithm, stage.options))
            self._do(selected)
            if selected.skipped:
                self.messages.append(selected.skipped)

    # ---- the trainer's side

    def selection(self, k: int) -> tuple[str, r.Selected | str]:
        """A pure read: ('rows', what is selected) | ('skip', why) | ('wait', '') | ('stop', why)."""
        if self.stop_reason:
            return "stop", self.stop_reason
        selected = self.ledger.selections.get(k)
        if selected is None:
            return "wait", ""
        if selected.stopped:
            return "stop", selected.stopped
        if selected.skipped:
            return "skip", selected.skipped
        return "rows", selected

    def published(self, version: int) -> None:
        """Version k+1 is in the store: the gate may move on."""
        if version == self.ledger.version + 1:
            self._do(r.Published(version))
            self.last_progress = time.time()
            self._prune(version - 2)

    def progress(self, state: str, points: list[TrainPoint]) -> str:
        """The trainer's report; a gauge. Points that are known are not taken again. Answers the stop reason, or ''."""
        self.trainer_starts += state == "restored"
        self.trainer_state = state
        newest = self.points[-1].step if self.points else 0
        new = [point for point in points if point.step > newest]
        self.points.extend(new)
        for point in new if state != "restored" else ():
            self.busy.add("trainer", point.seconds)
        if new:
            self.last_progress = time.time()
        return self.stop_reason

    # ---- the driver's side

    def stop(self, reason: str) -> None:
        """Ends the gate and answers the trainer with stop; not journaled: a restarted driver goes on."""
        self.stop_reason = self.stop_reason or reason

    def add_busy(self, role: str, seconds: float) -> None:
        self.busy.add(role, seconds)
        self.last_progress = time.time()

    def report(self, since_step: int) -> dict:
        """What the driver composes a Snapshot from; points after `since_step` only."""
        ledger, now = self.ledger, time.time()
        for k in ledger.selections:
            if k not in self.stats and ledger.plan.generations[k].tickets:
                self.stats[k] = cohort_stats(ledger, k, self.closed_at.get(k, now))
        live = [t for t in ledger.tickets if t.state in ("buffered", "selected")]
        waiting = [
            ledger.plan.generation_of(n).k - t.version for n, t in enumerate(ledger.tickets) if t.state == "buffered"
        ]
        return {
            "version": ledger.version,
            "segment": ledger.segment,
            "tickets": dict(ledger.counts),
            "failures": dict(ledger.failures),
            "clips_generated": ledger.clips_generated,
            "clips_per_minute": self.busy.clips_per_minute(ledger, now),
            "buffer_rollouts": sum(len(t.rollouts) for t in live),
            "buffer_bytes": sum(t.num_bytes for t in live),
            "oldest_rollout_seconds": max((now - t.times.get("buffered", now) for t in live), default=None),
            "staleness_now": sum(waiting) / len(waiting) if waiting else None,
            "busy": self.busy.shares(now),
            "items": {role: self.busy.items[role] for role in self.busy.items},
            "trainer_state": self.trainer_state,
            "cohorts": [self.stats[k] for k in sorted(self.stats)],
            "points": [p for p in self.points if p.step > since_step],
            "messages": list(self.messages),
            "fatal": self.fatal,
            "earlier_seconds": ledger.earlier_seconds,
            "pid": os.getpid(),
            "restarts": {"trainer": max(0, self.trainer_starts - 1), **(self.restarts + self._restarts_now())},
            "stopped": next((s.stopped for s in ledger.selections.values() if s.stopped), ""),
            "last_progress": self.last_progress,
            "stop_reason": self.stop_reason,
        }

    def extremes(self) -> tuple[int, tuple[int, int], tuple[int, int], tuple[int, int]] | None:
        """(generation, best, median, worst) keys (ticket, clip) of the newest selected cohort, for the listeners."""
        newest = max((k for k in self.ledger.selections if self.ledger.plan.generations[k].tickets), default=-1)
        if newest >= 0 and (self._extremes is None or self._extremes[0] != newest):
            ranked = cohort_candidates(self.ledger, newest, self.ledger.plan.stage_of(newest))
            if ranked:
                best, median, worst = ((ranked[n].ticket, ranked[n].clip) for n in (0, len(ranked) // 2, -1))
                self._extremes = newest, best, median, worst
        return self._extremes

    # ---- inside

    def _restarts_now(self) -> Counter[str]:
        """Workers of this segment beyond the size of their pool: each took the place of one that died."""
        pools = {"sampler": self.config.sampler, **self.config.scorer.all_pools}
        sizes = {role: pool.num_actors for role, pool in pools.items()}
        return Counter({role: max(0, len(seen) - sizes[role]) for role, seen in self.workers.items()})

    def _count_restarts(self) -> None:
        self.restarts += self._restarts_now()
        for seen in self.workers.values():
            seen.clear()

    def _fold(self, record: r.Record, when: float) -> None:
        self.ledger.apply(record, when)
        if isinstance(record, r.Selected):
            self.closed_at[record.generation] = when

    def _do(self, record: r.Record) -> None:
        """Journals first, then folds: what is acknowledged is on disk."""
        if newer_epoch(self.session.path) > self.session.epoch:
            log.error("a newer epoch than %d runs on %s: this buffer ends", self.session.epoch, self.session.run_dir)
            os._exit(1)
        try:
            when = self.journal.append(record)
        except OSError as error:
            self._no_disk(error)
            raise
        self._fold(record, when)

    def _no_disk(self, error: OSError) -> None:
        self.fatal = (
            f"{self.session.run_dir}: cannot write ({error.strerror}); nothing committed is lost: "
            "free space there and repeat the command"
        )
        self.stop(self.fatal)

    def _prune(self, k: int) -> None:
        """Removes rollouts of cohort k that no selection holds; latents of selected tickets stay."""
        if k < 0:
            return
        for ticket in self.ledger.plan.generations[k].tickets:
            if self.ledger.tickets[ticket].state == "dropped":
                rollout_path(self.session.path, ticket).unlink(missing_ok=True)


def newer_epoch(run_dir: Path) -> int:
    """The highest epoch that a driver has taken in this run directory; 0 when none has."""
    epochs = [int(p.name) for p in (run_dir / "epochs").glob("[0-9]*")]
    return max(epochs, default=0)


def lock_journal(run_dir: Path, timeout_s: float):
    """Holds the journal for this process; waits for an old buffer to be gone.

    Raises:
        TimeoutError: another process holds it still.
    """
    path = run_dir / "journal" / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"buffer waits for the buffer of an earlier epoch on {path} since {timeout_s:.0f} s"
                ) from None
            time.sleep(0.2)
