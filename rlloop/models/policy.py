"""The generator as the loop sees it: prompts and seeds to latents, latents to audio, and the network that is trained.

Mini and official FluxAudio are two `GeneratorSpec`s of one `FluxAudioGenerator`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from rlloop.flow.guidance import joint_guidance
from rlloop.flow.solver import euler, heun
from rlloop.models.autoencoder import Autoencoder
from rlloop.models.fluxaudio import Conditions, FluxAudio, FluxAudioSpec
from rlloop.models.mel import MEL_16K, MelSettings
from rlloop.models.text import PromptFeatures
from rlloop.models.vocoder import MagnitudeNet, MelInversion
from rlloop.weights import load_safetensors

ASSETS = Path(__file__).parents[1] / "assets" / "mini"
SOLVERS = {"euler": euler, "heun": heun}


@dataclass(frozen=True)
class SamplingSettings:
    """How latents are drawn: guidance is the joint CFG weight, below 1 only the conditional branch runs.

    `score` None samples without one; `negative_prompt` "" takes the stored empty features.
    """

    solver: str = "euler"
    num_steps: int = 12
    guidance: float = 3.0
    score: float | None = 1.5
    negative_prompt: str = ""


class Generator(Protocol):
    """What sampler, trainer and evaluator need of a text-to-music model."""

    sample_rate_hz: int
    latent_shape: tuple[int, int]  # (L, D)
    network: nn.Module  # network(x_t [B, L, D], t [B], conditions, score [B] with NaN = none) -> velocity [B, L, D]

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Features of prompts, batch first; no network involved, so they may be cached."""
        ...

    def null_conditions(self, batch_size: int) -> dict[str, Tensor]:
        """Features of the empty prompt under the same keys, for text dropout."""
        ...

    def sample_latents(self, prompts: Sequence[str], seeds: Sequence[int], settings: SamplingSettings) -> Tensor:
        """Normalised latents [B, L, D] float32; a clip depends on its own prompt and seed only."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents [B, L, D] to waveforms [B, T] in [-1, 1]."""
        ...


@dataclass(frozen=True)
class GeneratorSpec:
    """Sizes of all parts of a FluxAudio generator."""

    network: FluxAudioSpec
    mel: MelSettings
    autoencoder_width: int
    autoencoder_multipliers: tuple[int, ...] = (1, 2, 4)
    vocoder_width: int = 0  # of the magnitude network; official stacks bring a vocoder of their own


MINI = GeneratorSpec(
    FluxAudioSpec(
        num_heads=2,
        depth=6,
        fused_depth=4,
        mlp_ratio=3.0,
        latent_dim=32,
        latent_seq_len=156,
        text_dim=128,
        text_c_dim=384,
        text_seq_len=32,
        io_kernel=3,
        score_variant="v1",
    ),
    MEL_16K,
    autoencoder_width=96,
    autoencoder_multipliers=(1, 1),
    vocoder_width=192,
)


def build_autoencoder(spec: GeneratorSpec) -> Autoencoder:
    """The autoencoder, untrained."""
    return Autoencoder(spec.mel.num_mels, spec.network.latent_dim, spec.autoencoder_width, spec.autoencoder_multipliers)


def build_magnitude_net(spec: GeneratorSpec) -> MagnitudeNet:
    """The vocoder's network, untrained."""
    return MagnitudeNet(spec.mel, spec.vocoder_width)


