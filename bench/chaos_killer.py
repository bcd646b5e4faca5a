"""Chooses victims and moments during a run, and kills."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import psutil

from bench.chaos_cluster import Machines
from bench.chaos_plan import next_pause, order_of_roles
from bench.chaos_recovery import Sight, of_earlier_segments
from bench.chaos_roles import TITLES, Kill, find_processes, roles_under
from rlloop.loop import records as r

log = logging.getLogger(__name__)
PATIENCE_S = 75.0  # a recovery that takes longer does not hold up the next kill


@dataclass(frozen=True)
class Orders:
    """What a run is to suffer: up to `kills` kills, numbered from `first`, of the roles with these weights."""

    seed: int
    first: int
    kills: int
    weights: Mapping[str, float]
    counts: Mapping[str, int]  # kills of each role in earlier runs
    pace: float = 1.0  # factor of all pauses


class Killer:
    """Life of a kill: drawn -> due -> struck. `kill_driver` kills the driver and repeats its command."""

    def __init__(self, orders: Orders, machines: Machines | None, kill_driver: Callable[[], None]) -> None:
        self.orders, self.machines, self.kill_driver = orders, machines, kill_driver
        self.kills: list[Kill] = []
        self.counts = Counter(orders.counts)
        self.began = time.time()
        self._draw()

    @property
    def last_role(self) -> str:
        return self.kills[-1].role if self.kills else "none"

    @property
    def down(self) -> set[str]:
        """Roles that were killed and do not work again yet, those of a lost node included."""
        pending = [kill for kill in self.kills if kill.recovered is None]
        return {kill.role for kill in pending} | {role for kill in pending for role in kill.lost}

    @property
    def needs_processes(self) -> bool:
        """Whether a sight must hold the processes for what is to be decided next; finding them takes a while."""
        return self.pause.after == "replaced" or bool(self.down & {"store", "evaluator"})

    def strike_if_due(self, sight: Sight) -> None:
        """Kills one process when its time has come: of the role that lacks kills most and has a process now."""
        if not self._is_due(sight):
            return
        rng = np.random.default_rng([self.orders.seed, self.number, 3])
        found = find_processes(psutil.Process())
        pids = {role: frozenset(process.pid for process in those) for role, those in found.items()}
        version = sum(isinstance(record, r.Published) for record, _ in sight.records)
        for role in self._candidates():
            kill = Kill(self.number, role, 0.0, 0.0, self.pause.after, version, pids)
            if self._kill(kill, rng, of_earlier_segments(sight.records)):
                kill.time = time.time()
                kill.seconds_into_run = kill.time - self.began
                self.counts[role] += 1
                self.kills.append(kill)
                log.info("kill %d %s %s (%s) at version %d", kill.number, role, kill.detail, kill.after, kill.version)
                break
        self._draw()

    # ---- when

    @property
    def number(self) -> int:
        return self.orders.first + len(self.kills)

    def _draw(self) -> None:
        pause = next_pause(self.orders.seed, self.number, is_first=not self.kills)
        self.pause = replace(pause, seconds=pause.seconds * self.orders.pace)
        self.free_since: float | None = None

    def _is_due(self, sight: Sight) -> bool:
        if len(self.kills) >= self.orders.kills:
            return False
        since = {"start": self.began, "killed": self.kills[-1].time if self.kills else self.began}
        if self.pause.after in since:
            return sight.now > since[self.pause.after] + self.pause.seconds
        if self.free_since is None and (self._is_free(sight) or sight.now > self.kills[-1].time + PATIENCE_S):
            self.free_since = sight.now
        return self.free_since is not None and sight.now > self.free_since + self.pause.seconds

    def _is_free(self, sight: Sight) -> bool:
        """Whether the event that the pause counts from has happened."""
        if self._dies_again:
            last = self.kills[-1]
            return bool({process.pid for process in sight.processes.get(last.role, ())} - last.pids[last.role])
        return all(kill.recovered for kill in self.kills)

    @property
    def _dies_again(self) -> bool:
        """Whether the last victim's replacement is to be killed while it starts."""
        return self.pause.after == "replaced" and self.last_role in TITLES

    # ---- whom

    def _candidates(self) -> list[str]:
        order = order_of_roles(self.orders.seed, self.number, self.counts, self.orders.weights)
        others = [role for role in order if role not in self.down]
        return [self.last_role, *others] if self._dies_again else others

    def _kill(self, kill: Kill, rng: np.random.Generator, finished: frozenset[int]) -> bool:
        """SIGKILL; False where the role has no process now. Those that have `finished` have nothing to recover."""
        if kill.role == "driver":
            self.kill_driver()
            return True
        if kill.role == "node":
            return self._lose_node(kill, rng)
        victims = kill.pids[kill.role] - finished
        if self._dies_again and kill.role == self.last_role:
            victims -= self.kills[-1].pids[kill.role]
        if not victims:
            return False
        try:
            os.kill(int(rng.choice(sorted(victims))), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def _lose_node(self, kill: Kill, rng: np.random.Generator) -> bool:
        if self.machines is None or not self.machines.is_whole:
            return False
        inside = {pid: roles for pid in sorted(self.machines.workers()) if (roles := roles_under(pid))}
        if not inside:
            return False
        pid = int(rng.choice(sorted(inside)))
        at_once = bool(rng.random() < 0.5)
        kill.lost = inside[pid]
        kill.detail = f"{'with all its processes' if at_once else 'its raylet'}: {', '.join(kill.lost)}"
        self.machines.lose(pid, with_children=at_once)
        return True
