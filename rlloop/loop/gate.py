"""The gate rule: who may start now, and what a worker's start or a failed row does to its ticket.

Each function reads the ledger and returns a decision as a value; the buffer journals and carries it out.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from rlloop.loop import records as r
from rlloop.loop.ledger import Ledger


@dataclass(frozen=True)
class Grant:
    """Tickets for a slot; sample each with `version` or a newer one."""

    tickets: tuple[int, ...]
    version: int


@dataclass(frozen=True)
class Wait:
    """Nothing may start now; ask again. `queued`: slots of this segment whose tickets no worker has begun."""

    queued: tuple[int, ...] = ()


@dataclass(frozen=True)
class End:
    """The slot passes empty, and so do all later ones of its segment."""

    reason: str


@dataclass(frozen=True)
class Hand:
    """How many tickets a slot is given: at most `most`, and so few that each sampler finds two more slots of that size.

    So the sizes fall to one towards the end of a cohort, and the samplers end together: guided self-scheduling
    (Polychronopoulos and Kuck, 1987).
    """

    most: int = 1
    samplers: int = 1

    def size(self, may_start: int) -> int:
        return max(1, min(self.most, may_start // (2 * self.samplers)))


ONE = Hand()


def next_tickets(
    ledger: Ledger, segment: int, slot: int, max_staleness: int, *, draining: bool, hand: Hand = ONE
) -> Grant | Wait | End:
    """A ticket of generation k may start when k <= version + max_staleness and its stage is the current one.

    Idempotent by (segment, slot). Depends on generation and version alone, so a recovery cannot inflate staleness.
    """
    if segment != ledger.segment:
        return End(f"segment {segment} is over, the current one is {ledger.segment}")
    if ledger.slots.get(slot):
        tickets = tuple(ledger.slots[slot])
        return Grant(tickets, ledger.tickets[tickets[0]].version or 0)
    if draining or segment == ledger.cut_segment:
        return End("the segment is cut short")
    found = whats_next(ledger, max_staleness, hand)
    if isinstance(found, Wait):
        under_way = dict.fromkeys(ledger.tickets[ticket].slot for ticket in ledger.leased)
        return Wait(tuple(n for n in under_way if n is not None and not _is_begun(ledger, n)))
    return found


def _is_begun(ledger: Ledger, slot: int) -> bool:
    return any(ledger.tickets[ticket].workers for ticket in ledger.slots[slot])


def whats_next(ledger: Ledger, max_staleness: int, hand: Hand = ONE) -> Grant | Wait | End:
    """What a new slot would be answered, were its segment not to end early."""
    lowest = ledger.lowest_open()
    if not lowest:
        return Wait() if ledger.leased else End("no ticket is left")
    generation = ledger.plan.generation_of(lowest[0])
    current = ledger.plan.generations[min(ledger.version, ledger.plan.num_versions - 1)]
    if generation.stage != current.stage:
        return Wait() if ledger.leased else End("the stage has no ticket left")
    if generation.k > ledger.version + max_staleness:
        return Wait()
    may_start = sum(
        ledger.cohort_unleased[g.k]
        for g in ledger.plan.generations[generation.k : ledger.version + max_staleness + 1]
        if g.stage == current.stage
    )
    return Grant(tuple(ledger.lowest_open(hand.size(may_start))), ledger.version)


def must_part(ledger: Ledger, tickets: Sequence[int], worker: str) -> bool:
    """Whether tickets may not be begun together: a worker that did died of one of them. Alone, each tells by itself."""
    role = worker.partition("-")[0]
    before = {ledger.tickets[ticket].workers.get(role) for ticket in tickets}
    return len(tickets) > 1 and not before <= {None, worker}


def on_started(
    ledger: Ledger,
    ticket: int,
    worker: str,
    max_attempts: int,
    together: bool = False,
    lost: Set[str] = frozenset(),
) -> r.Started | r.Failed | None:
    """A worker begins. Another of its role that began it last of all and never finished died of it: an attempt.

    Where that one had begun another ticket of its slot since, it had finished this one and died of the other.

    Args:
        worker: its name begins with its role and ends with its node, as in sampler-17-9c0a12-0f3e5d7a.
        together: with others of its slot.
        lost: nodes that are gone. Who was on them died of that and not of the ticket, so it is no attempt.
    """
    entry = ledger.tickets[ticket]
    before = entry.workers.get(worker.partition("-")[0])
    if entry.state != "leased" or before == worker:
        return None
    died_by_itself = before is not None and before.rpartition("-")[2] not in lost
    died_of_it = died_by_itself and ledger.at_hand.get(before) == ticket
    attempts = entry.attempts + died_of_it
    if attempts >= max_attempts:
        return r.Failed(ticket, f"its worker died {attempts} times while computing it")
    return r.Started(ticket, worker, attempts, together)


def on_failed_row(
    ledger: Ledger, ticket: int, slot: int, reason: str, max_attempts: int
) -> r.Released | r.Failed | None:
    """A row that came back with an error releases its ticket, or ends it at `max_attempts`.

    Args:
        slot: of the row. A call that is repeated may find its ticket leased anew, to another slot: that is no attempt.
    """
    entry = ledger.tickets[ticket]
    if entry.state != "leased" or entry.slot != slot:
        return None
    attempts = entry.attempts + 1
    return r.Failed(ticket, reason) if attempts >= max_attempts else r.Released(ticket, attempts, reason)
