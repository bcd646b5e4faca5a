"""Busy shares: how much of the last minute each pool worked."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque

from rlloop.loop.ledger import Ledger


class BusyWindow:
    """Keeps (time, busy seconds) of the last `seconds` per role."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.items: Counter[str] = Counter()
        self._began = time.time()
        self._done: dict[str, deque[tuple[float, float]]] = defaultdict(deque)

    def add(self, role: str, busy_seconds: float) -> None:
        """One piece of work of `role` that just ended."""
        self.items[role] += 1
        self._done[role].append((time.time(), busy_seconds))

    def shares(self, now: float) -> dict[str, float]:
        """role -> busy seconds per second of the window, summed over the role's actors."""
        span = min(self.seconds, max(1.0, now - self._began))
        shares = {}
        for role, done in self._done.items():
            while done and done[0][0] < now - self.seconds:
                done.popleft()
            shares[role] = sum(busy for _, busy in done) / span
        return shares

    def clips_per_minute(self, ledger: Ledger, now: float) -> float:
        """Clips of tickets whose sampling ended within the window, per minute."""
        done = self._done["sampler"]
        clips = ledger.clips_generated / max(1, ledger.tickets_buffered)
        return 60.0 * clips * len(done) / min(self.seconds, max(1.0, now - self._began))
