"""Trainer: one long TorchTrainer.fit() with DeepSpeed inside; this is what each of its workers runs.

Rank 0 asks the buffer by number and broadcasts every answer, so no rank ever waits alone. Only the end of a generation
is published, and only after its marker.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from actors.ranks import Ranks
from actors.session import Session
from rlloop.config import Stage
from rlloop.data.rollouts import Row, read_selected
from rlloop.loop import checkpoints
from rlloop.loop.records import Selected
from rlloop.loop.snapshot import TrainPoint

if TYPE_CHECKING:
    from actors.learner import Learner
    from rlloop.algorithms.base import Batch

log = logging.getLogger(__name__)
POLL_S = 0.2
POINTS = "points.json"
KEPT_POINTS, TAIL_POINTS = 5000, 64  # in a checkpoint, in a report
BROADCAST_EVERY_S = 10.0


class Stopped(Exception):
    """The run is to end; carries the reason."""


def train_worker(place: Mapping[str, Any]) -> None:
    """Entry point of a Ray Train worker; `place` holds run_dir and epoch."""
    Worker(Session(place["run_dir"], place["epoch"])).run()


class Worker:
    """One rank. Life: restored -> (asking -> training -> checkpointed -> published) per generation -> returned."""

    def __init__(self, session: Session) -> None:
        import ray.train
        import torch

        from rlloop.recipes.build import build_generator
        from rlloop.recipes.sampler import network_variant

        self.session, self.config, self.plan = session, session.config, session.plan
        context = ray.train.get_context()
        self.ranks = Ranks(context.get_world_rank(), context.get_world_size())
        self.rank, self.world = self.ranks.rank, self.ranks.world
        torch.set_num_threads(self.config.trainer.threads)
        torch.manual_seed(self.config.seed)
        self.generator = build_generator(self.config)
        self.own_variant = network_variant(self.generator.network)
        self.stream, self.reference, self.averages = None, None, None
        self.points: deque[TrainPoint] = deque(maxlen=KEPT_POINTS)
        self.problem = ""  # what rank 0 met outside of a collective: it ends the run at the next step
        self.digest = self.config.digest()
        self.stop_answer = None
        self.restored = self._restore()

    # ---- the main path

    def run(self) -> None:
        """Trains generation after generation until the plan is done or the run is stopped."""
        marker = self.restored
        self._report("restored", KEPT_POINTS)
        self._publish(marker.version)
        try:
            for k in range(marker.version, self.plan.num_versions):
                self._generation(k, first_step=marker.step if k == marker.version else 0)
        except Stopped as stopped:
            self._report(f"stopped: {stopped}")
            return
        self._report("done")

    def _generation(self, k: int, first_step: int) -> None:
        from actors.sharded_state import reset_rank_state
        from rlloop.recipes.sampler import set_variant

        kind, selected = self._ask(k)
        set_variant(self.generator.network, self.plan.variant_of(k + 1) or self.own_variant)
        if k > 0 and first_step == 0 and self.plan.stage_start(k) == k:
            reset_rank_state(self.engine)
        if kind == "rows" and self.plan.steps_of(k):
            self._train(k, selected, first_step)
        if self.averages and self._ends_stage(k):
            self._keep_averages(self.averages.finish)
        self._abort_if_any(self.problem)
        self._report(f"checkpointing version {k + 1}")
        self._checkpoint(k + 1, 0)
        self._publish(k + 1)

    def _ends_stage(self, k: int) -> bool:
        return k + 1 == self.plan.num_versions or self.plan.stage_start(k + 1) == k + 1

    def _train(self, k: int, selected: Selected, first_step: int) -> None:
        from actors.learner import ahead

        stage = self.plan.stage_of(k)
        learner = self._learner(k, stage, selected)
        self._begin_averages(stage)
        before = self.plan.steps_before(k) - self.plan.steps_before(self.plan.stage_start(k))
        phases = [(phase, n) for phase in stage.phases for n in range(phase.updates)]

        def make(step: int) -> list[Batch]:
            return learner.data.micro_batches(step, phases[step][0], self.rank, self.world)

        for step, parts in ahead(make, range(first_step, len(phases))):
            point = self._step(learner, parts, step, phases[step][0].rate(phases[step][1]))
            if self.averages:
                self._keep_averages(partial(self.averages.update, self.engine.module, before + step + 1))
            self.points.append(point)
            reason = self._should_stop(k)
            if not np.isfinite(point.loss) or not np.isfinite(point.grad_norm):
                self._abort(
                    f"step {point.step}: loss {point.loss}, gradient norm {point.grad_norm}; lower the learning rate"
                )
            done = step + 1
            if done == len(phases):
                return  # the generation's own checkpoint follows, also on a stop
            if reason or done % self.config.trainer.checkpoint_every == 0:
                self._report(f"checkpointing step {point.step}")
                self._checkpoint(k, done)
            if reason:
                raise Stopped(reason)

    def _step(self, learner: Learner, batches: Sequence[Batch], step: int, rate: float) -> TrainPoint:
        began = time.monotonic()
        values = learner.update(self.engine, batches, rate)
        means = self.ranks.means(values)
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

    # ---- what a generation trains with

    def _begin_averages(self, stage: Stage) -> None:
        """Rank 0 averages the weights of a stage, from its begin or from the checkpoint's state."""
        from actors.averages import Averages

        if not self.config.trainer.ema_sigmas or not self.ranks.is_first:
            return
        if self.averages is None:
            self.averages = Averages(self.session.path, self.config.trainer)
        (name, state), self.restored_averages = self.restored_averages or ("", None), None
        self.averages.begin(stage.name, state if name == stage.name else None)

    def _keep_averages(self, keep: Callable[[], None]) -> None:
        """A full disk ends the run at the next step: raised here, it would leave the other ranks waiting."""
        try:
            keep()
        except (OSError, SafetensorError) as error:
            self.problem = f"{self.session.path / 'ema'}: cannot write averages ({error}); free space and repeat"

    def _learner(self, k: int, stage: Stage, selected: Selected) -> Learner:
        from actors.learner import Learner
        from rlloop.algorithms.base import load_algorithm
        from rlloop.recipes.batches import GenerationData, units

        algorithm = load_algorithm(stage.algorithm, stage.options)
        sources = {name: units(found, algorithm.takes_pairs) for name, found in self._sources(k, selected).items()}
        data = GenerationData(self.config, self.plan, k, self.generator, sources, self._stream(k), self.device)
        self.reference = self._reference(k) if algorithm.needs_reference else None
        reference = self.reference and self.reference[1]
        return Learner(algorithm, data, reference, self.config.trainer.precision)

    def _sources(self, k: int, selected: Selected) -> dict[str, Sequence[Row]]:
        """Rows of every selection that a phase of generation k reads, with the label of its stage."""
        stage, chosen = self.plan.stage_of(k), {"current": selected}
        for name in sorted({name for phase in stage.phases for name in phase.sources} - {"current", "corpus"}):
            earlier = self.plan.generation_named(name, k)
            kind, found = self._ask(earlier) if 0 <= earlier < k else ("skip", None)
            chosen[name] = found if kind == "rows" else Selected(earlier, ())
        path, label = self.session.path, stage.label_score
        return {name: read_selected(path, one.examples, one.advantages, label) for name, one in chosen.items()}

    def _stream(self, k: int):
        """The corpus in this stage's order, where a phase of it reads the corpus."""
        from rlloop.data.corpus import open_corpus
        from rlloop.data.corpus_stream import CorpusStream

        number = self.plan.generations[k].stage
        if self.stream is not None and self.stream[0] != number:
            self.stream[1].close()
            self.stream = None
        if self.stream is None and any("corpus" in phase.sources for phase in self.plan.stage_of(k).phases):
            corpus = open_corpus(self.session.corpus)
            self.stream = number, CorpusStream(corpus, self.config.seed, number, self.config.corpus_window)
        return self.stream and self.stream[1]

    def _reference(self, k: int):
        """(version, network) as the stage began, frozen; it has no optimizer."""
        from copy import deepcopy

        from rlloop.recipes.sampler import load_arrays

        start = self.plan.stage_start(k)
        if self.reference is None or self.reference[0] != start:
            path = checkpoints.folder(self.session.path, start)
            checkpoints.read_marker(path)
            network = deepcopy(self.generator.network).eval().requires_grad_(False)
            load_arrays(network, checkpoints.read_weights(path))
            return start, network.to(self.device)
        return self.reference

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
        while answer[0] == "wait" and time.monotonic() < deadline:
            time.sleep(POLL_S)
            answer = self.session.call("trainer", "buffer", "selection", k)
        return answer

    def _should_stop(self, k: int) -> str:
        """The stop reason, or ''; rank 0 reports the step and reads the answer to its last report."""
        import ray

        reason = self.problem
        if self.rank == 0:
            if self.problem:
                self.session.call("trainer", "buffer", "stop", self.problem)
            if self.stop_answer is not None and ray.wait([self.stop_answer], timeout=0)[0]:
                with contextlib.suppress(ray.exceptions.RayActorError):  # it restarts; the next answer counts
                    reason = reason or ray.get(self.stop_answer)
            self.stop_answer = self._report(f"training generation {k}")
        return self.ranks.broadcast(reason)

    def _report(self, state: str, tail: int = TAIL_POINTS):
        """Sends the last points, more than the new one: a buffer that was restarted meanwhile lacks some."""
        if self.rank == 0:
            points = list(islice(reversed(self.points), tail))[::-1]
            with contextlib.suppress(ValueError):  # no buffer at this moment; the next report makes up for it
                return self.session.actor("buffer").progress.remote(state, points)
        return None

    def _abort(self, reason: str) -> None:
        if self.rank == 0:
            self.session.call("trainer", "buffer", "stop", reason)
        raise Stopped(reason)

    # ---- checkpoints and publishing

    def _restore(self) -> checkpoints.Marker:
        """Loads the newest marked checkpoint, chosen by rank 0; builds the engine on it."""
        from actors.engine import build_engine
        from actors.sharded_state import load_rank_state
        from rlloop.recipes.sampler import load_arrays, set_variant

        found = checkpoints.newest(self.session.path, self.digest) if self.ranks.is_first else None
        path, marker = self.ranks.broadcast(found)
        set_variant(self.generator.network, self.plan.variant_of(marker.version) or self.own_variant)
        load_arrays(self.generator.network, checkpoints.read_weights(path))
        self.engine, self.device = build_engine(self.generator.network, self.config)
        if POINTS in marker.files:  # those that the curves lacked when this was written; what they have stands
            self.points.extend(TrainPoint(**point) for point in json.loads((path / POINTS).read_text()))
        self.restored_averages = self._read_averages(path, marker) if self.ranks.is_first else None
        part = path / f"rank{self.rank}.safetensors"
        if marker.world_size == self.world and part.name in marker.files:
            load_rank_state(self.engine, checkpoints.load_file(str(part)))
        elif marker.world_size:
            log.warning(
                "%s is of %d ranks, here are %d: the optimizer starts fresh", path, marker.world_size, self.world
            )
        return marker

    def _read_averages(self, path: Path, marker: checkpoints.Marker) -> tuple[str, dict] | None:
        """Stage and averages of a checkpoint inside it; a stage that begins with it begins its averages anew."""
        from actors.averages import STATE, read_state

        return read_state(path) if STATE in marker.files else None

    def _checkpoint(self, version: int, step: int) -> None:
        """Every rank writes its part, then rank 0 the marker."""
        from actors.sharded_state import save_rank_state
        from rlloop.recipes.sampler import network_arrays

        path = checkpoints.folder(self.session.path, version, step)
        if self.rank == 0:
            shutil.rmtree(path, ignore_errors=True)
        self.ranks.barrier()
        problem = ""
        try:
            checkpoints.write_arrays(path / f"rank{self.rank}.safetensors", save_rank_state(self.engine))
            if self.ranks.is_first:
                weights = network_arrays(self.engine.module)
                checkpoints.write_arrays(path / checkpoints.WEIGHTS, weights)
                (path / POINTS).write_text(json.dumps([asdict(point) for point in self.points]))
                if self.averages:
                    self.averages.save(path)
        except (OSError, SafetensorError) as error:  # a full disk: the checkpoint before stays the newest
            problem = f"{path}: cannot write the checkpoint ({error}); free space there and repeat the command"
        self._abort_if_any(problem)
        if self.rank == 0:
            problem = self._mark(path, version, step, checkpoints.arrays_checksum(weights))
        self._abort_if_any(problem)

    def _mark(self, path: Path, version: int, step: int, weights_checksum: int) -> str:
        """Marks a complete checkpoint and removes old ones; answers what went wrong, or ''."""
        stage = self.plan.generations[min(version, self.plan.num_versions - 1)].stage
        try:
            checkpoints.write_marker(
                path, version=version, step=step, stage=stage, digest=self.digest, world_size=self.world,
                weights_checksum=weights_checksum, variant=self.plan.variant_of(version),
            )  # fmt: skip
            versions = self.plan.versions_to_keep(version, self.config.loop.max_staleness)
            if self.config.evaluation.alarm.action == "rollback":
                from rlloop.recipes.evaluations import evaluated_versions

                versions |= evaluated_versions(self.session.path)
            checkpoints.prune(self.session.path, self.config.trainer.keep_checkpoints, versions)
        except OSError as error:
            return f"{path}: cannot mark the checkpoint ({error}); free space there and repeat the command"
        return ""

    def _abort_if_any(self, problem: str) -> None:
        """A barrier; ends the run on every rank when any of them has a problem."""
        first = next(filter(None, self.ranks.gather(problem)), "")
        if first:
            self._abort(first)

    def _publish(self, version: int) -> None:
        """To the store, then to the buffer; both idempotent. Version 0 was published by the driver's checkpoint."""
        if self.rank == 0 and version > 0:
            path = checkpoints.folder(self.session.path, version)
            marker, arrays = checkpoints.read_marker(path), checkpoints.read_weights(path)
            self.session.call("trainer", "store", "publish", version, marker.stage, marker.weights_checksum, arrays)
            self.session.call("trainer", "buffer", "published", version)
        self.ranks.barrier()