class FluxAudioGenerator:
    """FluxAudio, its autoencoder, a vocoder and prompt features as one `Generator`.

    Args:
        encode: prompts to {"text": [B, M, text_dim], "text_c": [B, text_c_dim]}.
        vocode: log-mel [B, M, F] to waveform [B, F * hop].
    """

    def __init__(
        self,
        spec: GeneratorSpec,
        network: FluxAudio,
        autoencoder: Autoencoder,
        vocode: Callable[[Tensor], Tensor],
        encode: Callable[[Sequence[str]], Mapping[str, Tensor]],
    ):
        self.sample_rate_hz = spec.mel.sample_rate_hz
        self.latent_shape = (spec.network.latent_seq_len, spec.network.latent_dim)
        self.network = network
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self._vocode = vocode
        self._encode = encode

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """{"text", "text_c"} of the prompts."""
        return dict(self._encode(list(prompts)))

    def null_conditions(self, batch_size: int) -> dict[str, Tensor]:
        """The empty features that are stored with the network's weights, repeated."""
        network = self.network
        return {
            "text": network.empty_string_feat.detach().expand(batch_size, -1, -1),
            "text_c": network.empty_string_feat_c.detach().expand(batch_size, -1),
        }

    @torch.inference_mode()
    def sample_latents(self, prompts: Sequence[str], seeds: Sequence[int], settings: SamplingSettings) -> Tensor:
        """Draws one clip per prompt and seed.

        Raises:
            ValueError: an unknown solver, or as many seeds as prompts are not given.
        """
        if settings.solver not in SOLVERS:
            raise ValueError(f"solver {settings.solver!r} is not one of {', '.join(SOLVERS)}")
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: one seed per prompt is expected")
        device = self.network.latent_mean.device
        noise = [torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        x = torch.stack(noise).to(device)
        was_training = self.network.training
        self.network.eval()
        latents = SOLVERS[settings.solver](self._velocity(prompts, settings), x, settings.num_steps)
        self.network.train(was_training)
        return latents.float()

    def _velocity(self, prompts: Sequence[str], settings: SamplingSettings) -> Callable[[Tensor, Tensor], Tensor]:
        """The guided velocity, with the text of both branches projected here, once."""
        size, device = len(prompts), self.network.latent_mean.device
        positive = {key: value.to(device) for key, value in self.encode_prompts(prompts).items()}
        cond = self.network.preprocess_conditions(positive["text"], positive["text_c"])
        score = torch.full((size,), torch.nan if settings.score is None else settings.score, device=device)
        if settings.guidance < 1:
            return lambda x, t: self.network.predict_flow(x, t, cond, score)
        negative = None
        if settings.negative_prompt:
            features = self.encode_prompts([settings.negative_prompt])
            negative = (features["text"].to(device), features["text_c"].to(device))
        empty = self.network.get_empty_conditions(size, negative)
        both = Conditions(*(torch.cat(pair) for pair in zip(cond, empty, strict=True)))
        scores = torch.cat([score, torch.full_like(score, torch.nan)])
        return joint_guidance(lambda x, t: self.network.predict_flow(x, t, both, scores), settings.guidance)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, L, D] through autoencoder and vocoder: [B, T].

        One clip at a time: phase retrieval magnifies the last bits in which batches of different sizes differ.
        """
        clips = self.network.unnormalise(latents.to(self.network.latent_mean.device)).transpose(1, 2)
        return torch.cat([self._vocode(self.autoencoder.decode(z)).clamp(-1, 1) for z in clips.split(1)])


def mini_generator(text_encoder: str = "auto", assets: Path | None = None) -> FluxAudioGenerator:
    """The bundled mini stack.

    Args:
        text_encoder: "auto", "words", or a folder with MiniLM (models/text.py).
        assets: folder with fluxaudio, autoencoder and vocoder.safetensors; the shipped one by default.
    Raises:
        ValueError: a weight file is missing or is not of this model.
    """
    assets = Path(assets) if assets else ASSETS
    network, autoencoder, magnitudes = FluxAudio(MINI.network), build_autoencoder(MINI), build_magnitude_net(MINI)
    parts = {"fluxaudio": network, "autoencoder": autoencoder, "vocoder": magnitudes}
    for name, module in parts.items():
        module.load_state_dict(load_safetensors(assets / f"{name}.safetensors", module.state_dict()))
    vocode = MelInversion(MINI.mel, magnitudes.eval())
    return FluxAudioGenerator(MINI, network, autoencoder, vocode, PromptFeatures(text_encoder).encode)
