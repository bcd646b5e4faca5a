"""How a reward enters the network: its embedding, and the place where a variant injects it (reference.md section 4).

All variants share one module and its keys, so weights trained as v1 load into a v2 forward pass (section 4.3).
A variant is a set of hooks without parameters; a new one overrides those that it needs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NUM_FEATURES = 256


def fourier_features(value: Tensor, num_features: int = NUM_FEATURES) -> Tensor:
    """[cos(value w) | sin(value w)], w_i = 10000^(-2 i / num_features), in float32: [B] -> [B, num_features]."""
    half = num_features // 2
    w = 10_000.0 ** (-torch.arange(half, dtype=torch.float32, device=value.device) / half)
    angles = value.float()[:, None] * w
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ScoreEmbedder(nn.Module):
    """Score [B] -> [B, D]; NaN stands for no score and takes the learned vector `null`.

    The last projection and the null vector start at zero: an untrained score changes nothing.
    """

    def __init__(self, hidden: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(NUM_FEATURES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.null = nn.Parameter(torch.zeros(hidden))

    def forward(self, score: Tensor) -> Tensor:
        missing = score.isnan()[:, None]
        features = fourier_features(score.nan_to_num(0.0)).to(self.null.dtype)
        return torch.where(missing, self.null, self.mlp(features))


class ScoreVariant:
    """The places where a score may enter. The base class enters nowhere; e is the embedding [B, D]."""

    name = "none"

    def condition(self, c: Tensor, e: Tensor) -> Tensor:
        """The global condition of every block, [B, 1, D]."""
        return c

    def audio(self, x: Tensor, e: Tensor) -> Tensor:
        """Audio tokens [B, N, D] after the input projection; may prepend tokens."""
        return x

    def text(self, text: Tensor, e: Tensor) -> Tensor:
        """Text tokens [B, M, D] before the first block; may prepend tokens."""
        return text

    def trim(self, x: Tensor) -> Tensor:
        """Removes what `audio` prepended, before the final layer."""
        return x


class GlobalAdaLN(ScoreVariant):
    """v1: added to the global condition, so it modulates every block (arXiv 2606.21670, Fig. 1)."""

    name = "v1"

    def condition(self, c: Tensor, e: Tensor) -> Tensor:
        return c + e[:, None]


class InputAdd(ScoreVariant):
    """v2: added to every audio token once, after the input projection (arXiv 2606.21670, Fig. 1)."""

    name = "v2"

    def audio(self, x: Tensor, e: Tensor) -> Tensor:
        return x + e[:, None]


VARIANTS: dict[str, type[ScoreVariant]] = {variant.name: variant for variant in (GlobalAdaLN, InputAdd)}


def score_variant(name: str) -> ScoreVariant:
    """The variant called `name`.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in VARIANTS:
        raise ValueError(f"score variant {name!r} is not one of {', '.join(VARIANTS)}")
    return VARIANTS[name]()
