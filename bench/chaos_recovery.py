"""From what it is seen that a role which was killed works again: by the journal, the checkpoints and the processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.chaos_roles import Kill, Processes
from rlloop.loop import records as r
from rlloop.loop.checkpoints import MARKER


@dataclass
class Sight:
    """What can be seen of a run at one moment: its journal, when checkpoints were marked, and its processes."""

    now: float
    records: Sequence[tuple[r.Record, float]]
    marked: Sequence[float]
    processes: Processes = field(default_factory=dict)


def marker_times(run_dir: Path) -> list[float]:
    """When each checkpoint that is there was marked."""
    times = []
    for path in run_dir.glob(f"checkpoints/*/{MARKER}"):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:  # pruned at this moment
            continue
    return times


def of_earlier_segments(records: Sequence[tuple[r.Record, float]]) -> frozenset[int]:
    """pids of workers whose segment is over. Such a process may live for seconds beside its successor."""
    earlier: set[int] = set()
    current: set[int] = set()
    for record, _ in records:
        if isinstance(record, r.SegmentBegan):
            earlier, current = earlier | current, set()
        elif isinstance(record, r.Started):
            current.add(int(record.worker.split("-")[1]))
    return frozenset(earlier - current)


def recovered_at(kill: Kill, sight: Sight) -> float | None:
    """When the role of a kill worked again; None while it does not. A node: when every role that was on it does."""
    if kill.role != "node":
        return RECOVERY[kill.role](kill, sight)
    times = [RECOVERY[role](kill, sight) for role in kill.lost]
    return None if None in times else max(times, default=kill.time)


def never_recovered(kills: Sequence[Kill], num_versions: int) -> list[str]:
    """Kills after which a role did no more work though there was some.

    That is, two generations or more were to come after the one in which it was killed: in a shorter time its
    replacement may find nothing left to do.
    """
    return [
        f"kill {kill.number} ({kill.role}) at version {kill.version} of {num_versions}: it never worked again"
        for kill in kills
        if kill.recovered is None and num_versions - kill.version - 1 >= 2
    ]


def _first(times: Sequence[float], after: float) -> float | None:
    return min((time for time in times if time > after), default=None)


def _times(sight: Sight, *kinds: type) -> list[float]:
    return [time for record, time in sight.records if isinstance(record, kinds)]


def _began_again(role: str) -> Callable[[Kill, Sight], float | None]:
    def recovered(kill: Kill, sight: Sight) -> float | None:
        begun = set()
        for record, time in sight.records:
            if time <= kill.time:
                continue
            if isinstance(record, r.Started) and record.worker.startswith(f"{role}-"):
                is_new = int(record.worker.split("-")[1]) not in kill.pids[role]
                (begun.add if is_new else begun.discard)(record.ticket)
            elif isinstance(record, r.Buffered) and record.ticket in begun:
                return time
        return None

    return recovered


def _pump(kill: Kill, sight: Sight) -> float | None:
    began = _first(_times(sight, r.SegmentBegan), kill.time)
    return None if began is None else _first(_times(sight, r.Buffered), began)


def _driver(kill: Kill, sight: Sight) -> float | None:
    began = _first(_times(sight, r.EpochBegan), kill.time)
    return None if began is None else _first([*_times(sight, r.Buffered, r.Published), *sight.marked], began)


def _trainer(kill: Kill, sight: Sight) -> float | None:
    return _first([*sight.marked, *_times(sight, r.Published)], kill.time)


def _ready(role: str) -> Callable[[Kill, Sight], float | None]:
    def recovered(kill: Kill, sight: Sight) -> float | None:
        new = [p for p in sight.processes.get(role, ()) if p.is_ready and p.pid not in kill.pids[role]]
        return sight.now if new else None

    return recovered


RECOVERY: dict[str, Callable[[Kill, Sight], float | None]] = {
    "sampler": _began_again("sampler"),
    "scorer": _began_again("scorer"),
    "gate": lambda kill, sight: _first(_times(sight, r.Leased), kill.time),
    "pump": _pump,
    "buffer": lambda kill, sight: _first([time for _, time in sight.records], kill.time),
    "store": _ready("store"),
    "trainer": _trainer,
    "controller": _trainer,
    "evaluator": _ready("evaluator"),
    "driver": _driver,
}
# What stands in the table's foot: from the kill until ...
DEFINITIONS = {
    "sampler": "a ticket that a new process sampled is buffered",
    "scorer": "a ticket that a new process scored is buffered",
    "gate": "the next ticket is leased",
    "pump": "a ticket of the next segment is buffered",
    "buffer": "the next record is in the journal",
    "store": "a new process holds the newest version",
    "trainer": "the next checkpoint is marked or published",
    "controller": "the next checkpoint is marked or published",
    "evaluator": "a new process answers",
    "node": "every role that had a process on it works again",
    "driver": "the repeated command has a ticket buffered, a checkpoint marked or a version published",
}
