"""The generator as the loop sees it: prompts and seeds to latents, latents to audio, and the network that is trained.

Mini and official FluxAudio are two `GeneratorSpec`s of one `FluxAudioGenerator`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlloop.audio.precision import full_float32
from rlloop.flow.guidance import crossover
from rlloop.flow.solver import Velocity
from rlloop.models.autoencoder import Autoencoder
from rlloop.models.fluxaudio import FluxAudio, FluxAudioSpec
from rlloop.models.mel import MEL_16K, MelSettings
from rlloop.models.placement import cast_layers, choose_device, choose_dtype, keep_large_blocks, tf32_allowed
from rlloop.models.sampling import SOLVERS, SamplingSettings, guided_velocity
from rlloop.models.text import PromptFeatures
from rlloop.models.vocoder import MagnitudeNet, MelInversion
from rlloop.weights import load_safetensors

MIN_LATENTS = 8
ASSETS = Path(__file__).parents[1] / "assets" / "mini"


class Generator(Protocol):
    """What sampler, trainer and evaluator need of a text-to-music model.

    Two things more are asked of `network` where a stage needs them: `normalise(latents [B, L, D])`, from the scale of
    the autoencoder to that of training, for a corpus; and `set_variant(name)`, with the name in `spec.score_variant`,
    for a stage that changes how the score enters.
    """

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
    clip_seconds: float | None = None  # what decoded audio is padded or cut to; None leaves it as the vocoder made it

    @property
    def clip_samples(self) -> int | None:
        """Samples of a decoded clip, where `clip_seconds` fixes them."""
        return None if self.clip_seconds is None else round(self.clip_seconds * self.mel.sample_rate_hz)


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

    Life: built in float32 on the CPU, as it is trained -> placed, where it only samples.

    Args:
        encode: prompts to {"text": [B, M, text_dim], "text_c": [B, text_c_dim]}.
        vocode: log-mel [B, M, F] to waveform [B, F * hop].
        decode_batch: clips that are decoded at once.
        second: the network from `crossover_t` to data, of the same sizes and latent statistics.
    Raises:
        ValueError: a second network that disagrees.
    """

    def __init__(
        self,
        spec: GeneratorSpec,
        network: FluxAudio,
        autoencoder: Autoencoder,
        vocode: Callable[[Tensor], Tensor],
        encode: Callable[[Sequence[str]], Mapping[str, Tensor]],
        *,
        decode_batch: int = 1,
        second: FluxAudio | None = None,
    ):
        self.sample_rate_hz = spec.mel.sample_rate_hz
        self.samples_per_latent = 2 * spec.mel.hop  # the autoencoder halves mel frames once
        self.latent_shape = (spec.network.latent_seq_len, spec.network.latent_dim)
        self.clip_samples = spec.clip_samples
        self.network = network
        self.second = second.eval().requires_grad_(False) if second else None
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.decode_batch = decode_batch
        self.vocode = vocode
        self.precision: Callable[[], AbstractContextManager] = nullcontext
        self._encode = encode
        self._compiled: dict[nn.Module, Callable[..., Tensor]] = {}
        if second:
            check_same_latents(network, second)

    def place(
        self,
        *,
        dtype: str = "float32",
        compile: bool = False,
        device: str = "auto",
        tf32: bool = False,
        backend: str = "inductor",
    ) -> FluxAudioGenerator:
        """Moves all parts to a device and chooses how the networks compute; for a copy that samples and never trains.

        Weights that are loaded afterwards are copied into what is here: they take its dtype and nothing compiles anew.

        Args:
            dtype: of the networks' weights; "bfloat16" keeps QK norm, solver state and latents in float32.
            compile: torch.compile of the velocity with `backend`; takes a minute or more at the first batch, and once
                more when a batch of another size comes.
            device: "auto", "cpu" or "cuda". tf32: allowed in float32 products on CUDA.
        Raises:
            ValueError: an unknown dtype or device, or CUDA where there is none.
        """
        where, weights = choose_device(device), choose_dtype(dtype)
        if where.type == "cuda":
            self.precision = tf32_allowed if tf32 else full_float32
        else:
            keep_large_blocks()
        for part in (self.network, self.second, self.autoencoder, self.vocode):
            if isinstance(part, nn.Module):
                part.to(where)
        for network in filter(None, (self.network, self.second)):
            cast_layers(network, weights)
            if compile:
                self._compiled[network] = torch.compile(network.predict_flow, backend=backend)
        return self

    def set_clip_seconds(self, seconds: float) -> None:
        """Draws clips of another length from now on; one that the network was not trained on is an extrapolation.

        Raises:
            ValueError: shorter than eight latents.
        """
        latents = math.ceil(seconds * self.sample_rate_hz / self.samples_per_latent)
        if latents < MIN_LATENTS:
            least = MIN_LATENTS * self.samples_per_latent / self.sample_rate_hz
            raise ValueError(f"clips of {seconds:g} s cannot be drawn; expected at least {least:.2g} s")
        self.latent_shape = (latents, self.latent_shape[1])
        self.clip_samples = round(seconds * self.sample_rate_hz)

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """{"text", "text_c"} of the prompts."""
        return dict(self._encode(list(prompts)))

    def null_conditions(self, batch_size: int) -> dict[str, Tensor]:
        """The empty features that are stored with the network's weights, repeated; on the CPU, as those of prompts."""
        network = self.network
        return {
            "text": network.empty_string_feat.detach().cpu().expand(batch_size, -1, -1),
            "text_c": network.empty_string_feat_c.detach().cpu().expand(batch_size, -1),
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
        with self.precision():
            latents = SOLVERS[settings.solver](self._velocity(prompts, settings), x, settings.num_steps)
        self.network.train(was_training)
        return latents.float()

    def _velocity(self, prompts: Sequence[str], settings: SamplingSettings) -> Velocity:
        """The guided velocity of one network, or of two with a crossover between them."""
        positive = self.encode_prompts([settings.prompt_prefix + prompt for prompt in prompts])
        negative = self.encode_prompts([settings.negative_prompt]) if settings.negative_prompt else None

        def velocity(network: FluxAudio) -> Velocity:
            predict = self._compiled.get(network, network.predict_flow)
            return guided_velocity(network, predict, positive, negative, settings)

        if settings.crossover_t is None:
            return velocity(self.network)
        if self.second is None:
            raise ValueError(
                f"crossover_t is {settings.crossover_t}, but this generator has one network only; give it a second "
                "(option crossover: CHECKPOINT) or leave crossover_t out"
            )
        return crossover(velocity(self.network), velocity(self.second), settings.crossover_t)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, L, D] through autoencoder and vocoder: [B, T], T as `clip_samples` says.

        The mini stack decodes one clip at a time: its phase retrieval magnifies the last bits in which batches of
        different sizes differ.
        """
        clips = self.network.unnormalise(latents.to(self.network.latent_mean.device)).transpose(1, 2)
        with self.precision():
            parts = [self.vocode(self.autoencoder.decode(z)).clamp(-1, 1) for z in clips.split(self.decode_batch)]
        waveforms = torch.cat(parts)
        if self.clip_samples is None:
            return waveforms
        return F.pad(waveforms, (0, self.clip_samples - waveforms.shape[1]))  # a negative pad cuts


def check_same_latents(network: FluxAudio, second: FluxAudio) -> None:
    """Two networks may share one trajectory only if they see the same latents under the same statistics.

    Raises:
        ValueError: the first statistic that differs.
    """
    for name in ("latent_mean", "latent_std"):
        a, b = getattr(network, name), getattr(second, name)
        if a.shape != b.shape or not torch.equal(a, b):
            raise ValueError(
                f"crossover: {name} of the second network (shape {tuple(b.shape)}) is not that of the first (shape "
                f"{tuple(a.shape)}); both must be trained on latents of one autoencoder with one normalisation"
            )


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
