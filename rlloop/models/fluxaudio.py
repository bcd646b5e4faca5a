"""FluxAudio: the velocity network of text-to-music flow matching (reference.md section 2).

Sizes are arguments, module and state-dict names are the published ones; official and mini weights load into this class.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlloop.models.score_conditioning import ScoreEmbedder, fourier_features, score_variant
from rlloop.models.transformer import (
    GLU,
    Block,
    ChannelLastConv1d,
    JointBlock,
    LastTextBlock,
    glu_width,
    modulate,
    rotary_table,
)


@dataclass(frozen=True)
class FluxAudioSpec:
    """Sizes of a network. Defaults are FluxAudio-S at 44.1 kHz without score conditioning (section 2.1).

    `depth` counts joint and fused blocks together; `score_variant` is None or a name of score_conditioning.VARIANTS,
    and the other score settings are those of `ScoreEmbedder` (`score_width` None is the network's width).
    """

    num_heads: int = 7
    head_dim: int = 64
    depth: int = 12
    fused_depth: int = 8
    mlp_ratio: float = 4.0
    latent_dim: int = 40
    latent_seq_len: int = 430
    text_dim: int = 1024
    text_c_dim: int = 512
    text_seq_len: int = 77
    io_kernel: int = 7
    block_kernel: int = 3
    use_rope: bool = True
    score_variant: str | None = None
    score_fourier: str = "timestep"
    score_features: int = 256
    score_width: int | None = None
    score_null: str | float = "learned"

    @property
    def hidden(self) -> int:
        """Width D of the network."""
        return self.num_heads * self.head_dim


# Section 2.1. Between the rates only the latents differ.
FLUXAUDIO_S_16K = FluxAudioSpec(latent_dim=20, latent_seq_len=312)
FLUXAUDIO_S_44K = FluxAudioSpec()
FLUXAUDIO_L_16K = replace(FLUXAUDIO_S_16K, num_heads=14)
FLUXAUDIO_L_44K = replace(FLUXAUDIO_S_44K, num_heads=14)


class Conditions(NamedTuple):
    """Projected conditions: text tokens [B, M, D] and pooled text [B, D]. Computed once per sampling."""

    text: Tensor
    pooled: Tensor


class TimestepEmbedder(nn.Module):
    """t [B] in [0, 1] -> [B, D]."""

    def __init__(self, hidden: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(fourier_features(t).to(self.mlp[0].weight.dtype))


class FinalLayer(nn.Module):
    """Modulated normalisation and a convolution to the latent channels."""

    def __init__(self, hidden: int, latent_dim: int, kernel: int):
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * hidden))
        self.conv = ChannelLastConv1d(hidden, latent_dim, kernel)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.conv(modulate(x, *self.adaLN_modulation(c).chunk(2, dim=-1)))


class FluxAudio(nn.Module):
    """Joint blocks over audio and text, then fused blocks over audio.

    `network(x_t, t, {"text", "text_c"}, score)` is the call of the trainer; a sampler projects the text once with
    `preprocess_conditions` and calls `predict_flow` per step.
    """

    def __init__(self, spec: FluxAudioSpec):
        super().__init__()
        self.spec = spec
        d, width = spec.hidden, glu_width(spec.hidden, spec.mlp_ratio)
        sizes = {
            "latent_mean": (1, 1, spec.latent_dim),
            "latent_std": (1, 1, spec.latent_dim),
            "empty_string_feat": (spec.text_seq_len, spec.text_dim),
            "empty_string_feat_c": (spec.text_c_dim,),
        }
        for name, shape in sizes.items():  # stored with the weights, never trained
            fill = torch.ones if name == "latent_std" else torch.zeros
            self.register_parameter(name, nn.Parameter(fill(shape), requires_grad=False))
        self.audio_input_proj = nn.Sequential(
            ChannelLastConv1d(spec.latent_dim, d, spec.io_kernel), nn.SELU(), GLU(d, width, spec.io_kernel)
        )
        self.text_input_proj = nn.Sequential(nn.Linear(spec.text_dim, d), GLU(d, width))
        self.text_cond_proj = nn.Sequential(nn.Linear(spec.text_c_dim, d), GLU(d, width))
        self.t_embed = TimestepEmbedder(d)
        sizes_of_block = (d, spec.head_dim, width)
        text_blocks = [Block(*sizes_of_block, 0) for _ in range(spec.depth - spec.fused_depth - 1)]
        text_blocks.append(LastTextBlock(d, spec.head_dim))
        self.joint_blocks = nn.ModuleList(
            JointBlock(*sizes_of_block, spec.block_kernel, text_block=block) for block in text_blocks
        )
        self.fused_blocks = nn.ModuleList(Block(*sizes_of_block, spec.block_kernel) for _ in range(spec.fused_depth))
        self.final_layer = FinalLayer(d, spec.latent_dim, spec.io_kernel)
        if spec.score_variant is not None:
            self.score_variant = score_variant(spec.score_variant)
            self.score_embed = ScoreEmbedder(
                d,
                spec.score_width,
                spec.score_features,
                spec.score_fourier,
                spec.score_null,
                has_projector=self.score_variant.prepends_token,
            )
        self._initialise()

    def _initialise(self) -> None:
        """Section 2.6: an untrained network predicts exactly zero. On the meta device there is nothing to draw."""
        if self.latent_mean.is_meta:
            return  # torch imports its compiler, for seconds, to draw a normal distribution there
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for index in (0, 2):
            nn.init.normal_(self.t_embed.mlp[index].weight, std=0.02)
        zero = [m.adaLN_modulation[1] for m in self.modules() if hasattr(m, "adaLN_modulation")]
        zero += [self.final_layer.conv]
        if hasattr(self, "score_embed"):
            zero.append(self.score_embed.mlp[2])
        for module in zero:
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)

    def set_variant(self, variant: str | None) -> None:
        """Injects the score as another variant does from now on, with the same weights (section 4.3).

        Raises:
            ValueError: the two do not have the same keys: v1, v2 and v4 share theirs, and so do v3 and v5.
        """
        if variant == self.spec.score_variant:
            return
        check_shared_keys(self, variant)
        self.spec = replace(self.spec, score_variant=variant)
        self.score_variant = score_variant(variant)

    def normalise(self, latents: Tensor) -> Tensor:
        """Autoencoder latents [B, L, D] to the network's scale; a new tensor."""
        return (latents - self.latent_mean) / self.latent_std

    def unnormalise(self, latents: Tensor) -> Tensor:
        """Inverse of `normalise`."""
        return latents * self.latent_std + self.latent_mean

    def preprocess_conditions(self, text: Tensor, text_c: Tensor) -> Conditions:
        """Projects text features [B, M, text_dim] and pooled features [B, text_c_dim]."""
        return Conditions(self.text_input_proj(text), self.text_cond_proj(text_c))

    def get_empty_conditions(self, batch_size: int, negative: tuple[Tensor, Tensor] | None = None) -> Conditions:
        """Projected features of the empty prompt, or of raw `negative` (text, text_c), for `batch_size` rows."""
        text, text_c = negative or (self.empty_string_feat[None], self.empty_string_feat_c[None])
        return Conditions(*(h.expand(batch_size, *h.shape[1:]) for h in self.preprocess_conditions(text, text_c)))

    def get_empty_score(self, batch_size: int) -> Tensor:
        """[B] of NaN: no score, in the place where `predict_flow` takes one."""
        return torch.full((batch_size,), torch.nan, device=self.latent_mean.device)

    def predict_flow(self, x: Tensor, t: Tensor, cond: Conditions, score: Tensor | None = None) -> Tensor:
        """Velocity at normalised latents x [B, L, D] and times t [B], t = 1 being noise.

        Args:
            score: [B], NaN where there is none; None for all. Ignored by a network without score conditioning.
        Returns:
            [B, L, D].
        """
        c = (self.t_embed(t) + cond.pooled)[:, None]
        x, text = self.audio_input_proj(x), cond.text
        if hasattr(self, "score_embed"):
            e = self.score_embed(self.get_empty_score(len(t)) if score is None else score)
            c, x, text = (
                self.score_variant.condition(c, e),
                self.score_variant.audio(x, e),
                self.score_variant.text(text, e),
            )
        table, text_table = self._rotary(x), self._rotary(text)
        for block in self.joint_blocks:
            x, text = block(x, text, c, table, text_table)
        for block in self.fused_blocks:
            x = block(x, c, table)
        if hasattr(self, "score_embed"):
            x = self.score_variant.trim(x)
        return self.final_layer(x, c)

    def forward(self, x_t: Tensor, t: Tensor, conditions: dict[str, Tensor], score: Tensor | None = None) -> Tensor:
        """Velocity from raw prompt features {"text": [B, M, text_dim], "text_c": [B, text_c_dim]}."""
        return self.predict_flow(x_t, t, self.preprocess_conditions(conditions["text"], conditions["text_c"]), score)

    def _rotary(self, tokens: Tensor) -> Tensor | None:
        if not self.spec.use_rope:
            return None
        return rotary_table(tokens.shape[1], self.spec.head_dim, tokens.device)


def with_variant(network: FluxAudio, variant: str) -> FluxAudio:
    """A copy with the same weights whose forward pass injects the score as another variant does (section 4.3).

    Raises:
        ValueError: the two do not have the same keys.
    """
    other = deepcopy(network)
    other.set_variant(variant)
    return other


def check_shared_keys(network: FluxAudio, variant: str) -> None:
    """Whether weights mean something in another variant's forward pass.

    Raises:
        ValueError: only one of the two has a certain key.
    """
    with torch.device("meta"):
        other = FluxAudio(replace(network.spec, score_variant=variant))
    differing = sorted(network.state_dict().keys() ^ other.state_dict().keys())
    if differing:
        raise ValueError(
            f"weights of score variant {network.spec.score_variant} do not fit {variant}: only one of the two has "
            f"{differing[0]}; v1, v2 and v4 share their keys, and so do v3 and v5"
        )
