"""Buffer: the named actor that owns journal, ledger and selections. Everything it decides is a function of rlloop.

Its restart replays the journal to the end, so it rolls nothing back. Mutating calls are idempotent by ticket,
segment and slot, or version. Several threads answer calls: one at a time in the ledger, all at once at the disk.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from itertools import takewhile

from actors.journaled import Journaled, acknowledged, in_turn
from actors.session import Session, short_node
from rlloop.algorithms.base import load_algorithm
from rlloop.data.rollouts import ScoredTicket, rollout_path, write_rollouts
from rlloop.loop import gate, stacks
from rlloop.loop import records as r
from rlloop.loop.journal import sync_folder
from rlloop.loop.points import Heard
from rlloop.loop.snapshot import PoolsNow, TrainPoint
from rlloop.recipes.cohort import close_cohort, cohort_candidates
from rlloop.recipes.gauges import BusyWindow
from rlloop.recipes.rollout_files import RolloutFiles, rollout_records
from rlloop.recipes.run_state import newest_cohort, oldest_start
from rlloop.resources import Row, resources, show_bytes

KEPT_POINTS = 5000  # as many as a checkpoint has
BUSY_WINDOW_S = 60.0
COMMIT_WAIT_S, COMMIT_POLL_S = 5.0, 0.05  # for an earlier call of the same ticket; then the call is made again
# Calls that may wait for the disk together: they share its syncs. Commits, each with its repeated call, are half of
# them at most, so a disk that stalls leaves the others an answer.
THREADS = 64


class Buffer(Journaled):
    """The calls of gate, workers, pump, trainer and driver; what is gauged beside them is of this process alone."""

    def __init__(self, session: Session) -> None:
        stacks.register(session.path, "buffer")
        super().__init__(session)
        self._committing: set[int] = set()
        self.files = RolloutFiles(session.path, self.config, session.plan)
        self.files.prune(self.ledger)
        self.sizes_now = self.pool_sizes()  # of this segment
        self.points: deque[TrainPoint] = deque(maxlen=KEPT_POINTS)
        self.trainer_state, self.trainer_starts = "starting", 0
        roles = ("sampler", *self.config.scorer.all_pools)
        self.workers: dict[str, set[str]] = {role: set() for role in roles}  # seen in this segment
        self.places: dict[str, str] = {}  # actor of this segment -> node on which it last arrived
        self.lost: set[str] = set()  # nodes that are gone, as workers' names hold them
        self.restarts: Counter[str] = Counter()  # in the segments before
        self._extremes: tuple | None = None
        self.busy = BusyWindow(BUSY_WINDOW_S)
        self.last_progress = self.last_work = 0.0  # of this process: a buffer that dies again and again makes none
        if self.ledger.epoch < session.epoch:
            self._do(r.EpochBegan(session.epoch))
        self._close_cohorts()
        self._flush()

    # ---- the gate's side

    @acknowledged
    def begin_segment(self) -> int:
        """A new segment number; releases every lease."""
        self._do(r.SegmentBegan(self.ledger.segment + 1))
        self._count_restarts()
        self.sizes_now = self.pool_sizes()
        return self.ledger.segment

    @in_turn
    def is_over(self, segment: int) -> bool:
        """Whether a segment gives out no ticket any more and all that a worker had begun came back."""
        if segment != self.ledger.segment:
            return True
        return self._is_ending() and not any(map(self._is_begun, self.ledger.leased))

    @in_turn
    def was_cut(self, segment: int) -> bool:
        """Whether a segment was told to end before its slots ran out."""
        return bool(self.stop_reason) or segment == self.ledger.cut_segment

    def _is_ending(self) -> bool:
        """Whether this segment is cut short: what nobody has begun waits for the next one."""
        return self.was_cut(self.ledger.segment)

    def _is_begun(self, ticket: int) -> bool:
        entry = self.ledger.tickets[ticket]
        return entry.state == "leased" and bool(entry.workers)

    @acknowledged
    def next_tickets(self, segment: int, slot: int) -> gate.Grant | gate.Wait | gate.End:
        """Never blocks; idempotent by segment and slot."""
        self._watch_disk()
        hand = gate.Hand(self.config.loop.tickets_per_slot, self.sizes_now["sampler"])
        decision = gate.next_tickets(
            self.ledger, segment, slot, self.config.loop.max_staleness, draining=bool(self.stop_reason), hand=hand
        )
        if isinstance(decision, gate.Grant) and not self.ledger.slots.get(slot):
            for ticket in decision.tickets:
                self._do(r.Leased(ticket, decision.version, segment, slot))
        return decision

    @in_turn
    def arrived(self, segment: int, worker: str, actor: str, node: str) -> None:
        """A worker of this segment has its model and awaits tickets; a gauge."""
        if segment == self.ledger.segment:
            self._saw(worker)
            self.places[actor] = node

    @in_turn
    def nodes_lost(self, nodes: Set[str]) -> None:
        """Nodes that are gone: who was on them died of that, not of a ticket. Told again and again."""
        self.lost |= {short_node(node) for node in nodes}

    def _saw(self, worker: str) -> None:
        self.workers[worker.partition("-")[0]].add(worker)

    @in_turn
    def started(self, tickets: Sequence[int], worker: str) -> tuple[list[str], int]:
        """Answers, ticket by ticket: go, failed (too many deaths: emit a failed row), skip (closed, or leased anew) or
        part (begin each by itself).

        The second part is the version of now: what waited in a queue since its lease is sampled with it. A worker that
        waits for the disk computes nothing, so this answer does not: a loss of power may cost the count of one death.
        """
        self._saw(worker)
        if gate.must_part(self.ledger, tickets, worker):
            return ["part"] * len(tickets), self.ledger.version
        together = len(tickets) > 1
        return [self._begin(ticket, worker, together) for ticket in tickets], self.ledger.version

    def _begin(self, ticket: int, worker: str, together: bool) -> str:
        if self._is_ending() and not self._is_begun(ticket):
            return "skip"
        record = gate.on_started(self.ledger, ticket, worker, self.config.loop.max_attempts, together, self.lost)
        if isinstance(record, r.Failed):
            return "failed"
        if record is not None:
            if worker in self.ledger.at_hand:  # it finished another; the commit comes with the rest of its slot
                self.last_progress = self.last_work = time.time()
            self._do(record)
        return "go" if self.ledger.tickets[ticket].state == "leased" else "skip"

    @in_turn
    def wanted_version(self) -> int | None:
        """The version that the tickets of a new segment would ask for; None where none may start now."""
        if self.stop_reason:
            return None
        probe = gate.whats_next(self.ledger, self.config.loop.max_staleness)
        has_work = isinstance(probe, gate.Grant) or (isinstance(probe, gate.Wait) and bool(self.ledger.leased))
        return self.ledger.version if has_work else None

    # ---- the pools' sizes

    @in_turn
    def pool_sizes(self) -> dict[str, int]:
        """Actors of each pool in the next segment: as configured, or as the run was told since."""
        configured = {"sampler": self.config.sampler, **self.config.scorer.all_pools}
        return {name: self.ledger.scaled.get(name, role.num_actors) for name, role in configured.items()}

    @acknowledged
    def scale(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Journals other sizes and ends the segment early; answers all sizes. Idempotent: what is so already stays.

        Raises:
            ValueError: no such pool, or fewer than one actor.
        """
        there = self.pool_sizes()
        for name, num_actors in sizes.items():
            if name not in there:
                raise ValueError(f"this run has no pool '{name}'; its pools are {', '.join(there)}")
            if num_actors < 1:
                raise ValueError(f"{name}: {num_actors} actors; a pool has one at least")
        for name, num_actors in sizes.items():
            if there[name] != num_actors:
                self._do(r.Scaled(name, num_actors))
                self.messages.append(f"{name}: {there[name]} -> {num_actors} actors from the next segment on")
        return self.pool_sizes()

    @in_turn
    def pools(self) -> PoolsNow:
        """What the pools are and shall be; for whoever scales them."""
        at_work = {role: len(seen) for role, seen in self.workers.items()}
        return PoolsNow(self.ledger.segment, self.sizes_now, self.pool_sizes(), at_work)

    @in_turn
    def takes(self, sizes: Mapping[str, int]) -> list[Row]:
        """The resource table with other sizes of pools."""
        return resources(self.config, {**self.pool_sizes(), **sizes})

    # ---- the pump's side

    def commit(self, *tickets: ScoredTicket) -> int:
        """Buffers scored tickets, or notes their failures. The first commit wins; answers how many of these counted.

        Raises:
            TimeoutError: an earlier call for one of them is still at the disk.
        """
        mine: list[ScoredTicket] = []
        try:
            for scored in sorted(tickets, key=lambda scored: scored.ticket):  # calls that overlap wait in one order
                if self._is_first_commit(scored.ticket):
                    mine.append(scored)
            return self._commit(mine)
        finally:
            self._committing.difference_update(scored.ticket for scored in mine)

    def _is_first_commit(self, ticket: int) -> bool:
        """False where the ticket has been committed; waits for a call that is about to."""
        deadline = time.monotonic() + COMMIT_WAIT_S
        while not self._begin_commit(ticket):
            if not self._is_awaited(ticket):
                return False
            if time.monotonic() > deadline:
                raise TimeoutError(f"buffer waits for the disk with ticket {ticket} since {COMMIT_WAIT_S:.0f} s")
            time.sleep(COMMIT_POLL_S)
        return True

    @in_turn
    def _begin_commit(self, ticket: int) -> bool:
        """Whether nobody has committed this ticket or is about to: two would write the same file."""
        is_first = self._is_awaited(ticket) and ticket not in self._committing
        if is_first:
            self._committing.add(ticket)
        return is_first

    def _is_awaited(self, ticket: int) -> bool:
        return self.ledger.tickets[ticket].state in ("open", "leased")

    def _commit(self, tickets: Sequence[ScoredTicket]) -> int:
        try:
            written = [self._written(scored) for scored in tickets]
            for folder in {rollout_path(self.session.path, s.ticket).parent for s, _ in written if not s.failure}:
                sync_folder(folder)  # the journal may only name a file that a loss of power leaves there
        except OSError as error:
            self._no_disk(error)
            return len(tickets)
        counted = sum(self._note(scored, size) for scored, size in written)
        self._flush()  # also where none counted: a repeated call's answer rests on the record of the first
        return counted

    def _written(self, scored: ScoredTicket) -> tuple[ScoredTicket, int]:
        """The ticket with the bytes of its file, or with why it has none.

        Raises:
            OSError: it cannot be written.
        """
        try:
            if scored.failure:
                return scored, 0
            rollout_records(scored)
            return scored, write_rollouts(rollout_path(self.session.path, scored.ticket), scored)
        except (ValueError, TypeError) as error:  # of one's own sampler or scorer: it costs its ticket an attempt
            return replace(scored, failure=f"no valid rollouts: {type(error).__name__}: {error}"), 0

    @in_turn
    def _note(self, scored: ScoredTicket, size: int) -> bool:
        self.last_progress = self.last_work = time.time()
        counted = self._note_failure(scored) if scored.failure else self._note_rollouts(scored, size)
        self._close_cohorts()
        return counted

    def _note_failure(self, scored: ScoredTicket) -> bool:
        record = gate.on_failed_row(
            self.ledger, scored.ticket, scored.slot, scored.failure, self.config.loop.max_attempts
        )
        if record is not None:
            self.messages.append(f"ticket {scored.ticket}: {scored.failure}")
            self._do(record)
        return True

    def _note_rollouts(self, scored: ScoredTicket, size: int) -> bool:
        if not self._is_awaited(scored.ticket):  # it failed for good while its rollouts were written
            return False
        rollouts = rollout_records(scored)
        for role, seconds in scored.worker_seconds.items():
            self.busy.add(role, seconds)
        self.files.add(scored.ticket, size)
        if self.files.num_bytes > self.config.limits.rollouts:
            self._end(
                f"{self.session.run_dir}: its rollouts take {show_bytes(self.files.num_bytes)}, limits.rollouts is "
                f"{show_bytes(self.config.limits.rollouts)}, and none can go yet; raise it and repeat the command"
            )
        self._do(r.Buffered(scored.ticket, scored.policy_version, rollouts, size, dict(scored.worker_seconds)))
        return True

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
        with self._turn:
            self._watch_disk()  # here and in `progress`: in a stage without tickets no gate asks
            selected = self.ledger.selections.get(k)
        with contextlib.suppress(OSError):  # then there is a reason to stop
            self._flush()
        if self.stop_reason:
            return "stop", self.stop_reason
        if selected is None and k < oldest_start(self.ledger.version, self.config):
            newest = self.ledger.version
            self._end(
                f"{self.session.run_dir}: what generation {k} was trained on is gone, version {newest} is published; "
                f"the checkpoints of the last {self.config.trainer.keep_checkpoints} versions are damaged: restore one"
            )
            return "stop", self.stop_reason
        if selected is None:
            return "wait", ""
        if selected.stopped:
            return "stop", selected.stopped
        if selected.skipped:
            return "skip", selected.skipped
        return "rows", selected

    @acknowledged
    def published(self, version: int) -> None:
        """Version k+1 is in the store: the gate may move on."""
        if version == self.ledger.version + 1:
            self._do(r.Published(version))
            self.last_progress = self.last_work = time.time()
            self._flush()  # before files go that the record makes superfluous
            self.files.prune(self.ledger)

    @in_turn
    def progress(self, state: str, after: int, points: list[TrainPoint]) -> Heard:
        """The trainer's report; a gauge. `points` are all that it has after step `after`.

        They are taken only where they follow what is known: a buffer that was restarted knows none, says so, and is
        given all of them. Points that are known are not taken again.
        """
        self._watch_disk()
        self.trainer_starts += state == "restored"
        self.trainer_state = state
        newest = self.points[-1].step if self.points else 0
        new = [point for point in points if point.step > newest] if after <= newest else []
        self.points.extend(new)
        now = time.time()
        for point in new:
            if point.time > now - BUSY_WINDOW_S:
                self.busy.add("trainer", point.seconds)
        if new:
            self.last_progress = self.last_work = now
        return Heard(self.stop_reason, new[-1].step if new else newest)

    # ---- the driver's side

    @in_turn
    def note(self, text: str) -> None:
        """A line for the run's messages, said once."""
        if text not in self.messages:
            self.messages.append(text)

    @in_turn
    def add_busy(self, role: str, seconds: float) -> None:
        """Held-out clips are progress, but no commit and no step: samplers may still be on their way."""
        self.busy.add(role, seconds)
        self.last_progress = time.time()

    @in_turn
    def report(self, since_step: int) -> dict:
        """What the driver composes a Snapshot from; points after `since_step` only."""
        ledger, now = self.ledger, time.time()
        oldest = next(iter(ledger.held.values()), None)
        return {
            "version": ledger.version,
            "segment": ledger.segment,
            "tickets": dict(ledger.counts),
            "failures": dict(ledger.failures),
            "clips_generated": ledger.clips_generated,
            "clips_per_minute": self.busy.clips_per_minute(ledger, now),
            "buffer_rollouts": ledger.held_rollouts,
            "buffer_bytes": ledger.held_bytes,
            "oldest_rollout_seconds": None if oldest is None else now - oldest,
            "staleness_now": ledger.lag_buffered / ledger.counts["buffered"] if ledger.counts["buffered"] else None,
            "busy": self.busy.shares(now),
            "items": {role: self.busy.items[role] for role in self.busy.items},
            "trainer_state": self.trainer_state,
            "cohorts": [self.state.cohorts[k] for k in sorted(self.state.cohorts)],
            "points": list(takewhile(lambda p: p.step > since_step, reversed(self.points)))[::-1],
            "messages": list(self.messages),
            "fatal": self.fatal,
            "earlier_seconds": ledger.earlier_seconds,
            "pid": os.getpid(),
            "restarts": {"trainer": max(0, self.trainer_starts - 1), **(self.restarts + self._restarts_now())},
            "stopped": next((s.stopped for s in ledger.selections.values() if s.stopped), ""),
            "last_progress": self.last_progress,
            "has_worked": self.last_work > 0,
            "stop_reason": self.stop_reason,
            "rollout_bytes": self.files.num_bytes,
            "slots_under_way": len({ledger.tickets[number].slot for number in ledger.leased}),
            "sizes": self.sizes_now,
            "places": dict(self.places),
        }

    @in_turn
    def extremes(self) -> tuple[int, tuple[int, int], tuple[int, int], tuple[int, int]] | None:
        """(generation, best, median, worst) keys (ticket, clip) of the newest selected cohort, for the listeners."""
        newest = newest_cohort(self.ledger)
        if newest is not None and (self._extremes is None or self._extremes[0] != newest):
            ranked = cohort_candidates(self.ledger, newest, self.ledger.plan.stage_of(newest))
            if ranked:
                best, median, worst = ((ranked[n].ticket, ranked[n].clip) for n in (0, len(ranked) // 2, -1))
                self._extremes = newest, best, median, worst
        return self._extremes

    # ---- inside

    def _restarts_now(self) -> Counter[str]:
        """Workers of this segment beyond the size of their pool: each took the place of one that died."""
        return Counter({role: max(0, len(seen) - self.sizes_now[role]) for role, seen in self.workers.items()})

    def _count_restarts(self) -> None:
        self.restarts += self._restarts_now()
        for seen in self.workers.values():
            seen.clear()
        self.places.clear()
