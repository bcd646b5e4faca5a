"""The driver: starts the actors and the trainer's thread, watches, shows, and ends the run with a reason and a status.

The main thread owns the signals, the terminal view and the only TensorBoard writer; it never waits for an actor
without a deadline.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from actors import startup, watchdog
from actors.absentees import Absentees
from actors.attach import note_address
from actors.autoscaler import Autoscaler
from actors.cluster import check_cluster
from actors.copier import Copier
from actors.deadline import hard_deadline
from actors.observer import Observer
from actors.session import NoAnswer, Session
from rlloop.config import Config
from rlloop.loop import stacks
from rlloop.loop.checkpoints import newest_marked
from rlloop.loop.result import kept_versions
from rlloop.recipes.damaged import set_aside_results
from rlloop.recipes.run_copy import RunCopy
from rlloop.resources import node_request, node_types, show_bytes
from rlloop.views.summary import build_summary, print_summary, write_summary
from rlloop.views.tensorboard import RunWriter
from rlloop.views.terminal import LiveView

log = logging.getLogger(__name__)
TICK_S = 1.0
STOP_S, STALLED_S, SHUTDOWN_S = 30.0, 20.0, 120.0
INTERRUPTED = {signal.SIGINT: 130, signal.SIGTERM: 143}
ALARM_STATUS = 3  # the run ended itself, neither by a fault nor by a signal


@dataclass
class Outcome:
    """How the run ended: finished | stopped | failed, why, and the exit status."""

    status: str = "finished"
    reason: str = ""
    exit_status: int = 0
    patience_s: float = math.inf  # for the trainer's last checkpoint; who hangs writes none


@dataclass
class Signals:
    """The first SIGINT or SIGTERM asks for a checkpoint and a clean end, the second ends at once."""

    received: list[int] = field(default_factory=list)

    def install(self) -> None:
        for number in INTERRUPTED:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame) -> None:
        self.received.append(number)
        if len(self.received) > 1:
            os._exit(INTERRUPTED[signal.Signals(number)])


def run(config: Config, run_dir: str, copy: RunCopy | None = None) -> int:
    """Runs or resumes the loop in `run_dir`; returns the exit status.

    Args:
        copy: what of it is kept elsewhere.
    Raises:
        ValueError: the run directory is in use, holds another run, or is damaged; one line.
    """
    path = Path(run_dir).resolve()
    lock = startup.lock_run_dir(path)
    try:
        status, hangs = _run(config, path, copy)
        if hangs or is_inside_ray():
            end_at_once(status)
        return status
    finally:
        _shutdown()
        lock.close()


def _run(config: Config, path: Path, copy: RunCopy | None) -> tuple[int, bool]:
    """The exit status, and whether something hung when the run ended."""
    began, signals = time.time(), Signals()
    try:
        startup.refuse_other_config(path, config)
        corpus = startup.find_corpus(path, config)  # may make one, for minutes: until here Ctrl-C ends at once
        signals.install()
        with LiveView(config) as view:
            notes: list[str] = []
            session = _prepare(path, config, corpus, view, notes)
            signals.install()  # again: ray.init has put its own SIGTERM handler there
            copier = Copier(session, copy)
            outcome, snapshot = _drive(session, view, signals, copier, began, notes)
        summary = build_summary(config, snapshot, kept_versions(path), status=outcome.status, reason=outcome.reason)
        write_summary(path, summary)
        print_summary(summary)
        if lacks := copier.finish():
            print(f"rlloop: {lacks}", file=sys.stderr)
        return outcome.exit_status or int(bool(lacks)), outcome.patience_s < math.inf
    except KeyboardInterrupt:
        print("rlloop: stopped while the corpus was made; the same command goes on with it", file=sys.stderr)
        return INTERRUPTED[signal.SIGINT], False
    except (NoAnswer, OSError) as error:  # TimeoutError and ConnectionError are OSErrors, as is a full disk
        print(f"rlloop: {error}", file=sys.stderr)
        return 1, False


def _prepare(path: Path, config: Config, corpus: dict | None, view: LiveView, notes: list[str]) -> Session:
    """Everything before the actors: version 0, Ray and whether it has what is wanted, the run's files, the epoch.

    `notes` takes a line for each file of an earlier start that is refused.
    """
    view.phase("writing version 0")
    arrays = startup.version_zero(path, config, notes.append)
    view.phase("starting Ray")
    if config.trainer.min_workers is not None:
        os.environ.update({key: os.environ.get(key, value) for key, value in startup.ELASTIC.items()})
    startup.start_ray(node_types(config), config.limits.object_store)
    check_cluster(path, config)
    startup.store_prompts(path, config)  # from here on nothing is refused, so nothing that was refused leaves traces
    startup.store_corpus(path, corpus)
    startup.write_version_zero(path, config, arrays)
    startup.store_config(path, config)
    startup.remove_earlier_starts(path)
    session = Session(str(path), startup.take_epoch(path))
    notes += set_aside_results(path)
    startup.record_environment(session.path, session.epoch)
    note_address(session)
    return session


def _drive(session: Session, view: LiveView, signals: Signals, copier: Copier, began: float, notes: list[str]):
    """Starts everything and watches it to its end; returns (outcome, last snapshot)."""
    startup.wait_for_old_epochs(session.path, session.epoch, session.config.loop.wait_timeout_s)
    view.phase("starting the actors")
    stacks.register_main(session.path, "driver")
    start_actors(session)
    startup.shrink_to_fit(session)
    trainer = TrainerThread(session)
    trainer.start()
    observer, autoscaler, absentees = Observer(session, began, notes), Autoscaler(session), Absentees(session)
    writer = RunWriter(session.path, session.config)
    view.phase("loading the models")
    outcome = None
    while outcome is None:
        time.sleep(TICK_S)
        outcome = _show(observer, view, writer) or _decide(session, signals, trainer, observer)
        if copier.problem:
            outcome = outcome or Outcome("failed", copier.problem, 1)
        if outcome is None:
            autoscaler.look(observer.report)
            absentees.look(observer.report)
    trainer.is_ending = True
    _stop(session, outcome)
    view.phase("checkpointing and ending")
    trainer.join(timeout=min(outcome.patience_s, session.config.loop.wait_timeout_s))
    observer.read_stored_points()
    while outcome.status == "finished" and not observer.has_all_evaluations:
        time.sleep(TICK_S)
        outcome = _show(observer, view, writer) or _decide_last(session, signals, observer) or outcome
    _show(observer, view, writer)
    if outcome.status == "finished":
        outcome = _alarmed(session, observer) or outcome
    writer.close()
    observer.storage.close()
    return outcome, observer.snapshot()


def _stop(session: Session, outcome: Outcome) -> None:
    """Tells gate and trainer. A buffer that does not answer is no reason to say something else than the outcome."""
    try:
        session.call("driver", "buffer", "stop", outcome.reason or "the plan is done", timeout_s=STOP_S)
    except NoAnswer as error:
        log.warning("%s", error)


def _show(observer: Observer, view: LiveView, writer: RunWriter) -> Outcome | None:
    """One tick of the views; a disk that takes no more events ends the run."""
    snapshot = observer.snapshot()
    view.update(snapshot)
    try:
        writer.write(snapshot)
    except OSError as error:
        return Outcome("failed", f"{snapshot.run_dir}: cannot write ({error.strerror}); free space and repeat", 1)
    return None


def _decide_last(session: Session, signals: Signals, observer: Observer) -> Outcome | None:
    """Whether the wait for the last evaluations is over early, and how."""
    if signals.received:
        return _interrupted(signals)
    if observer.evaluator_error:
        return Outcome("failed", observer.evaluator_error, 1)
    missing = observer.evaluator.get("missing")
    return _stalled(session, observer, f"the driver waits for the evaluation of versions {missing}, nothing of it came")


def _interrupted(signals: Signals) -> Outcome:
    number = signal.Signals(signals.received[0])
    return Outcome("stopped", f"{number.name} received", INTERRUPTED[number])


def _alarmed(session: Session, observer: Observer) -> Outcome | None:
    """The end that the configuration asks of an alarm."""
    if session.config.evaluation.alarm.action == "warn" or not observer.alarms:
        return None
    return Outcome("stopped", f"alarm: {observer.alarms[0]['text']}", ALARM_STATUS)


def _decide(session: Session, signals: Signals, trainer: TrainerThread, observer: Observer) -> Outcome | None:
    """Whether the run is over, and how. None while it goes on."""
    if signals.received:
        return _interrupted(signals)
    if not trainer.is_alive():  # what it last said may be newer than the last picture
        observer.report = session.call("driver", "buffer", "report", observer.last_step)
    report, spilled, bound = observer.report, observer.storage.now.spilled or 0, session.config.limits.spill
    if spilled > bound:
        return Outcome(
            "failed",
            f"Ray has {show_bytes(spilled)} of objects on disk, limits.spill is {show_bytes(bound)}; raise "
            "limits.object_store or limits.spill",
            1,
        )
    if report.get("fatal"):
        return Outcome("failed", report["fatal"], 1)
    if observer.evaluator_error:
        return Outcome("failed", observer.evaluator_error, 1)
    if not trainer.is_alive():
        if trainer.error:
            return Outcome("failed", f"trainer: {trainer.error}", 1)
        if report.get("version", 0) >= session.plan.num_versions:
            return Outcome()
        reason = report.get("stopped") or report.get("stop_reason") or "the trainer returned early"
        return Outcome("failed", reason, 1)
    if report.get("stop_reason"):
        return Outcome("failed", report["stop_reason"], 1)
    if raised := _alarmed(session, observer):
        return raised
    return _stalled(session, observer, "neither a commit nor a step")


def _stalled(session: Session, observer: Observer, what: str) -> Outcome | None:
    """The watchdog: the deadline of every wait inside Ray that has none, such as fit() or a pool that cannot start."""
    loop, since = session.config.loop, observer.last_progress
    key = "stall_timeout_s" if since else "start_timeout_s"
    quiet = time.time() - (since or observer.started_at)
    if quiet <= (limit := getattr(loop, key)):
        return None
    why = f"{what} since {quiet:.0f} s (loop.{key} is {limit:g}){observer.silent()}"
    return Outcome("failed", watchdog.ring(session, why, observer.report, observer.last_step_at), 1, STALLED_S)


def start_actors(session: Session) -> None:
    """Creates the control actors by name; each restarts by itself for ever.

    Buffer, store and pump stay on the driver's node: another may go away, and with it what the store owns. The
    evaluator holds nothing that is not in a file, so it goes where there is room.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from actors.buffer import THREADS, Buffer
    from actors.evaluator import Evaluator
    from actors.pump import Pump
    from actors.store import PolicyStore

    evaluation = session.config.evaluation
    here = {"scheduling_strategy": NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)}
    for name, cls, options in (
        ("buffer", Buffer, {**here, "max_concurrency": THREADS}),
        ("store", PolicyStore, here),
        (
            "evaluator",
            Evaluator,
            {
                "num_cpus": evaluation.num_cpus,
                "num_gpus": evaluation.num_gpus,
                "resources": node_request(evaluation.node),
            },
        ),
        ("pump", Pump, here),
    ):
        options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 0, **options}
        handle = ray.remote(cls).options(name=name, namespace=session.namespace, **options).remote(session)
        _HANDLES.append(handle)  # a named actor that is not detached lives as long as a handle to it
        if name in ("buffer", "store"):
            _await_ready(name, handle, session.config.loop.wait_timeout_s)


