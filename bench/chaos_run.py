"""One run of the real command under fire: it is started, its processes are killed, and what came of it is checked."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.chaos_checks import Results, breaches_at_end, breaches_so_far, differences, results_of
from bench.chaos_cluster import Machines
from bench.chaos_killer import Killer, Orders
from bench.chaos_recovery import Sight, marker_times, never_recovered, recovered_at
from bench.chaos_roles import Kill, find_processes
from rlloop.config import load
from rlloop.loop.journal import Journal
from rlloop.loop.plan import Plan

log = logging.getLogger(__name__)
REPOSITORY = Path(__file__).resolve().parent.parent
PRESET = REPOSITORY / "bench" / "chaos.yaml"
TICK_S = 0.25
HANG_S = 200.0  # neither a record nor a checkpoint nor an evaluation for so long
MAX_REPEATS = 3  # commands repeated after an end that no kill of the driver explains
LEAVES_WITHIN_S = 90.0  # of the run's end: its last processes; one that imports torch on a busy machine takes long
MARK = "RLLOOP_CHAOS_RUN"  # environment variable by which processes of a run are known


@dataclass
class Outcome:
    """A finished run: its kills, what was wrong, and what it came to."""

    kills: list[Kill]
    violations: list[str]
    seconds: float
    commands: int
    results: Results | None
    load: float = 0.0  # of the machine, over the last five minutes of the run


class ChaosRun:
    """Life: started -> (killed -> recovered)* -> ended -> checked. `machines` is the cluster it joins, if any."""

    def __init__(
        self,
        run_dir: Path,
        orders: Orders,
        overrides: Sequence[str] = (),
        machines: Machines | None = None,
        preset: Path = PRESET,
    ) -> None:
        self.run_dir, self.orders, self.machines = run_dir, orders, machines
        self.config = load(preset, list(overrides))
        self.command = [sys.executable, "-m", "rlloop.main", "--config", str(preset), f"run_dir={run_dir}", *overrides]
        self.violations: list[str] = []
        self.commands = self.repeats = 0
        self.last_picture: object = None

    def play(self, reference: Results | None) -> Outcome:
        """Runs to the end; compares with `reference` where there is one."""
        self.run_dir.parent.mkdir(parents=True, exist_ok=True)
        began = self.last_change = time.time()
        self.killer = Killer(self.orders, self.machines, self._kill_driver)
        self._start()
        try:
            while not self._has_ended():
                time.sleep(TICK_S)
                sight = self._look()
                self._settle(sight)
                self._watch_for_hang(sight)
                self.killer.strike_if_due(sight)
            self._settle(self._look())
        finally:
            self.driver.kill()
        seconds, load = time.time() - began, os.getloadavg()[1]
        return Outcome(self.killer.kills, self.violations, seconds, self.commands, self._check(reference), load)

    # ---- the command

    def _start(self) -> None:
        self.commands += 1
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", MARK: str(self.run_dir)}
        if self.machines:
            env["RAY_ADDRESS"] = self.machines.address
        with self.run_dir.with_suffix(".out").open("ab") as out:
            out.write(f"---- command {self.commands} at {time.time():.3f}\n".encode())
            out.flush()
            self.driver = subprocess.Popen(
                self.command, cwd=REPOSITORY, env=env, stdout=out, stderr=out, start_new_session=True
            )

    def _kill_driver(self) -> None:
        self.driver.kill()
        self.driver.wait()
        self._start()

    def _has_ended(self) -> bool:
        """Whether the run is over; repeats the command where it ended without being told to."""
        status = self.driver.poll()
        if not status:
            return status == 0
        said = " ".join(self.run_dir.with_suffix(".out").read_text(errors="replace").split())[-300:]
        self._violate(f"the command ended by itself with status {status}, last kill {self.killer.last_role}: ...{said}")
        return not self._repeat()

    def _repeat(self) -> bool:
        self.repeats += 1
        if self.repeats > MAX_REPEATS:
            return False
        self.last_change = time.time()
        self._start()
        return True

    # ---- what is seen

    def _look(self) -> Sight:
        processes = find_processes(psutil.Process()) if self.killer.needs_processes else {}
        found = list(Journal(self.run_dir / "journal" / "journal.log").read())
        return Sight(time.time(), found, marker_times(self.run_dir), processes)

    def _settle(self, sight: Sight) -> None:
        """Notes which kills have recovered, and what the journal shows after each."""
        for kill in self.killer.kills:
            if kill.recovered is None:
                kill.recovered = recovered_at(kill, sight)
                if kill.recovered is not None:
                    log.info("kill %d %s: recovered in %.1f s", kill.number, kill.role, kill.seconds)
                    for breach in breaches_so_far([record for record, _ in sight.records], self.config):
                        self._violate(f"after kill {kill.number} ({kill.role}): {breach}")

    def _watch_for_hang(self, sight: Sight) -> None:
        picture = len(sight.records), max(sight.marked, default=0), len(list(self.run_dir.glob("evaluations/*")))
        if picture != self.last_picture:
            self.last_picture, self.last_change = picture, sight.now
        if sight.now - self.last_change < HANG_S:
            return
        self._violate(
            f"hangs: no record, checkpoint or evaluation since {HANG_S:.0f} s, last kill {self.killer.last_role}; "
            f"stacks in {self._dump_stacks()}"
        )
        self.driver.kill()
        self.driver.wait()
        if not self._repeat():
            raise RuntimeError(f"{self.run_dir} hangs still after {MAX_REPEATS} repeated commands")

    def _dump_stacks(self) -> Path:
        """Every thread of the run's processes into a file, for whoever looks for the cause."""
        path = self.run_dir.with_suffix(f".stacks{self.repeats}")
        found = find_processes(psutil.Process())
        with path.open("wb") as file:
            for pid in [self.driver.pid, *(process.pid for those in found.values() for process in those)]:
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    done = subprocess.run(["py-spy", "dump", "--pid", str(pid)], capture_output=True, timeout=20)
                    file.write(done.stdout + done.stderr)
        return path

    # ---- the end

    def _violate(self, what: str) -> None:
        if what not in self.violations:
            log.error("VIOLATION %s: %s", self.run_dir.name, what)
            self.violations.append(what)

    def _check(self, reference: Results | None) -> Results | None:
        found = [record for record, _ in Journal(self.run_dir / "journal" / "journal.log").read()]
        path = self.run_dir / "summary.json"
        summary = json.loads(path.read_text()) if path.exists() else {}
        idle = never_recovered(self.killer.kills, Plan.from_config(self.config).num_versions)
        for breach in [*breaches_at_end(self.run_dir, found, self.config, summary), *idle, *self._left_behind()]:
            self._violate(breach)
        try:
            results = results_of(self.run_dir, found, self.config)
        except ValueError as error:
            self._violate(str(error))
            return None
        for difference in differences(results, reference) if reference else ():
            self._violate(difference)
        return results

    def _left_behind(self) -> list[str]:
        """Processes that outlive the run."""
        deadline = time.monotonic() + LEAVES_WITHIN_S
        while (left := [*self._marked_processes(), *self._actors_on_machines()]) and time.monotonic() < deadline:
            time.sleep(1)
        return [f"left behind after {LEAVES_WITHIN_S:.0f} s: {name}" for name in left]

    def _marked_processes(self) -> list[str]:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.environ().get(MARK) == str(self.run_dir) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.info["cmdline"] or ())[:100])
        return found

    def _actors_on_machines(self) -> list[str]:
        if self.machines is None:
            return []
        return [role for role, found in find_processes(psutil.Process()).items() if found]
