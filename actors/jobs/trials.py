"""The trials of a sweep under Ray Tune: each is the loop's own entry point as a process, which Tune starts and ends.

On one machine Tune's Ray and each run's own Ray lie side by side: a run gets the environment of the sweep's process,
not that of the Ray worker that starts it, whose RAY_JOB_ID would make it join Tune's Ray and wait for the CPUs that
its own trial reserves (docs/decisions/0012-sweeps.md).
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

from actors.startup import start_ray
from rlloop.preflight import on_cluster
from rlloop.recipes.sweep_outcome import last_line

POLL_S = 1.0
NOT_STARTED = "not started"
TUNE_OUTPUT = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}  # with verbose=0: silence
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Process:
    """A command, where it runs, the file that its output is appended to, and what it takes meanwhile."""

    command: tuple[str, ...]
    folder: str
    log: str
    cpus: float
    gpus: int


class TrialProcess(tune.Trainable):
    """setup starts the process, each step waits a little for it and, once `stop` is there, sends it one SIGTERM."""

    def setup(
        self, config: dict[str, Any], environment: Mapping[str, str], processes: Sequence[Process], stop: str
    ) -> None:
        wanted, own = processes[config["index"]], dict(environment)
        if wanted.gpus and not on_cluster(environment):
            own["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]  # those that Tune gave this trial
        self.log, self.stop, self.is_told = Path(wanted.log), Path(stop), False
        self.process = None
        if self.stop.exists():
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            # A session of its own: a terminal's Ctrl-C would reach it beside the SIGTERM, and a second signal kills.
            self.process = subprocess.Popen(
                wanted.command, env=own, cwd=wanted.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip

    def step(self) -> dict[str, Any]:
        if self.process is None:
            return {"status": NOT_STARTED, "line": "", "done": True}
        if self.stop.exists() and not self.is_told:
            self.is_told = True
            self.process.terminate()
        try:
            status = self.process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            status = None
        return {"status": status, "line": last_line(self.log), "done": status is not None}

    def save_checkpoint(self, checkpoint_dir: str) -> dict:
        return {}  # the run directory is the checkpoint

    def cleanup(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()  # Tune bounds it: by 10 s at the end, by TUNE_FORCE_TRIAL_CLEANUP_S before that


class Watcher(tune.Callback):
    """Passes on what happens, index of the process, and its line or status.

    What: started -> running* -> stopping* -> ended | lost.

    It owns the signals while Tune runs: Tune itself would give a trial ten seconds to end (0012-sweeps.md). The first
    SIGINT or SIGTERM leaves the file `stop`, which the trials heed; when none runs, Tune ends. The second ends at once.
    """

    def __init__(self, notice: Callable[[str, int, Any], None], stop: Path) -> None:
        self.notice, self.stop = notice, stop
        self.ended: set[int] = set()
        self.running: set[int] = set()

    def __getstate__(self) -> dict:
        return {}  # Tune keeps a copy of its callbacks on disk, which nobody reads here

    def setup(self, *args, **info) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame) -> None:
        if self.stop.exists():
            raise KeyboardInterrupt
        self.stop.touch()

    def on_trial_start(self, iteration, trials, trial, **info) -> None:
        self.running.add(trial.config["index"])
        if not self.stop.exists():
            self.notice("started", trial.config["index"], None)

    def on_trial_result(self, iteration, trials, trial, result, **info) -> None:
        index, status = trial.config["index"], result["status"]
        if status is None:
            self.notice("stopping" if self.stop.exists() else "running", index, result["line"])
            return
        if status != NOT_STARTED and index not in self.ended:
            self.ended.add(index)
            self.notice("ended", index, status)
        self._left(index)

    def _left(self, index: int) -> None:
        self.running.discard(index)
        if self.stop.exists() and not self.running:
            os.kill(os.getpid(), signal.SIGUSR1)  # by which Tune ends and starts no more

    def on_trial_error(self, iteration, trials, trial, **info) -> None:
        self.ended.add(trial.config["index"])
        self.notice("lost", trial.config["index"], "the process that watched it died")
        self._left(trial.config["index"])


def run_processes(
    processes: Sequence[Process], parallel: int, folder: Path, notice: Callable[[str, int, Any], None]
) -> bool:
    """Runs all, `parallel` at once where the CPUs and GPUs suffice; returns whether all came to an end.

    SIGINT or SIGTERM sends one SIGTERM to those that run, waits for them however long they take, and starts no more.

    Args:
        folder: for a temporary one in which Tune keeps its own files.
        notice: called in this process, see Watcher.
    Raises:
        ValueError: on a cluster, so many at once would wait for each other's CPUs or GPUs.
    """
    environment = dict(os.environ)
    paths = [str(REPOSITORY), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    os.environ.update(TUNE_OUTPUT)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    start_ray()
    try:
        refuse_too_many(processes, parallel, environment)
        joins_cluster = on_cluster(environment)
        with tempfile.TemporaryDirectory(dir=folder.resolve(), prefix=".tune-") as scratch:
            watcher = Watcher(notice, Path(scratch) / "stop")
            trainable = tune.with_parameters(
                TrialProcess, environment=environment, processes=list(processes), stop=str(watcher.stop)
            )
            tune.Tuner(
                tune.with_resources(trainable, lambda trial: needs(processes[trial["index"]], joins_cluster)),
                param_space={"index": tune.grid_search(list(range(len(processes))))},
                tune_config=tune.TuneConfig(max_concurrent_trials=parallel),
                run_config=tune.RunConfig(name="trials", storage_path=scratch, callbacks=[watcher], verbose=0),
            ).fit()
    finally:
        ray.shutdown()
    return len(watcher.ended) == len(processes)


def needs(process: Process, joins_cluster: bool) -> tune.PlacementGroupFactory:
    """What Tune reserves: on one machine what the run's own Ray will use, on a cluster this node and nothing of it.

    On a cluster the run joins it and takes its CPUs and GPUs there: reserved twice, it would wait for itself.
    """
    if joins_cluster:
        return tune.PlacementGroupFactory([{f"node:{ray.util.get_node_ip_address()}": 0.001}])
    return tune.PlacementGroupFactory([{"CPU": process.cpus, **({"GPU": process.gpus} if process.gpus else {})}])


def refuse_too_many(processes: Sequence[Process], parallel: int, environment: Mapping[str, str]) -> None:
    """On a cluster two runs that each hold a part of what they need would wait for each other."""
    if not on_cluster(environment) or parallel == 1:
        return
    there = ray.cluster_resources()
    for what, each in (("CPU", max(p.cpus for p in processes)), ("GPU", max(p.gpus for p in processes))):
        if parallel * each > there.get(what, 0) + 1e-6:
            raise ValueError(
                f"--parallel {parallel}: so many trials of {each:g} {what}s take {parallel * each:g}, the cluster has "
                f"{there.get(what, 0):g}; lower --parallel"
            )
