"""The ledger: the state of every ticket, folded from the journal's records. Pure; `apply` is the only way to change it.

Life of a ticket: open -> leased -> buffered -> selected -> trained | dropped | failed   (leased may fall back to open).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from itertools import islice

from rlloop.loop import records as r
from rlloop.loop.cohort_scores import CohortScores
from rlloop.loop.plan import Plan
from rlloop.loop.tickets import FINAL, STATES, Ticket, Tickets

__all__ = ["FINAL", "STATES", "Ledger", "Ticket"]
MAX_REASONS = 100  # distinct ones that are counted by themselves
OTHER_REASONS = "other reasons"
NOBODY_KNOWS = -1


class Ledger:
    """All tickets of a plan, with the scores of their rollouts until a cohort is forgotten."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.epoch = 0
        self.segment = 0
        self.version = 0
        self.scaled: dict[str, int] = {}  # pool -> actors, where the run was told another number than is configured
        self.cut_segment = -1  # ends early
        self.tickets = Tickets(plan.num_tickets)
        self.scores: dict[int, CohortScores] = {}  # cohort -> those of its tickets' rollouts, as columns
        self.selections: dict[int, r.Selected] = {}
        self.cohort_open = {g.k: len(g.tickets) for g in plan.generations}
        self.cohort_unleased = {g.k: len(g.tickets) for g in plan.generations}
        self.slots: dict[int, list[int]] = {}  # of this segment -> the tickets it was given
        self.leased: dict[int, float] = {}  # ticket -> since when, oldest first
        self.at_hand: dict[str, int] = {}  # worker of this segment -> the ticket that it began last
        self.counts = Counter({"open": plan.num_tickets})
        self.failures: Counter[str] = Counter()
        self.clips_generated = 0
        self.tickets_buffered = 0  # ever
        self.held: dict[int, float] = {}  # buffered or selected ticket -> since when, oldest first
        self.held_rollouts = self.held_bytes = 0
        self.lag_buffered = 0  # versions that the buffered tickets lag, summed
        self.forgotten = 0  # cohorts before this one are
        self.earlier_seconds = 0.0  # from the first to the last record of each epoch before this one
        self._epoch_began = self._last = 0.0
        self._fresh = 0  # no ticket from here on was ever leased
        self._reopened: list[int] = []  # heap

    def apply(self, record: r.Record, time: float = 0.0) -> None:
        """Folds one record in. A record that the state forbids is a bug or a damaged journal: AssertionError."""
        getattr(self, f"_on_{type(record).__name__}")(record, time)
        self._last = time

    def lowest_open(self, most: int = 1) -> list[int]:
        """The lowest tickets that are neither leased nor closed; fewer than `most` where there are no more."""
        while self._reopened and self.tickets[self._reopened[0]].state != "open":
            heapq.heappop(self._reopened)
        while self._fresh < len(self.tickets) and self.tickets[self._fresh].state != "open":
            self._fresh += 1
        fresh = (n for n in range(self._fresh, len(self.tickets)) if self.tickets[n].state == "open")
        again = {n for n in self._reopened if self.tickets[n].state == "open"} if most > 1 else self._reopened[:1]
        return heapq.nsmallest(most, {*again, *islice(fresh, most)})

    def forget_cohorts(self, before: int) -> None:
        """Drops scores and times of the tickets of published generations before this one; their states stay."""
        assert before <= self.version, (before, self.version)
        for k in range(self.forgotten, before):
            for number in self.plan.generations[k].tickets:
                self.tickets.forget(number)
            self.scores.pop(k, None)
        self.forgotten = max(self.forgotten, before)

    def forget_selections(self, kept: Iterable[int], before: int) -> None:
        """Drops the selections of generations before this one, but not the kept ones."""
        for k in [k for k in self.selections if k < before]:
            if k not in kept:
                del self.selections[k]

    def scores_of(self, k: int) -> CohortScores:
        """Scores of what is buffered of cohort k and not forgotten."""
        return self.scores.get(k) or CohortScores(range(0))

    def note_scores(self, number: int) -> None:
        """Adds the rollouts of a ticket to the columns of its cohort, once."""
        generation = self.plan.generation_of(number)
        if generation.k not in self.scores:
            self.scores[generation.k] = CohortScores(generation.tickets)
        self.scores[generation.k].add(number, self.tickets[number].rollouts)

    def is_closed(self, k: int) -> bool:
        """Whether each ticket of cohort k is buffered, failed or dropped."""
        return self.cohort_open[k] == 0

    def _move(self, number: int, state: str, time: float) -> Ticket:
        ticket = self.tickets.touch(number)
        self.counts[ticket.state] -= 1
        self.counts[state] += 1
        self._count_unleased(number, (state == "open") - (ticket.state == "open"))
        self.leased.pop(number, None)
        if state == "leased":
            self.leased[number] = time
        if ticket.state == "buffered":
            self.lag_buffered -= self._lag(number, ticket)
        if number in self.held and state in FINAL:
            del self.held[number]
            self.held_rollouts -= len(ticket.rollouts)
            self.held_bytes -= ticket.num_bytes
        ticket.state = state
        ticket.times[state] = time
        return ticket

    def _reopen(self, number: int, time: float) -> None:
        ticket = self._move(number, "open", time)
        if ticket.slot is not None and number in self.slots.get(ticket.slot, ()):
            self.slots[ticket.slot].remove(number)
        ticket.version = ticket.slot = None
        ticket.workers = {}
        heapq.heappush(self._reopened, number)

    def _count_unleased(self, number: int, change: int) -> None:
        if change:
            self.cohort_unleased[self.plan.generation_of(number).k] += change

    def _lag(self, number: int, ticket: Ticket) -> int:
        return self.plan.generation_of(number).k - (ticket.version or 0)

    def _count_failure(self, reason: str) -> None:
        """Reasons are texts of exceptions and may all differ: beyond a number of them they are one."""
        is_new = reason not in self.failures and len(self.failures) >= MAX_REASONS
        self.failures[OTHER_REASONS if is_new else reason] += 1

    def _close(self, number: int) -> None:
        self.cohort_open[self.plan.generation_of(number).k] -= 1

    def _on_EpochBegan(self, record: r.EpochBegan, time: float) -> None:
        assert record.epoch > self.epoch, (record, self.epoch)
        self.epoch = record.epoch
        self.earlier_seconds += self._last - self._epoch_began
        self._epoch_began = time

    def _on_SegmentBegan(self, record: r.SegmentBegan, time: float) -> None:
        assert record.segment > self.segment, (record, self.segment)
        self.segment = record.segment
        for number in sorted(self.leased):
            self._reopen(number, time)
        self.slots, self.at_hand = {}, {}

    def _on_Leased(self, record: r.Leased, time: float) -> None:
        assert self.tickets[record.ticket].state == "open", (record, self.tickets[record.ticket])
        ticket = self._move(record.ticket, "leased", time)
        ticket.version, ticket.slot, ticket.workers = record.version, record.slot, {}
        self.slots.setdefault(record.slot, []).append(record.ticket)

    def _on_Started(self, record: r.Started, time: float) -> None:
        ticket = self.tickets[record.ticket]
        assert ticket.state == "leased", (record, ticket)
        ticket.workers[record.worker.partition("-")[0]] = record.worker
        ticket.attempts = record.attempts
        self.at_hand[record.worker] = NOBODY_KNOWS if record.together else record.ticket

    def _on_Released(self, record: r.Released, time: float) -> None:
        self.tickets[record.ticket].attempts = record.attempts
        self._count_failure(record.reason)
        self._reopen(record.ticket, time)

    def _on_Buffered(self, record: r.Buffered, time: float) -> None:
        assert self.tickets[record.ticket].state in ("open", "leased"), (record, self.tickets[record.ticket])
        ticket = self._move(record.ticket, "buffered", time)
        ticket.version, ticket.rollouts, ticket.num_bytes = record.version, record.rollouts, record.num_bytes
        self.note_scores(record.ticket)
        self.held[record.ticket] = time
        self.held_rollouts += len(record.rollouts)
        self.held_bytes += record.num_bytes
        self.lag_buffered += self._lag(record.ticket, ticket)
        self.tickets_buffered += 1
        self.clips_generated += len(record.rollouts)
        for reason in [reason for rollout in record.rollouts for reason in rollout.reasons.values()]:
            self._count_failure(reason)
        self._close(record.ticket)

    def _on_Failed(self, record: r.Failed, time: float) -> None:
        assert self.tickets[record.ticket].state in ("open", "leased"), (record, self.tickets[record.ticket])
        ticket = self._move(record.ticket, "failed", time)
        ticket.reason = record.reason
        self._count_failure(record.reason)
        self._close(record.ticket)

    def _on_Selected(self, record: r.Selected, time: float) -> None:
        assert record.generation not in self.selections, f"cohort {record.generation} is selected twice"
        self.selections[record.generation] = record
        chosen = {ticket for ticket, _, _ in record.examples}
        for number in self.plan.generations[record.generation].tickets:
            if self.tickets[number].state == "buffered":
                self._move(number, "selected" if number in chosen else "dropped", time)
        assert all(self.tickets[number].state == "selected" for number in chosen), record

    def _on_Scaled(self, record: r.Scaled, time: float) -> None:
        self.scaled[record.pool] = record.num_actors
        self.cut_segment = self.segment

    def _on_Published(self, record: r.Published, time: float) -> None:
        assert record.version == self.version + 1, (record, self.version)
        self.version = record.version
        for number in self.plan.generations[record.version - 1].tickets:
            if self.tickets[number].state == "selected":
                self._move(number, "trained", time)
