"""The trainer's checkpoints: every rank writes its part, rank 0 the rest and the marker; and what they bring back.

What goes wrong is an answer that every rank gets, never an exception on one: the others would wait for it in the next
collective.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from actors.averages import STATE, Averages, read_state
from actors.ranks import Ranks
from actors.session import Session
from rlloop.loop import checkpoints
from rlloop.loop.points import read_points, write_points
from rlloop.loop.snapshot import TrainPoint
from rlloop.recipes.kept_clips import versions_kept

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Restored:
    """What the newest marked checkpoint brought back. `averages` is (stage, state) on rank 0, where there are any."""

    marker: checkpoints.Marker
    points: Sequence[TrainPoint]
    averages: tuple[str, dict] | None


class Checkpointer:
    """Life: restored -> saved -> marked -> (published, at the end of a generation) -> saved ..."""

    def __init__(self, session: Session, ranks: Ranks, generator: Any) -> None:
        from rlloop.recipes.sampler import network_variant

        self.session, self.config, self.plan, self.ranks = session, session.config, session.plan, ranks
        self.generator, self.own_variant = generator, network_variant(generator.network)
        self.digest, self.saved_at = session.config.digest(), time.monotonic()

    def set_variant(self, version: int) -> None:
        """Gives the network the score variant that a version has."""
        from rlloop.recipes.sampler import set_variant

        set_variant(self.generator.network, self.plan.variant_of(version) or self.own_variant)

    def restore(self) -> Restored:
        """Loads the newest marked checkpoint, chosen by rank 0; builds the engine on it, as `engine` and `device`."""
        from actors.engine import build_engine
        from rlloop.recipes.sampler import load_arrays

        found = (
            checkpoints.newest(self.session.path, self.digest, refused=self.session.note)
            if self.ranks.is_first
            else None
        )
        path, marker = self.ranks.broadcast(found)
        self.set_variant(marker.version)
        load_arrays(self.generator.network, checkpoints.read_weights(path))
        self.engine, self.device = build_engine(self.generator.network, self.config)
        self._load_rank_state(path, marker)
        averages = read_state(path) if self.ranks.is_first and STATE in marker.files else None
        return Restored(marker, read_points(path), averages)

    def _load_rank_state(self, path: Path, marker: checkpoints.Marker) -> None:
        """This rank's part of the optimizer; cut anew from all parts where they are of another number of ranks."""
        from actors.sharded_state import load_rank_state, reshard

        parts = [path / f"rank{rank}.safetensors" for rank in range(marker.world_size)]
        if not parts:  # version 0 has no optimizer
            return
        if len(parts) == self.ranks.world:
            load_rank_state(self.engine, checkpoints.load_file(str(parts[self.ranks.rank])))
            return
        log.warning("%s is of %d ranks, here are %d: its optimizer is cut anew", path, len(parts), self.ranks.world)
        whole = [checkpoints.load_file(str(part)) for part in parts]
        load_rank_state(self.engine, reshard(whole, self.engine, self.ranks.rank))

    def save(self, version: int, step: int, points: Sequence[TrainPoint], averages: Averages | None) -> str:
        """Writes and marks a checkpoint; answers what went wrong on any rank, or ''. A barrier."""
        path, problem = checkpoints.folder(self.session.path, version, step), ""
        if self.ranks.is_first:
            shutil.rmtree(path, ignore_errors=True)
        self.ranks.barrier()
        try:
            weights_checksum = self._write(path, points, averages)
        except (OSError, SafetensorError) as error:  # a full disk: the checkpoint before stays the newest
            problem = f"{path}: cannot write the checkpoint ({error}); free space there and repeat the command"
        problem = self.ranks.first_of(problem)
        if not problem and self.ranks.is_first:
            problem = self._mark(path, version, step, weights_checksum)
        self.saved_at = time.monotonic()
        return self.ranks.first_of(problem)

    def _write(self, path: Path, points: Sequence[TrainPoint], averages: Averages | None) -> int:
        """This rank's part, and on rank 0 what is of all; answers the checksum of the weights."""
        from actors.sharded_state import save_rank_state
        from rlloop.recipes.sampler import network_arrays

        checkpoints.write_arrays(path / f"rank{self.ranks.rank}.safetensors", save_rank_state(self.engine))
        if not self.ranks.is_first:
            return 0
        weights = network_arrays(self.engine.module)
        checkpoints.write_arrays(path / checkpoints.WEIGHTS, weights)
        write_points(path, points)
        if averages:
            averages.save(path)
        return checkpoints.arrays_checksum(weights)

    def _mark(self, path: Path, version: int, step: int, weights_checksum: int) -> str:
        """Marks a complete checkpoint and removes old ones; answers what went wrong, or ''."""
        stage = self.plan.generations[min(version, self.plan.num_versions - 1)].stage
        try:
            checkpoints.write_marker(
                path, version=version, step=step, stage=stage, digest=self.digest, world_size=self.ranks.world,
                weights_checksum=weights_checksum, variant=self.plan.variant_of(version),
            )  # fmt: skip
            versions = self.plan.versions_to_keep(version, self.config.loop.max_staleness)
            versions |= versions_kept(self.session.path)
            if self.config.evaluation.alarm.action == "rollback":
                from rlloop.recipes.evaluations import evaluated_versions

                versions |= evaluated_versions(self.session.path)
            checkpoints.prune(self.session.path, self.config.trainer.keep_checkpoints, versions, marked=path)
        except OSError as error:
            return f"{path}: cannot mark the checkpoint ({error}); free space there and repeat the command"
        return ""

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint of this process is older than trainer.checkpoint_minutes."""
        minutes = self.config.trainer.checkpoint_minutes
        return minutes is not None and time.monotonic() - self.saved_at > 60 * minutes

    def publish(self, version: int) -> None:
        """To the store, then to the buffer; both idempotent. Version 0 was published by the driver's checkpoint."""
        if self.ranks.is_first and version > 0:
            self.session.call("trainer", "store", "publish", version)
            self.session.call("trainer", "buffer", "published", version)
        self.ranks.barrier()
