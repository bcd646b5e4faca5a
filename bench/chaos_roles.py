"""The roles that are killed, and how their processes are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

TITLES = {
    "sampler": "MapBatches(SamplerStage)",
    "scorer": "MapBatches(ScorerStage)",
    "gate": "MapBatches(Gate)",
    "pump": "ray::Pump",
    "buffer": "ray::Buffer",
    "store": "ray::PolicyStore",
    "trainer": "RayTrainWorker",
    "controller": "ray::TrainController",
    "evaluator": "ray::Evaluator",
}
# How often a role is killed, against the others. The last three are not asked for: they are killed now and then.
WEIGHTS = {
    "sampler": 1.0, "scorer": 1.0, "pump": 1.0, "buffer": 1.0, "store": 1.0, "trainer": 1.0, "node": 1.0, "driver": 1.0,
    "gate": 0.3, "evaluator": 0.3, "controller": 0.3,
}  # fmt: skip


@dataclass(frozen=True)
class Process:
    """A process of a role; `is_ready` once its constructor is done."""

    pid: int
    is_ready: bool


Processes = Mapping[str, Sequence[Process]]


def find_processes(root: psutil.Process) -> Processes:
    """Role -> its processes among the descendants of `root`."""
    found: dict[str, list[Process]] = {role: [] for role in TITLES}
    for process in root.children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        for role, part in TITLES.items():
            if title.startswith("ray::") and part in title:
                found[role].append(Process(process.pid, ".__init__" not in title))
    return found


def roles_under(pid: int) -> tuple[str, ...]:
    """Roles that have a process among the descendants of `pid`."""
    return tuple(sorted(role for role, found in find_processes(psutil.Process(pid)).items() if found))


@dataclass
class Kill:
    """One SIGKILL. `pids` are the processes of each role just before, `lost` the roles that died with a node."""

    number: int
    role: str
    time: float
    seconds_into_run: float
    after: str
    version: int
    pids: Mapping[str, frozenset[int]]
    lost: tuple[str, ...] = ()
    detail: str = ""
    recovered: float | None = None  # unix seconds

    @property
    def seconds(self) -> float | None:
        return None if self.recovered is None else self.recovered - self.time
