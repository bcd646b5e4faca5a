"""The driver: starts the actors and the trainer's thread, watches, shows, and ends the run with a reason and a status.

The main thread owns the signals, the terminal view and the only TensorBoard writer; it never waits for an actor
without a deadline.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path

from actors import startup
from actors.absentees import Absentees
from actors.attach import note_address
from actors.autoscaler import Autoscaler
from actors.cluster import check_cluster
from actors.controls import start_actors
from actors.copier import Copier
from actors.ending import end_at_once, is_inside_library, said, shutdown
from actors.fit import TrainerThread
from actors.heartbeat import SPARE_S, Heartbeat
from actors.observer import Observer
from actors.outcome import INTERRUPTED, Outcome, Signals, alarmed, decide, decide_last
from actors.session import NoAnswer, Session
from rlloop.config import Config
from rlloop.loop import stacks
from rlloop.loop.result import kept_versions
from rlloop.recipes.damaged import set_aside_results
from rlloop.recipes.run_copy import RunCopy
from rlloop.resources import node_types
from rlloop.views.summary import build_summary, print_summary, write_summary
from rlloop.views.tensorboard import RunWriter
from rlloop.views.terminal import LiveView

log = logging.getLogger(__name__)
TICK_S = 1.0
STOP_S = 30.0


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
        if hangs or is_inside_library():
            end_at_once(status)
        return status
    except Exception as error:
        if is_inside_library():
            end_at_once(said(error))
        raise
    finally:
        shutdown()
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
        return outcome.exit_status or int(bool(lacks)), outcome.hangs
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
    loop = session.config.loop
    with Heartbeat(session.path, max(loop.stall_timeout_s, loop.wait_timeout_s) + SPARE_S) as heart:
        return _watch(session, view, signals, copier, Observer(session, began, notes), trainer, heart)


def _watch(
    session: Session, view: LiveView, signals: Signals, copier: Copier, observer: Observer, trainer: TrainerThread,
    heart: Heartbeat,
):  # fmt: skip
    """Watches a started run to its end; returns (outcome, last snapshot)."""
    autoscaler, absentees = Autoscaler(session), Absentees(session)
    heart.step("the event files")
    writer = RunWriter(session.path, session.config)
    view.phase("loading the models")
    outcome = None
    while outcome is None:
        time.sleep(TICK_S)
        outcome = _show(observer, view, writer, heart)
        heart.step("the buffer's report or the files of the watchdog")
        outcome = outcome or decide(session, signals, trainer, observer)
        if copier.problem:
            outcome = outcome or Outcome("failed", copier.problem, 1)
        if outcome is None:
            heart.step("Ray's list of nodes")
            autoscaler.look(observer.report)
            absentees.look(observer.report)
    heart.step("the trainer's last checkpoint")
    trainer.is_ending = True
    _stop(session, outcome)
    view.phase("checkpointing and ending")
    trainer.join(timeout=min(outcome.patience_s, session.config.loop.wait_timeout_s))
    heart.step("the disk with the last checkpoint")
    observer.read_stored_points()
    while outcome.status == "finished" and not observer.has_all_evaluations:
        time.sleep(TICK_S)
        last = _show(observer, view, writer, heart)
        heart.step("the files of the watchdog")
        outcome = last or decide_last(session, signals, observer) or outcome
    _show(observer, view, writer, heart)
    if outcome.status == "finished":
        outcome = alarmed(session, observer) or outcome
    heart.step("the disk with the event files")
    writer.close()
    observer.storage.close()
    return outcome, observer.snapshot()


def _stop(session: Session, outcome: Outcome) -> None:
    """Tells gate and trainer. A buffer that does not answer is no reason to say something else than the outcome."""
    try:
        session.call("driver", "buffer", "stop", outcome.reason or "the plan is done", timeout_s=STOP_S)
    except NoAnswer as error:
        log.warning("%s", error)


def _show(observer: Observer, view: LiveView, writer: RunWriter, heart: Heartbeat) -> Outcome | None:
    """One tick of the views; a disk that takes no more events ends the run."""
    heart.step("the answers of buffer, store, evaluator and pump")
    snapshot = observer.snapshot()
    heart.step("the terminal")
    view.update(snapshot)
    heart.step(f"the disk with the event files in {snapshot.run_dir}/tensorboard")
    try:
        writer.write(snapshot)
    except OSError as error:
        return Outcome("failed", f"{snapshot.run_dir}: cannot write ({error.strerror}); free space and repeat", 1)
    return None
