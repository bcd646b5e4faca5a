"""How a reward enters the network: its embedding, and the place where a variant injects it (reference.md section 4).

All variants share one embedding and its keys, so weights trained as v1 load into a v2 forward pass (section 4.3); those
that prepend a token add a projector. A variant is a set of hooks without parameters; a new one overrides what it needs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

NUM_FEATURES = 256
FOURIER = ("timestep", "gaussian")
NULLS = ("learned", "zeros")


def timestep_frequencies(num_features: int = NUM_FEATURES, device: torch.device | None = None) -> Tensor:
    """w_i = 10000^(-2 i / num_features) in float32: [num_features / 2]."""
    half = num_features // 2
    return 10_000.0 ** (-torch.arange(half, dtype=torch.float32, device=device) / half)


def fourier_features(value: Tensor, num_features: int = NUM_FEATURES) -> Tensor:
    """[cos(value w) | sin(value w)] of the fixed frequencies, in float32: [B] -> [B, num_features]."""
    return waves(value, timestep_frequencies(num_features, value.device))


def waves(value: Tensor, w: Tensor) -> Tensor:
    """[cos(value w) | sin(value w)] in float32: [B], [F / 2] -> [B, F]."""
    angles = value.float()[:, None] * w.float()
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepFourier(nn.Module):
    """The fixed frequencies of the timestep embedding; nothing is stored."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, score: Tensor) -> Tensor:
        return fourier_features(score, self.num_features)


class GaussianFourier(nn.Module):
    """Frequencies 2 pi B with B ~ N(0, 1), drawn once and stored (Tancik et al., arXiv:2006.10739)."""

    B: Tensor

    def __init__(self, num_features: int):
        super().__init__()
        self.register_buffer("B", torch.randn(num_features // 2))

    def forward(self, score: Tensor) -> Tensor:
        return waves(score, 2 * math.pi * self.B.float())

    def _apply(self, fn, recurse=True):
        """B moves but stays float32: at a phase of 100, bfloat16 would leave an error of a quarter of a radian."""
        exact = self.B
        super()._apply(fn, recurse)
        if self.B.dtype != exact.dtype:
            self.B = exact.to(self.B.device)
        return self


class ScoreEmbedder(nn.Module):
    """Score [B] -> [B, D]: Fourier features, a two-layer network, and for prepended tokens a projector.

    NaN stands for no score; its embedding is a learned vector, zeros, or that of a fixed score. The last layer of `mlp`
    and the learned vector start at zero: an untrained score changes nothing.

    Keys: mlp.{0,2}.{weight,bias}, null (learned), fourier.B (gaussian), projector.{0,2}.{weight,bias} (v3, v5).

    Args:
        hidden: D. width: of the hidden layer. num_features: F, even.
        fourier: "timestep" or "gaussian".
        null: "learned", "zeros", or the score whose embedding stands for none.
    Raises:
        ValueError: an unknown choice, or F is odd.
    """

    def __init__(
        self,
        hidden: int,
        width: int | None = None,
        num_features: int = NUM_FEATURES,
        fourier: str = "timestep",
        null: str | float = "learned",
        has_projector: bool = False,
    ):
        super().__init__()
        if fourier not in FOURIER:
            raise ValueError(f"score_fourier {fourier!r} is not one of {', '.join(FOURIER)}")
        if isinstance(null, str) and null not in NULLS:
            raise ValueError(f"score_null {null!r} is not one of {', '.join(NULLS)}, nor a number")
        if num_features < 2 or num_features % 2:
            raise ValueError(f"score_features {num_features} is not an even number: half are cosines, half sines")
        self.fourier = (TimestepFourier if fourier == "timestep" else GaussianFourier)(num_features)
        self.mlp = two_layers(num_features, width or hidden, hidden)
        self.null = nn.Parameter(torch.zeros(hidden)) if null == "learned" else None
        self.sentinel = None if isinstance(null, str) else float(null)
        self.projector = two_layers(hidden, hidden, hidden) if has_projector else None

    def forward(self, score: Tensor) -> Tensor:
        missing = score.isnan()
        e = self.mlp(self._features(score.float().masked_fill(missing, self.sentinel or 0.0)))
        if self.null is not None:
            e = torch.where(missing[:, None], self.null.to(e.dtype), e)
        elif self.sentinel is None:
            e = e.masked_fill(missing[:, None], 0.0)
        return e if self.projector is None else self.projector(e)

    def _features(self, score: Tensor) -> Tensor:
        return self.fourier(score).to(self.mlp[0].weight.dtype)


def two_layers(features: int, width: int, hidden: int) -> nn.Sequential:
    """Linear, SiLU, Linear."""
    return nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, hidden))


class ScoreVariant:
    """The places where a score may enter. The base class enters nowhere; e is the embedding [B, D]."""

    name = "none"
    prepends_token = False

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


class AudioPrepend(ScoreVariant):
    """v3: one token before the audio tokens, removed before the final layer (reference.md sections 4.1, 4.4).

    It takes position 0, so frame n sits at n + 1. That it passes the blocks' convolutions as the first frame's
    neighbour is an assumption, as the published code is unknown.
    """

    name = "v3"
    prepends_token = True

    def audio(self, x: Tensor, e: Tensor) -> Tensor:
        return torch.cat([e[:, None].to(x.dtype), x], dim=1)

    def trim(self, x: Tensor) -> Tensor:
        return x[:, 1:]


class TextAdd(ScoreVariant):
    """v4: added to every text token. A GUESS: nothing that is published says what v4 is.

    It mirrors v2 on the other branch, as reference.md section 4.4 suggests; weights trained as the authors' v4 need not
    mean the same here.
    """

    name = "v4"

    def text(self, text: Tensor, e: Tensor) -> Tensor:
        return text + e[:, None]


class TextPrepend(ScoreVariant):
    """v5: one token before the text tokens, at position 0; text is never read out, so nothing is removed."""

    name = "v5"
    prepends_token = True

    def text(self, text: Tensor, e: Tensor) -> Tensor:
        return torch.cat([e[:, None].to(text.dtype), text], dim=1)


VARIANTS: dict[str, type[ScoreVariant]] = {
    variant.name: variant for variant in (GlobalAdaLN, InputAdd, AudioPrepend, TextAdd, TextPrepend)
}


def score_variant(name: str) -> ScoreVariant:
    """The variant called `name`.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in VARIANTS:
        raise ValueError(f"score variant {name!r} is not one of {', '.join(VARIANTS)}")
    return VARIANTS[name]()
