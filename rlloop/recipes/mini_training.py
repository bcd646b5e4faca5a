"""A training loop with a clock: runs for so many minutes, and goes on where a killed process stopped.

The learning rate follows the share of the minutes spent, so the same recipe fits a slow laptop and a fast one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Schedule:
    """Peak learning rate after `warmup_steps`, then a half cosine to `final_lr` over `minutes` of training time."""

    minutes: float
    peak_lr: float
    final_lr: float
    warmup_steps: int = 100
    ema_decay: float = 0.999
    checkpoint_every_s: float = 120.0
    log_every: int = 50

    def learning_rate(self, step: int, seconds: float) -> float:
        """Learning rate of update `step` after `seconds` of training."""
        share = min(seconds / (60 * self.minutes), 1.0)
        cosine = self.final_lr + (self.peak_lr - self.final_lr) * 0.5 * (1 + math.cos(math.pi * share))
        return cosine * min(1.0, (step + 1) / self.warmup_steps)


@dataclass
class Progress:
    """Where a training stands: updates done and seconds spent in them, over all its processes."""

    step: int = 0
    seconds: float = 0.0


def train(
    model: nn.Module,
    loss_of: Callable[[int, torch.Generator], Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    checkpoint: Path,
) -> nn.Module:
    """Minimises `loss_of(step, generator)` until the minutes are spent; resumes from `checkpoint` if it exists.

    Args:
        optimizer: its learning rates are set here; a group's "scale" multiplies its own.
        loss_of: the loss of one update; the generator is seeded by the step, so a resumed run draws what it would have.
    Returns:
        the exponential moving average of `model`.
    Raises:
        ValueError: a loss is not finite.
    """
    ema = deepcopy(model).requires_grad_(False)
    progress = _restore(checkpoint, model, ema, optimizer)
    last_save, recent = time.monotonic(), []
    while progress.seconds < 60 * schedule.minutes:
        start = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = group.get("scale", 1.0) * schedule.learning_rate(progress.step, progress.seconds)
        loss = loss_of(progress.step, torch.Generator().manual_seed(progress.step))
        if not torch.isfinite(loss):
            raise ValueError(f"{checkpoint.stem}: loss {loss.item()} at step {progress.step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        _update_ema(ema, model, min(schedule.ema_decay, (1 + progress.step) / (10 + progress.step)))
        recent.append(loss.item())
        progress.step += 1
        progress.seconds += time.monotonic() - start
        if progress.step % schedule.log_every == 0:
            _report(checkpoint.stem, progress, schedule, recent)
            recent.clear()
        if time.monotonic() - last_save > schedule.checkpoint_every_s:
            _save(checkpoint, model, ema, optimizer, progress)
            last_save = time.monotonic()
    _save(checkpoint, model, ema, optimizer, progress)
    return ema


@torch.no_grad()
def _update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)


def _report(name: str, progress: Progress, schedule: Schedule, losses: list[float]) -> None:
    pace = progress.seconds / progress.step
    left = schedule.minutes - progress.seconds / 60
    print(
        f"{name}: step {progress.step}, loss {sum(losses) / len(losses):.4f}, {pace:.3f} s a step, {left:.1f} min left",
        flush=True,
    )


def _save(path: Path, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    partial = path.with_suffix(".partial")
    state = {"model": model.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state | {"step": progress.step, "seconds": progress.seconds}, partial)
    partial.replace(path)  # a kill leaves the old file or the new one, never half of one


def _restore(path: Path, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        return Progress()
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    ema.load_state_dict(state["ema"])
    optimizer.load_state_dict(state["optimizer"])
    print(f"{path.stem}: goes on at step {state['step']}, {state['seconds'] / 60:.1f} min spent", flush=True)
    return Progress(state["step"], state["seconds"])
