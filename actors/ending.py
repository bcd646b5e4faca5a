"""How the driver's process ends: with Ray taken down in order, or at once where something hangs."""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback

from actors import watchdog
from actors.controls import forget_actors
from actors.copier import IN_STORE
from actors.deadline import hard_deadline
from actors.fit import TrainerThread

log = logging.getLogger(__name__)
SHUTDOWN_S = 120.0


def is_inside_library() -> bool:
    """Whether a thread of ours may be inside Ray, which cannot be taken down under it without the risk of a crash, or
    inside the client of a store that does not answer, which keeps a process from its end."""
    names = {*watchdog.PARTS, IN_STORE}
    return any(isinstance(thread, TrainerThread) or thread.name in names for thread in threading.enumerate())


def said(error: Exception) -> int:
    """Prints an exception as the command would that it does not reach; the exit status that goes with it."""
    if isinstance(error, ValueError):
        print(f"rlloop: {error}", file=sys.stderr)
        return 2
    traceback.print_exception(error, file=sys.stderr)
    return 1


def end_at_once(status: int) -> None:
    """Ends this process with its status, and with it what Ray has started for it, as when the driver is killed."""
    log.info("something hangs still: the process ends at once")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def shutdown() -> None:
    import ray

    forget_actors()
    if ray.is_initialized():
        with hard_deadline(SHUTDOWN_S, "the driver waits for Ray to end"):
            ray.shutdown()
