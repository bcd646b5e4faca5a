"""A deadline for waits inside Ray that take none: the process ends with one line instead of waiting for ever."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hard_deadline(seconds: float, who_waits_for_whom: str) -> Iterator[None]:
    """Ends the process with status 1 unless the block is left in time. Threads and atexit handlers are not waited for.

    Only for what may be cut off anywhere: what is written meanwhile must be complete under its name or not there.
    """

    def end() -> None:
        print(f"rlloop: {who_waits_for_whom} since {seconds:.0f} s", file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
