"""The ledger as one JSON object and back: what a snapshot of the journal holds.

Written once for all fields: one that is added to the ledger is in the snapshot without a line here, or is refused when
it is of a new kind.
"""

from __future__ import annotations

import base64
import zlib
from collections import Counter
from dataclasses import asdict, fields
from typing import Any

from rlloop.loop import records as r
from rlloop.loop.ledger import Ledger
from rlloop.loop.plan import Plan
from rlloop.loop.tickets import Ticket, Tickets

PLAIN = (int, float, str, bool, type(None))
DERIVED = ("plan", "scores")


class OlderSnapshot(ValueError):
    """It lacks a field of the ledger: an earlier version of this program wrote it. The records say all of it."""


def dump(ledger: Ledger) -> dict[str, Any]:
    """Every field of the ledger but the plan and what follows from the others, as plain JSON values."""
    return {name: _encode(name, value) for name, value in vars(ledger).items() if name not in DERIVED}


def load(plan: Plan, data: dict[str, Any]) -> Ledger:
    """Inverse of `dump`.

    Raises:
        OlderSnapshot: see there.
        ValueError: the snapshot is of another plan, or has a field that this program does not know.
    """
    ledger = Ledger(plan)
    unknown = sorted(data.keys() - vars(ledger).keys())
    if unknown:
        raise ValueError(f"its field {unknown[0]} is unknown here; it is of a newer version of this program")
    missing = sorted(vars(ledger).keys() - data.keys() - {*DERIVED})
    if missing:
        raise OlderSnapshot(f"its field {missing[0]} is missing; it is of an older version of this program")
    for name, value in data.items():
        setattr(ledger, name, _decode(getattr(ledger, name), value))
    if len(ledger.tickets) != plan.num_tickets:
        raise ValueError(f"it is of a plan of {len(ledger.tickets)} tickets, this one has {plan.num_tickets}")
    for number, ticket in ledger.tickets.known.items():
        if ticket.rollouts:
            ledger.note_scores(number)
    return ledger


def _encode(name: str, value: Any) -> Any:
    if isinstance(value, Tickets):
        known = [[number, _encode_ticket(ticket)] for number, ticket in value.known.items()]
        return {"states": base64.b64encode(zlib.compress(bytes(value.states))).decode(), "known": known}
    if isinstance(value, dict):
        return [[key, _encode(name, one)] for key, one in value.items()]
    if isinstance(value, r.Selected):
        return r.to_json(value, 0.0)
    if isinstance(value, list) and all(isinstance(one, PLAIN) for one in value):
        return list(value)
    assert isinstance(value, PLAIN), f"the ledger's {name} is {type(value).__name__}: teach ledger_state to keep it"
    return value


def _decode(first: Any, value: Any) -> Any:
    """`first` is the value of a new ledger, which says what kind of value this is."""
    if isinstance(first, Tickets):
        tickets = Tickets(0)
        tickets.states = bytearray(zlib.decompress(base64.b64decode(value["states"])))
        tickets.known = {number: _decode_ticket(entry) for number, entry in value["known"]}
        return tickets
    if isinstance(first, dict):
        pairs = {key: r.from_json(one)[0] if isinstance(one, dict) else one for key, one in value}
        return Counter(pairs) if isinstance(first, Counter) else pairs
    return value


def _encode_ticket(ticket: Ticket) -> dict[str, Any]:
    """Fields that are not as at first."""
    empty = Ticket()
    kept = {f.name: getattr(ticket, f.name) for f in fields(Ticket)}
    found = {name: value for name, value in kept.items() if value != getattr(empty, name)}
    return {**found, "rollouts": [asdict(rollout) for rollout in ticket.rollouts]}


def _decode_ticket(data: dict[str, Any]) -> Ticket:
    return Ticket(**{**data, "rollouts": tuple(r.RolloutRecord(**rollout) for rollout in data["rollouts"])})
