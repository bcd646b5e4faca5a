"""Trainer: one long TorchTrainer.fit() with DeepSpeed inside; this is what each of its workers runs.

Rank 0 asks the buffer by number and broadcasts every answer, so no rank ever waits alone. Only the end of a generation
is published, and only after its marker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from actors.checkpointer import Checkpointer
from actors.ranks import Ranks
from actors.reporter import Reporter
from actors.session import Session
from actors.turns import Turn, Turns
from rlloop.config import Stage
from rlloop.loop import stacks
from rlloop.loop.records import Selected
from rlloop.loop.snapshot import TrainPoint

if TYPE_CHECKING:
    from actors.learner import Learner
    from rlloop.algorithms.base import Batch

POLL_S = 0.2
BROADCAST_EVERY_S = 10.0


class Stopped(Exception):
    """The run is to end; carries the reason."""


def train_worker(place: Mapping[str, Any]) -> None:
    """Entry point of a Ray Train worker; `place` holds run_dir and epoch."""
    session = Session(place["run_dir"], place["epoch"])
    stacks.register(session.path, "trainer")
    Worker(session).run()


class Worker:
    """One rank. Life: restored -> (asking -> training -> checkpointed -> published) per generation -> returned."""

    def __init__(self, session: Session) -> None:
        import ray.train
        import torch

        from actors.material import Material
        from rlloop.recipes.build import build_generator

        self.session, self.config, self.plan = session, session.config, session.plan
        context = ray.train.get_context()
        self.ranks = Ranks(context.get_world_rank(), context.get_world_size())
        torch.set_num_threads(self.config.trainer.threads)
        torch.manual_seed(self.config.seed)
        generator = build_generator(self.config)
        self.checkpointer = Checkpointer(session, self.ranks, generator)
        self.restored = self.checkpointer.restore()
        self.engine = self.checkpointer.engine
        self.material = Material(session, generator, self.checkpointer.device, self._ask)
        self.reporter = Reporter(session, self.restored.points)
        self.turns = Turns(self.ranks, self.checkpointer, self.reporter)
        self.averages, self.averages_state = None, self.restored.averages
        self.problem = ""  # what rank 0 met outside of a collective: it ends the run at the next step

    # ---- the main path

    def run(self) -> None:
        """Trains generation after generation until the plan is done or the run is stopped."""
        marker = self.restored.marker
        self._report("restored")
        self.checkpointer.publish(marker.version)
        try:
            for k in range(marker.version, self.plan.num_versions):
                self._generation(k, first_step=marker.step if k == marker.version else 0)
        except Stopped as stopped:
            self._report_last(f"stopped: {stopped}")
            return
        self._report_last("done")

    def _generation(self, k: int, first_step: int) -> None:
        from actors.sharded_state import reset_rank_state

        kind, selected = self._ask(k)
        self.checkpointer.set_variant(k + 1)
        if k > 0 and first_step == 0 and self.plan.stage_start(k) == k:
            reset_rank_state(self.engine)
        if kind == "rows" and self.plan.steps_of(k):
            self._train(k, selected, first_step)
        if self.averages and self._ends_stage(k):
            self._keep_averages(self.averages.finish)
        self._abort_if_any(self.ranks.first_of(self.problem))
        self._report(f"checkpointing version {k + 1}")
        self._abort_if_any(self.checkpointer.save(k + 1, 0, self.reporter.points, self.averages))
        self.checkpointer.publish(k + 1)

    def _ends_stage(self, k: int) -> bool:
        return k + 1 == self.plan.num_versions or self.plan.stage_start(k + 1) == k + 1

    def _train(self, k: int, selected: Selected, first_step: int) -> None:
        from actors.learner import ahead

        stage = self.plan.stage_of(k)
        learner = self.material.learner(k, stage, selected)
        self._begin_averages(stage)
        before = self.plan.steps_before(k) - self.plan.steps_before(self.plan.stage_start(k))
        phases = [(phase, n) for phase in stage.phases for n in range(phase.updates)]

        def make(step: int) -> list[Batch]:
            return learner.data.micro_batches(step, phases[step][0], self.ranks.rank, self.ranks.world)

        for step, parts in ahead(make, range(first_step, len(phases))):
            phase, place = phases[step]
            point = self._step(learner, parts, step, phase.rate(place), phase.batch_size / self.ranks.world)
            if self.averages:
                self._keep_averages(partial(self.averages.update, self.engine.module, before + step + 1))
            self.reporter.add(point)
            turn = self._turn(k)
            if not np.isfinite(point.loss) or not np.isfinite(point.grad_norm):
                self._abort_if_any(
                    f"step {point.step}: loss {point.loss}, gradient norm {point.grad_norm}; lower the learning rate"
                )
            if step + 1 < len(phases):  # else the generation's own checkpoint follows, also on a stop
                self._between_steps(k, step + 1, turn)

    def _between_steps(self, k: int, done: int, turn: Turn) -> None:
        """A checkpoint inside generation k, where one is due after `done` of its updates."""
        if turn.stop or turn.saves or done % self.config.trainer.checkpoint_every == 0:
            self._report(f"checkpointing step {self.plan.steps_before(k) + done}")
            self._abort_if_any(self.checkpointer.save(k, done, self.reporter.points, self.averages))
        if turn.stop:
            raise Stopped(turn.stop)

    def _step(self, learner: Learner, batches: Sequence[Batch], step: int, rate: float, share: float) -> TrainPoint:
        began = time.monotonic()
        means = self.ranks.means(learner.update(self.engine, batches, rate, share))
        norm = self.engine.get_global_grad_norm()
        return TrainPoint(
            step=self.plan.steps_before(learner.data.k) + step + 1,
            generation=learner.data.k,
            loss=means.pop("loss"),
            learning_rate=rate,
            grad_norm=float(norm or 0.0),
            seconds=time.monotonic() - began,
            time=time.time(),
            metrics=means,
        )

    # ---- averages of the weights

    def _begin_averages(self, stage: Stage) -> None:
        """Rank 0 averages the weights of a stage, from its begin or from the checkpoint's state."""
        from actors.averages import Averages

        if not self.config.trainer.ema_sigmas or not self.ranks.is_first:
            return
        if self.averages is None:
            self.averages = Averages(self.session.path, self.config.trainer)
        (name, state), self.averages_state = self.averages_state or ("", None), None
        self.averages.begin(stage.name, state if name == stage.name else None)

    def _keep_averages(self, keep: Callable[[], None]) -> None:
        """A full disk ends the run at the next step: raised here, it would leave the other ranks waiting."""
        try:
            keep()
        except (OSError, SafetensorError) as error:
            self.problem = f"{self.session.path / 'ema'}: cannot write averages ({error}); free space and repeat"

    # ---- answers that every rank shares

    def _ask(self, k: int) -> tuple[str, Any]:
        """selection(k), asked by rank 0 and broadcast, at most BROADCAST_EVERY_S apart.

        Raises:
            Stopped: the buffer answers stop.
        """
        while True:
            answer = self.ranks.broadcast(self._poll(k) if self.ranks.is_first else None)
            if answer[0] == "stop":
                raise Stopped(answer[1])
            if answer[0] != "wait":
                return answer

    def _poll(self, k: int) -> tuple[str, Any]:
        deadline = time.monotonic() + BROADCAST_EVERY_S
        answer = self.session.call("trainer", "buffer", "selection", k)
        if answer[0] == "wait":
            self._report(f"waiting for cohort {k}")
            self._look_at_store(k)
        while answer[0] == "wait" and time.monotonic() < deadline:
            time.sleep(POLL_S)
            answer = self.session.call("trainer", "buffer", "selection", k)
        if answer[0] in ("rows", "skip"):
            self._look_at_store(k)
        return answer

    def _look_at_store(self, k: int) -> None:
        """Version k was put into the store before generation k is asked for: it is there still.

        Raises:
            RuntimeError: a store that was restarted cannot read it. Train then starts this group anew, which falls
                back to the checkpoint before, as the store did, and makes the version again.
        """
        stored = self.session.call("trainer", "store", "newest")
        if stored < k:
            raise RuntimeError(
                f"the checkpoint of version {k} is damaged, the newest valid one is of version {stored}: the trainer "
                "starts anew from there"
            )

    def _turn(self, k: int) -> Turn:
        """Reports the step; answers whether to stop or to save, the same on every rank."""
        if self.problem:
            self.session.call("trainer", "buffer", "stop", self.problem)
        return self.turns.take(self.problem, f"training generation {k}")

    def _report(self, state: str) -> None:
        if self.ranks.is_first:
            self.reporter.send(state)

    def _report_last(self, state: str) -> None:
        if self.ranks.is_first:
            self.reporter.send_last(state)

    def _abort_if_any(self, reason: str) -> None:
        """Ends the run where there is a reason, which is the same on every rank."""
        if reason and self.ranks.is_first:
            self.session.call("trainer", "buffer", "stop", reason)
        if reason:
            raise Stopped(reason)
