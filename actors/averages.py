"""Rank 0's averages of the weights over a stage's updates, stored as they go: any width can be had afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import nn

from rlloop.config import Trainer
from rlloop.loop import checkpoints
from rlloop.models.ema import PostHocEma
from rlloop.recipes.averages import snapshot_path

STATE = "ema.safetensors"


class Averages:
    """Life, per stage: begun (fresh or from a checkpoint) -> updated ... -> begun for the next stage.

    Averages begin anew with every stage, as every published stage is a training run of its own.
    """

    def __init__(self, run_dir: Path, settings: Trainer) -> None:
        self.run_dir, self.settings, self.stage = run_dir, settings, ""
        self.ema = PostHocEma(settings.ema_sigmas)

    def begin(self, stage: str, state: Mapping[str, np.ndarray] | None = None) -> None:
        """A stage begins, or goes on from a checkpoint's state."""
        if stage != self.stage or state is not None:
            self.stage, self.ema = stage, PostHocEma(self.settings.ema_sigmas)
        if state is not None:
            self.ema.load(state)

    def update(self, network: nn.Module, step: int) -> None:
        """After update `step` of the stage, from 1. Stores every track every `ema_every` updates."""
        self.ema.update(network.state_dict(), step)
        if step % self.settings.ema_every == 0:
            self._store()

    def finish(self) -> None:
        """The stage ends: its last update is stored, whatever `ema_every` is."""
        if self.ema.step % self.settings.ema_every:
            self._store()

    def _store(self) -> None:
        for sigma, arrays in self.ema.snapshots():
            checkpoints.write_arrays(snapshot_path(self.run_dir, self.stage, sigma, self.ema.step), arrays)

    def save(self, folder: Path) -> None:
        """Its part of a checkpoint."""
        name = np.frombuffer(self.stage.encode(), np.uint8)
        checkpoints.write_arrays(folder / STATE, {**self.ema.state(), "stage": name})


def read_state(folder: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Stage and state of `Averages.save`: a stage that begins with this checkpoint has another name."""
    state = checkpoints.load_file(str(folder / STATE))
    return state.pop("stage").tobytes().decode(), state
