"""The tickets of a ledger as one JSON object a line: what `rlloop ledger` prints and the watchdog keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator

from rlloop.loop.ledger import Ledger

KEYS = ("state", "version", "attempts", "reason", "times")


def ticket_lines(ledger: Ledger) -> Iterator[str]:
    for number, ticket in enumerate(ledger.tickets):
        yield json.dumps({"ticket": number, **{key: getattr(ticket, key) for key in KEYS}})
