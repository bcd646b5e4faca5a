"""Trains reward heads: one loop with early stopping, and the losses that it is given as functions.

A TuneJury learns from pairs, the mini heads from labels; both go through `fit`.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rlloop.rewards.tunejury import TuneJuryHead

Loss = Callable[[TuneJuryHead, Tensor], Tensor]  # a head and row numbers [B] to a scalar


@dataclass(frozen=True)
class Schedule:
    """When training ends: TuneJury's numbers (reference.md section 8.3)."""

    batch_size: int = 32
    max_epochs: int = 1000
    patience: int = 30
    min_delta: float = 1e-4


@dataclass(frozen=True)
class Epoch:
    """One pass: mean loss of its batches in training mode, and of the validation rows in evaluation mode after it.

    `is_better`: by more than the schedule's `min_delta` than the best before it, so that its weights were kept.
    """

    number: int
    train_loss: float
    val_loss: float
    is_better: bool


def preference_loss(features_a: Tensor, features_b: Tensor, target: Tensor) -> Loss:
    """Binary cross-entropy of P(a better) = sigmoid(s(a) - s(b)) (section 8.3).

    The batch norms see a and b in two passes: each side is normalised by its own batch.

    Args:
        features_a, features_b: [N, D]; target: [N] 1, 0, or 0.5 for a tie.
    """

    def loss(head: TuneJuryHead, rows: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(head(features_a[rows], features_b[rows]), target[rows])

    return loss


def ridge_loss(features: Tensor, labels: Tensor, ridge: float) -> Loss:
    """Half the mean squared error of a head's reward, plus ridge / 2 times its last layer's squared weights.

    Args:
        features: [N, D]; labels: [N].
    """

    def loss(head: TuneJuryHead, rows: Tensor) -> Tensor:
        error = F.mse_loss(head(features[rows]), labels[rows])
        return (error + ridge * head.net[-1].weight.square().sum()) / 2

    return loss


def fit(
    head: TuneJuryHead,
    loss: Loss,
    train: Tensor,
    val: Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    *,
    seed: int = 0,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> list[Epoch]:
    """Minimises `loss` over the training rows until the validation loss has stopped falling; leaves the best weights.

    Everything random, order and dropout, follows from the seed. A last batch of one row is left out of its epoch, for
    a batch norm has nothing to say of one.

    Args:
        train, val: row numbers.
        optimizer: of the head's parameters; may call the loss more than once a step, as L-BFGS does.
    Returns:
        every epoch; the head is in evaluation mode and has the weights of `kept_epoch`.
    Raises:
        ValueError: a loss is not finite.
    """
    epochs: list[Epoch] = []
    best, best_state, since = math.inf, head.state_dict(), 0
    with torch.random.fork_rng(devices=_cuda_devices(train)):
        torch.manual_seed(seed)
        while len(epochs) < schedule.max_epochs and since < schedule.patience:
            train_loss = _pass(head.train(), loss, train, optimizer, schedule.batch_size)
            with torch.no_grad():
                val_loss = loss(head.eval(), val).item()
            if not math.isfinite(train_loss + val_loss):
                raise ValueError(f"loss {train_loss} in training and {val_loss} in validation at epoch {len(epochs)}")
            is_better = val_loss < best - schedule.min_delta
            epochs.append(Epoch(len(epochs), train_loss, val_loss, is_better))
            on_epoch(epochs[-1])
            if is_better:
                best, best_state, since = val_loss, deepcopy(head.state_dict()), 0
            else:
                since += 1
    head.load_state_dict(best_state)
    return epochs


def kept_epoch(epochs: Sequence[Epoch]) -> Epoch:
    """The epoch whose weights `fit` leaves in the head; a later one may be better by less than `min_delta`."""
    return next(epoch for epoch in reversed(epochs) if epoch.is_better)


def _pass(head: TuneJuryHead, loss: Loss, rows: Tensor, optimizer: torch.optim.Optimizer, batch_size: int) -> float:
    total, seen = 0.0, 0
    for batch in rows[torch.randperm(len(rows)).to(rows.device)].split(batch_size):
        if len(batch) == 1 and seen:
            break

        def closure(batch: Tensor = batch) -> Tensor:
            optimizer.zero_grad()
            value = loss(head, batch)
            value.backward()
            return value

        total += optimizer.step(closure).item() * len(batch)
        seen += len(batch)
    return total / seen


def _cuda_devices(rows: Tensor) -> list[int]:
    return [rows.device.index or 0] if rows.device.type == "cuda" else []
