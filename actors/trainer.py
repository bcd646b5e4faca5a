"""Trainer: one long TorchTrainer.fit() with DeepSpeed inside; this is what each of its workers runs.

Rank 0 asks the buffer by number and broadcasts every answer, so no rank ever waits alone. Only the end of a generation
is published, and only after its marker.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from actors.session import Session
from rlloop.config import Phase
from rlloop.data.rollouts import Row
from rlloop.loop import checkpoints
from rlloop.loop.snapshot import TrainPoint

log = logging.getLogger(__name__)
POLL_S = 0.2
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

        self.session, self.config, self.plan = session, session.config, session.plan
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        torch.set_num_threads(self.config.trainer.threads)
        torch.manual_seed(self.config.seed)
        self.generator = build_generator(self.config)
        self.digest = self.config.digest()
        self.stop_answer = None
        self.restored = self._restore()

    # ---- the main path

    def run(self) -> None:
        """Trains generation after generation until the plan is done or the run is stopped."""
        marker = self.restored
        self._report("restored", [])
        self._publish(marker.version)
        try:
            for k in range(marker.version, self.plan.num_versions):
                self._generation(k, first_step=marker.step if k == marker.version else 0)
        except Stopped as stopped:
            self._report(f"stopped: {stopped}", [])
            return
        self._report("done", [])

    def _generation(self, k: int, first_step: int) -> None:
        from actors.sharded_state import reset_rank_state

        kind, rows = self._ask(k)
        if k > 0 and first_step == 0 and self.plan.generations[k].stage != self.plan.generations[k - 1].stage:
            reset_rank_state(self.engine)
        if kind == "rows":
            self._train(k, rows, first_step)
        self._report(f"checkpointing version {k + 1}", [])
        self._checkpoint(k + 1, 0)
        self._publish(k + 1)

    def _train(self, k: int, rows: Sequence[Row], first_step: int) -> None:
        sources = self._sources(k, rows)
        phases = [(phase, n) for phase in self.plan.stage_of(k).phases for n in range(phase.updates)]
        for step, (phase, phase_step) in enumerate(phases):
            if step < first_step:
                continue
            point = self._step(k, step, phase, phase_step, sources)
            reason = self._should_stop(k, point)
            if not np.isfinite(point.loss) or not np.isfinite(point.grad_norm):
                self._abort(
                    f"step {point.step}: loss {point.loss}, gradient norm {point.grad_norm}; lower the learning rate"
                )
            done = step + 1
            if done == len(phases):
                return  # the generation's own checkpoint follows, also on a stop
            if reason or done % self.config.trainer.checkpoint_every == 0:
                self._report(f"checkpointing step {point.step}", [])
                self._checkpoint(k, done)
            if reason:
                raise Stopped(reason)

    def _step(
        self, k: int, step: int, phase: Phase, phase_step: int, sources: Mapping[str, Sequence[Row]]
    ) -> TrainPoint:
        began = time.monotonic()
        rate = phase.rate(phase_step)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        batch = self._batch(k, step, phase, sources)
        loss = self.algorithm(k).loss(self.engine, batch)
        self.engine.backward(loss)
        self.engine.step()
        norm, value = self.engine.get_global_grad_norm(), self._mean(loss)
        seconds = time.monotonic() - began
        number = self.plan.steps_before(k) + step + 1
        return TrainPoint(number, k, value, rate, float(norm or 0.0), seconds, time.time())

    # ---- data

    def _sources(self, k: int, rows: Sequence[Row]) -> dict[str, Sequence[Row]]:
        """Rows of every selection that a phase of generation k reads."""
        sources: dict[str, Sequence[Row]] = {"current": rows}
        for name in sorted({s for phase in self.plan.stage_of(k).phases for s in phase.sources} - {"current"}):
            earlier = k - 1 if name == "previous" else int(name.removeprefix("generation:"))
            kind, found = self._ask(earlier) if 0 <= earlier < k else ("skip", [])
            sources[name] = found if kind == "rows" else []
        return sources

    def _batch(self, k: int, step: int, phase: Phase, sources: Mapping[str, Sequence[Row]]):
        """This rank's slice of the global batch; every draw depends on (seed, stage, step, index) alone."""
        import torch

        from rlloop.algorithms.base import Batch
        from rlloop.algorithms.draws import draw_example

        stage, share = self.plan.stage_of(k), phase.batch_size // self.world
        counts = {name: len(rows) for name, rows in sources.items()}
        number, stage_number = self.plan.steps_before(k) + step, self.plan.generations[k].stage
        draws = [
            draw_example(
                (self.config.seed, stage_number, number, index),
                counts, phase.sources, self.generator.latent_shape, stage.text_drop, stage.score_drop,
                stage.score_drop_mode,
            )
            for index in range(self.rank * share, (self.rank + 1) * share)
        ]  # fmt: skip
        rows = [sources[draw.source][draw.row] for draw in draws]
        features = self.generator.encode_prompts([row.prompt for row in rows])
        null = self.generator.null_conditions(len(rows))
        drops = torch.tensor([draw.drops_text for draw in draws])
        conditions = {
            name: torch.where(drops.view(-1, *[1] * (value.dim() - 1)), null[name], value).to(self.device)
            for name, value in features.items()
        }
        labels = [
            np.nan if d.drops_score or row.score is None else row.score for d, row in zip(draws, rows, strict=True)
        ]
        latents = torch.from_numpy(np.stack([row.latents for row in rows]).astype(np.float32))
        return Batch(
            latents=latents.to(self.device),
            noise=torch.stack([draw.noise for draw in draws]).to(self.device),
            t=torch.tensor([draw.t for draw in draws], dtype=torch.float32, device=self.device),
            conditions=conditions,
            score=torch.tensor(labels, dtype=torch.float32, device=self.device),
        )

    def algorithm(self, k: int):
        from rlloop.algorithms.base import load_algorithm

        return load_algorithm(self.plan.stage_of(k).algorithm)

    # ---- answers that every rank shares

    def _ask(self, k: int) -> tuple[str, Any]:
        """selection(k), asked by rank 0 and broadcast, at most BROADCAST_EVERY_S apart.

        Raises:
            Stopped: the buffer answers stop.
        """
        while True:
            answer = self._broadcast(self._poll(k) if self.rank == 0 else None)
            if answer[0] == "stop":
                raise Stopped(answer[1])
            if answer[0] != "wait":
                return answer

    def _poll(self, k: int) -> tuple[str, Any]:
        deadline = time.monotonic() + BROADCAST_EVERY_S
        answer = self.session.call("trainer", "buffer", "selection", k)
        if answer[0] == "wait":
            self._report(f"waiting for cohort {k}", [])
        while answer[0] == "wait" and time.monotonic() < deadline:
            time.sleep(POLL_S)
            answer = self.session.call("trainer", "buffer", "selection", k)
        return answer

    def _should_stop(self, k: int, point: TrainPoint) -> str:
        """The stop reason, or ''; rank 0 reports the step and reads the answer to its last report."""
        import ray

        reason = ""
        if self.rank == 0:
            if self.stop_answer is not None and ray.wait([self.stop_answer], timeout=0)[0]:
                with contextlib.suppress(ray.exceptions.RayActorError):  # it restarts; the next answer counts
                    reason = ray.get(self.stop_answer)
            self.stop_answer = self._report(f"training generation {k}", [point])
        return self._broadcast(reason)

    def _report(self, state: str, points: list[TrainPoint]):
        if self.rank == 0:
            with contextlib.suppress(ValueError):  # no buffer at this moment: a gauge is lost, nothing else
                return self.session.actor("buffer").progress.remote(state, points)
        return None

    def _abort(self, reason: str) -> None:
        if self.rank == 0:
            self.session.call("trainer", "buffer", "stop", reason)
        raise Stopped(reason)

    def _broadcast(self, value: Any) -> Any:
        import torch.distributed as dist

        box = [value]
        if self.world > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def _barrier(self) -> None:
        import torch.distributed as dist

        if self.world > 1:
            dist.barrier()

    def _mean(self, loss) -> float:
        """The loss over the global batch."""
        import torch.distributed as dist

        value = loss.detach().clone()
        if self.world > 1:
            dist.all_reduce(value)
        return float(value) / self.world

    # ---- checkpoints and publishing

    def _restore(self) -> checkpoints.Marker:
        """Loads the newest marked checkpoint, chosen by rank 0; builds the engine on it."""
        from actors.engine import build_engine
        from actors.sharded_state import load_rank_state
        from rlloop.recipes.sampler import load_arrays

        path, marker = self._broadcast(checkpoints.newest(self.session.path, self.digest) if self.rank == 0 else None)
        load_arrays(self.generator.network, checkpoints.read_weights(path))
        self.engine, self.device = build_engine(self.generator.network, self.config)
        part = path / f"rank{self.rank}.safetensors"
        if marker.world_size == self.world and part.name in marker.files:
            load_rank_state(self.engine, checkpoints.load_file(str(part)))
        elif marker.world_size:
            log.warning(
                "%s is of %d ranks, here are %d: the optimizer starts fresh", path, marker.world_size, self.world
            )
        return marker

    def _checkpoint(self, version: int, step: int) -> None:
        """Every rank writes its part, then rank 0 the marker."""
        from actors.sharded_state import save_rank_state
        from rlloop.recipes.sampler import network_arrays

        path = checkpoints.folder(self.session.path, version, step)
        if self.rank == 0:
            shutil.rmtree(path, ignore_errors=True)
        self._barrier()
        problem = ""
        try:
            checkpoints.write_arrays(path / f"rank{self.rank}.safetensors", save_rank_state(self.engine))
            if self.rank == 0:
                weights = network_arrays(self.engine.module)
                checkpoints.write_arrays(path / checkpoints.WEIGHTS, weights)
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
                weights_checksum=weights_checksum,
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
        import torch.distributed as dist

        problems = [problem]
        if self.world > 1:
            problems = [""] * self.world
            dist.all_gather_object(problems, problem)
        first = next(filter(None, problems), "")
        if first:
            self._abort(first)

    def _publish(self, version: int) -> None:
        """To the store, then to the buffer; both idempotent. Version 0 was published by the driver's checkpoint."""
        if self.rank == 0 and version > 0:
            path = checkpoints.folder(self.session.path, version)
            marker, arrays = checkpoints.read_marker(path), checkpoints.read_weights(path)
            self.session.call("trainer", "store", "publish", version, marker.stage, marker.weights_checksum, arrays)
            self.session.call("trainer", "buffer", "published", version)
        self._barrier()
