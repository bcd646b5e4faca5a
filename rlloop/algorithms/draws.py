"""Randomness of training, drawn per (run seed, stage, step, index in the global batch), so on any number of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """One example's draws: its source and row, noise x0 [L, D], t in (0, 1), and the two drop decisions.

    Where an algorithm takes pairs, an example is a pair, and winner, loser and reference share all of it.
    """

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
    score_drop_mode: str = "independent",
    weights_are: str = "shares",
) -> Draw:
    """Draws example `key` = (run seed, stage, step of the run, index in the global batch).

    Args:
        rows: number of rows of each source; sources without rows are left out of the mixture.
        weights: mixture weight of each source.
        latent_shape: (L, D).
        score_drop_mode: as `drops`.
        weights_are: "shares": of the examples, whatever the number of rows; "copies": how often each row is listed, so
            that a source's share is its weight times its rows.
    Raises:
        ValueError: no source with a weight has a row, or an unknown mode or meaning of the weights.
    """
    rng = np.random.default_rng(np.random.SeedSequence([3, *key]))
    sources = [s for s in weights if rows.get(s) and weights[s] > 0]
    if not sources:
        raise ValueError(f"no source of the mixture {dict(weights)} has a row (rows: {dict(rows)})")
    if weights_are not in ("shares", "copies"):
        raise ValueError(f"weights_are '{weights_are}' is not one of shares, copies")
    listed = 1 if weights_are == "shares" else np.array([rows[s] for s in sources], dtype=np.float64)
    share = np.array([weights[s] for s in sources], dtype=np.float64) * listed
    source = sources[int(rng.choice(len(sources), p=share / share.sum()))]
    row = int(rng.integers(rows[source]))
    t = 1.0 / (1.0 + np.exp(-rng.standard_normal()))  # logit-normal(0, 1), reference.md section 3
    drops_text, drops_score = drops(rng, key, text_drop, score_drop, score_drop_mode)
    noise = torch.from_numpy(rng.standard_normal(latent_shape, dtype=np.float32))
    return Draw(source, row, noise, float(t), drops_text, drops_score)


def posterior_noise(key: tuple[int, int, int, int], latent_shape: tuple[int, int]) -> Tensor:
    """Noise of an autoencoder's posterior, for examples whose latents are a mean and a deviation: [L, D] float32.

    Drawn by the key of `draw_example` in a stream of its own, so that asking for it changes no other draw.
    """
    rng = np.random.default_rng(np.random.SeedSequence([5, *key]))
    return torch.from_numpy(rng.standard_normal(latent_shape, dtype=np.float32))


def drops(
    rng: np.random.Generator, key: tuple[int, int, int, int], text_drop: float, score_drop: float, mode: str
) -> tuple[bool, bool]:
    """Whether an example loses its text and whether it loses its score (reference.md section 4.4).

    Every mode takes the same two numbers from `rng`, so that modes differ in nothing else that is drawn.

    Args:
        mode: "independent": per example, each by its own uniform; "tied": per example, both by one uniform, so at equal
            rates both or none; "batch": one decision about the score for all examples of a step.
    Raises:
        ValueError: an unknown mode.
    """
    of_text, of_score = rng.random(), rng.random()
    if mode == "tied":
        of_score = of_text
    elif mode == "batch":
        of_score = np.random.default_rng(np.random.SeedSequence([4, *key[:-1]])).random()
    elif mode != "independent":
        raise ValueError(f"score_drop_mode '{mode}' is not one of independent, tied, batch")
    return bool(of_text < text_drop), bool(of_score < score_drop)