_HANDLES: list = []


def _await_ready(name: str, handle, timeout_s: float) -> None:
    """Waits for an actor's __init__; one that is lost meanwhile comes again by itself.

    Raises:
        ValueError: what __init__ raised, as one line.
        TimeoutError: it did not come up in time.
    """
    import ray

    began = time.monotonic()
    while True:
        try:
            ray.get(handle.__ray_ready__.remote(), timeout=timeout_s)
            return
        except ray.exceptions.RayActorError as error:
            if error.actor_init_failed:
                raise ValueError(f"{name} cannot start: {str(error).strip().splitlines()[-1]}") from None
            if time.monotonic() - began > timeout_s:
                raise TimeoutError(f"driver waits for actor {name} to start since {timeout_s:.0f} s") from None
            time.sleep(0.2)
        except ray.exceptions.GetTimeoutError:
            raise TimeoutError(f"driver waits for actor {name} to start since {timeout_s:.0f} s") from None


class TrainerThread(threading.Thread):
    """One TorchTrainer.fit(); in a thread, because on the main thread Train installs an aborting SIGINT handler."""

    def __init__(self, session: Session) -> None:
        super().__init__(name="trainer", daemon=True)
        self.session, self.error, self.is_ending = session, "", False

    def run(self) -> None:
        """Fits again where a fit that got on has failed, or its controller was lost: Train would start neither anew."""
        from ray.exceptions import RayActorError

        fits, in_vain = 0, 0
        while True:
            fits, newest = fits + 1, newest_marked(self.session.path)
            try:
                self._fit(fits)
                self.error = ""
                return
            except Exception as error:
                log.exception("fit() %d ended", fits)
                if self.is_ending:  # Ray may be gone by now, and a call would start another
                    return
                self._free_resources()
                self.error = " ".join(str(error).split())[-400:] or type(error).__name__
                in_vain = in_vain + 1 if newest_marked(self.session.path) == newest else 0
                most = self.session.config.trainer.max_failures if isinstance(error, RayActorError) else 0
                if in_vain > most:
                    return

    def _free_resources(self) -> None:
        try:
            remove_groups()
        except Exception:  # the next fit may find room all the same, and says what it lacks
            log.exception("the placement groups of the last fit may be left")

    def _fit(self, number: int) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        from actors.trainer import train_worker

        session, settings = self.session, self.session.config.trainer
        use_gpu, least = settings.num_gpus > 0, settings.min_workers
        resources = {"CPU": settings.num_cpus, **node_request(settings.node)}
        resources |= {"GPU": settings.num_gpus} if use_gpu else {}
        TorchTrainer(
            train_worker,
            train_loop_config={"run_dir": session.run_dir, "epoch": session.epoch},
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=collective_timeout_s(session)),
            scaling_config=ScalingConfig(
                num_workers=settings.num_workers if least is None else (least, settings.num_workers),
                use_gpu=use_gpu,
                resources_per_worker=resources,
            ),
            run_config=RunConfig(
                name=f"epoch{session.epoch:06d}-{number}",
                storage_path=str(session.path / "ray_train"),
                failure_config=FailureConfig(max_failures=settings.max_failures),
            ),
        ).fit()


def remove_groups() -> None:
    """Frees what the placement groups of this job hold, which are Train's alone, before it asks for another.

    Train's cleaner does it for a controller that was killed, but finds out by the State API, which needs a dashboard.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    for number, entry in placement_group_table().items():
        if number.endswith(job) and entry["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(number)))


def collective_timeout_s(session: Session) -> int:
    """Deadline of every collective among the trainer's workers: after the watchdog's, which shows who hangs where."""
    loop = session.config.loop
    return math.ceil(max(loop.stall_timeout_s, loop.start_timeout_s) + loop.wait_timeout_s)


def is_inside_ray() -> bool:
    """Whether a thread of ours may be: Ray cannot be taken down under it without the risk of a crash."""
    return any(isinstance(thread, TrainerThread) or thread.name in watchdog.PARTS for thread in threading.enumerate())


def end_at_once(status: int) -> None:
    """Ends this process with its status, and with it what Ray has started for it, as when the driver is killed."""
    log.warning("something hangs still: the process ends at once")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _shutdown() -> None:
    import ray

    _HANDLES.clear()
    if ray.is_initialized():
        with hard_deadline(SHUTDOWN_S, "the driver waits for Ray to end"):
            ray.shutdown()
