"""The tickets of a plan in memory that follows the tickets at work, not the length of the run.

Of a ticket that nothing has happened to there is nothing, of one that is final and forgotten the state: one byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload

from rlloop.loop import records as r

STATES = ("open", "leased", "buffered", "selected", "trained", "dropped", "failed")
FINAL = ("trained", "dropped", "failed")


@dataclass
class Ticket:
    state: str = "open"
    version: int | None = None
    attempts: int = 0
    slot: int | None = None
    workers: dict[str, str] = field(default_factory=dict)  # role -> who computes it now
    rollouts: tuple[r.RolloutRecord, ...] = ()
    num_bytes: int = 0
    reason: str = ""
    times: dict[str, float] = field(default_factory=dict)


class Tickets(Sequence[Ticket]):
    """Tickets by number. Life of an entry: absent (open) -> touched -> forgotten (only its final state is left)."""

    def __init__(self, count: int) -> None:
        self.states = bytearray(count)  # of absent and forgotten tickets, as index into STATES
        self.known: dict[int, Ticket] = {}

    def __len__(self) -> int:
        return len(self.states)

    @overload
    def __getitem__(self, number: int) -> Ticket: ...

    @overload
    def __getitem__(self, number: slice) -> list[Ticket]: ...

    def __getitem__(self, number):
        """A ticket to read. What is changed on an untouched one is lost: `touch` it first."""
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        found = self.known.get(number)
        return Ticket(state=STATES[self.states[number]]) if found is None else found

    def touch(self, number: int) -> Ticket:
        """A ticket to change."""
        return self.known.setdefault(number, self[number])

    def forget(self, number: int) -> None:
        """Keeps the state of a final ticket and nothing else."""
        ticket = self.known.pop(number, None)
        if ticket is not None:
            assert ticket.state in FINAL, (number, ticket)
            self.states[number] = STATES.index(ticket.state)
