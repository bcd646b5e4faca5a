"""Randomness of training, drawn per (run seed, stage, step, index in the global batch), so on any number of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """One example's draws: its source and row, noise x0 [L, D], t in (0, 1), and the two drop decisions."""

    source: str
    row: int
    noise: Tensor
    t: float
    drops_text: bool
    drops_score: bool


def draw_example(
    key: tuple[int, int, int, int],
    rows: Mapping[str, int],
    weights: Mapping[str, float],
    latent_shape: tuple[int, int],
    text_drop: float,
    score_drop: float,
) -> Draw:
    """Draws example `key` = (run seed, stage, step of the run, index in the global batch).

    Args:
        rows: number of rows of each source; sources without rows are left out of the mixture.
        weights: mixture weight of each source.
        latent_shape: (L, D).
    Raises:
        ValueError: no source with a weight has a row.
    """
    rng = np.random.default_rng(np.random.SeedSequence([3, *key]))
    sources = [s for s in weights if rows.get(s) and weights[s] > 0]
    if not sources:
        raise ValueError(f"no source of the mixture {dict(weights)} has a row (rows: {dict(rows)})")
    share = np.array([weights[s] for s in sources], dtype=np.float64)
    source = sources[int(rng.choice(len(sources), p=share / share.sum()))]
    row = int(rng.integers(rows[source]))
    t = 1.0 / (1.0 + np.exp(-rng.standard_normal()))  # logit-normal(0, 1), reference.md section 3
    drops_text, drops_score = rng.random() < text_drop, rng.random() < score_drop
    noise = torch.from_numpy(rng.standard_normal(latent_shape, dtype=np.float32))
    return Draw(source, row, noise, float(t), bool(drops_text), bool(drops_score))
