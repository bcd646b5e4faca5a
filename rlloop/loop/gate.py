"""The gate rule: who may start now, and what a worker's start or a failed row does to its ticket.

Each function reads the ledger and returns a decision as a value; the buffer journals and carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlloop.loop import records as r
from rlloop.loop.ledger import Ledger


@dataclass(frozen=True)
class Grant:
    """Ticket for a slot; sample it with `version` or a newer one."""

    ticket: int
    version: int


@dataclass(frozen=True)
class Wait:
    """Nothing may start now; ask again. `queued`: slots of this segment whose tickets no worker has begun."""

    queued: tuple[int, ...] = ()


@dataclass(frozen=True)
class End:
    """The slot passes empty, and so do all later ones of its segment."""

    reason: str


def next_ticket(ledger: Ledger, segment: int, slot: int, max_staleness: int, draining: bool) -> Grant | Wait | End:
    """A ticket of generation k may start when k <= version + max_staleness and its stage is the current one.

    Idempotent by (segment, slot). Depends on generation and version alone, so a recovery cannot inflate staleness.
    """
    if segment != ledger.segment:
        return End(f"segment {segment} is over, the current one is {ledger.segment}")
    if slot in ledger.slots:
        ticket = ledger.slots[slot]
        return Grant(ticket, ledger.tickets[ticket].version or 0)
    if draining or segment == ledger.cut_segment:
        return End("the segment is cut short")
    found = whats_next(ledger, max_staleness)
    if isinstance(found, Wait):
        under_way = ((slot, ledger.tickets[ticket]) for slot, ticket in ledger.slots.items())
        return Wait(tuple(slot for slot, entry in under_way if entry.state == "leased" and not entry.workers))
    return found


def whats_next(ledger: Ledger, max_staleness: int) -> Grant | Wait | End:
    """What a new slot would be answered, were its segment not to end early."""
    ticket = ledger.lowest_open()
    if ticket is None:
        return Wait() if ledger.counts["leased"] else End("no ticket is left")
    generation = ledger.plan.generation_of(ticket)
    current = ledger.plan.generations[min(ledger.version, ledger.plan.num_versions - 1)]
    if generation.stage != current.stage:
        return Wait() if ledger.counts["leased"] else End("the stage has no ticket left")
    return Grant(ticket, ledger.version) if generation.k <= ledger.version + max_staleness else Wait()


def on_started(ledger: Ledger, ticket: int, worker: str, max_attempts: int) -> r.Started | r.Failed | None:
    """A worker begins. Another of its role that began before and never finished died of it: that counts as an attempt.

    A worker's name begins with its role, as in sampler-17.
    """
    entry = ledger.tickets[ticket]
    before = entry.workers.get(worker.partition("-")[0])
    if entry.state != "leased" or before == worker:
        return None
    attempts = entry.attempts + (before is not None)
    if attempts >= max_attempts:
        return r.Failed(ticket, f"its worker died {attempts} times while computing it")
    return r.Started(ticket, worker, attempts)


def on_failed_row(ledger: Ledger, ticket: int, reason: str, max_attempts: int) -> r.Released | r.Failed | None:
    """A row that came back with an error releases its ticket, or ends it at `max_attempts`."""
    entry = ledger.tickets[ticket]
    if entry.state != "leased":
        return None
    attempts = entry.attempts + 1
    return r.Failed(ticket, reason) if attempts >= max_attempts else r.Released(ticket, attempts, reason)
