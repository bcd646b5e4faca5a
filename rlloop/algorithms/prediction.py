"""Asking a network about a batch: where its noisy latents are, and how far its velocities are off."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rlloop.algorithms.base import Batch, Predict
from rlloop.flow.path import interpolate, velocity_error


def velocities(predict: Predict, batch: Batch) -> Tensor:
    """What the network answers at x_t of every example: [B, L, D]."""
    x_t = interpolate(batch.latents, batch.noise, batch.t)
    return predict(x_t, batch.t, batch.conditions, batch.score)


def errors(predict: Predict, batch: Batch) -> Tensor:
    """Squared velocity error of every example, mean over [L, D], in float32: [B]."""
    return velocity_error(velocities(predict, batch), batch.latents, batch.noise)


def winners_and_losers(batch: Batch) -> Batch:
    """A batch of B pairs as 2 B examples, winners first: one forward pass, and the two of a pair share every draw."""
    assert batch.loser is not None and batch.loser_score is not None, "the batch has no losers"
    return replace(
        batch,
        latents=torch.cat([batch.latents, batch.loser]),
        noise=torch.cat([batch.noise, batch.noise]),
        t=torch.cat([batch.t, batch.t]),
        conditions={name: torch.cat([value, value]) for name, value in batch.conditions.items()},
        score=torch.cat([batch.score, batch.loser_score]),
        loser=None,
        loser_score=None,
        advantage=None,
    )
