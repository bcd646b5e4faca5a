"""Watchdog: what the driver leaves behind when neither a commit nor a step came for too long, before it ends the run.

Ledger and stacks are gathered in threads with a deadline, so that a file system or a node that hangs costs its part
alone and the run ends all the same.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.cluster import other_nodes
from actors.session import Session
from rlloop.loop import stacks
from rlloop.loop.journal import Journal
from rlloop.loop.ledger import Ledger
from rlloop.loop.ledger_lines import ticket_lines
from rlloop.loop.waits import who_waits

log = logging.getLogger(__name__)
DEADLINE_S = 30.0
SPARE_S = 5.0  # for the folder and the report, beside the parts
KEPT = 5
PARTS = ("ledger", "stacks", "nodes")  # threads that gather them


def ring(session: Session, why: str, report: dict[str, Any], last_step: float, deadline_s: float = DEADLINE_S) -> str:
    """Writes run_dir/watchdog/TIME; one line: `why`, who waits for whom since when, and the folder.

    Args:
        report: what the buffer last said of itself (Buffer.report), perhaps a while ago.
        last_step: unix seconds of the last update.
        deadline_s: for each part; what is not written by then is named in the line.
    """
    folder = session.path / "watchdog" / time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    told = [f"tickets: {report.get('tickets', {})}"]  # where the journal cannot be read
    work = (
        lambda: told.insert(0, _dump_ledger(session, folder, report, last_step)),
        lambda: _write_stacks(folder, stacks.dump_here(session.path)),
        lambda: _dump_other_nodes(session, folder),
    )
    parts: dict[str, Callable[[], Any]] = dict(zip(PARTS, work, strict=True))
    left: list[str] = list(PARTS)  # until the folder is there

    def gather() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            left[:] = within(deadline_s, parts)
            written = json.dumps({"why": why, "waits": told[0], **report}, default=str, indent=1)
            (folder / "report.json").write_text(written)
            for old in sorted(folder.parent.iterdir())[:-KEPT]:
                shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            left[:] = [f"nothing can be written there ({error.strerror})"]

    late = within(deadline_s + SPARE_S, {"report": gather})
    unfinished = f", without {', '.join([*left, *late])}" if left or late else ""
    return f"{why}: {told[0]}; ledger and stacks: {folder}{unfinished}"


def within(seconds: float, parts: dict[str, Callable[[], Any]]) -> list[str]:
    """Calls all at once in threads; names of those that did not end in time. What they raise goes to the log."""

    def guarded(name: str) -> None:
        try:
            parts[name]()
        except Exception:
            log.exception("watchdog: %s", name)

    threads = {name: threading.Thread(target=guarded, args=(name,), name=name, daemon=True) for name in parts}
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads.values():
        thread.join(max(0.0, deadline - time.monotonic()))
    return [name for name, thread in threads.items() if thread.is_alive()]


def _dump_ledger(session: Session, folder: Path, report: dict[str, Any], last_step: float) -> str:
    """Writes the lines of `rlloop ledger`; answers who waits for whom."""
    ledger = Ledger(session.plan)
    for record, when in Journal(session.path / "journal" / "journal.log").read():
        ledger.apply(record, when)
    waits = who_waits(ledger, report.get("trainer_state", "unknown"), time.time(), last_step)
    with (folder / "ledger.jsonl").open("w") as file:
        file.writelines(f"{line}\n" for line in ticket_lines(ledger))
    return waits


def _write_stacks(folder: Path, found: list[tuple[str, str]]) -> None:
    for name, text in found:
        (folder / f"{name}.txt").write_text(text)


def _dump_other_nodes(session: Session, folder: Path) -> None:
    """The same on every other node, by a small task there; a node that does not answer has a file that says so."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = other_nodes() if ray.is_initialized() else []
    task = ray.remote(stacks.dump_here)
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        answer = task.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(session.path)
        asked[answer] = node["NodeManagerAddress"]
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=DEADLINE_S - 5) if asked else ([], [])
    for answer, address in asked.items():
        try:
            found = ray.get(answer, timeout=1) if answer in ready else [(f"node-{address}", "did not answer\n")]
        except ray.exceptions.RayError as error:
            found = [(f"node-{address}", f"{error}\n")]
        _write_stacks(folder, found)
