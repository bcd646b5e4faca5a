"""Audio to latents by a generator's own autoencoder, without its network and vocoder, which preparing never needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rlloop.audio.precision import full_float32
from rlloop.config import Config
from rlloop.models.autoencoder import Autoencoder
from rlloop.models.mel import LogMel
from rlloop.models.official import choose_mode, open_autoencoder
from rlloop.models.placement import choose_device
from rlloop.models.policy import ASSETS, MINI, GeneratorSpec, build_autoencoder
from rlloop.models.pretrained import content_digest
from rlloop.weights import load_safetensors, resolve


@dataclass(frozen=True)
class LatentSource:
    """The autoencoder of a generator: its file, its sizes, and how it is loaded."""

    path: Path
    spec: GeneratorSpec
    load: Callable[[], Autoencoder]

    @property
    def latent_shape(self) -> tuple[int, int]:
        return self.spec.network.latent_seq_len, self.spec.network.latent_dim

    @property
    def num_samples(self) -> int:
        """Samples of a segment: 10 s of the published stacks; what the latents stand for where no seconds are fixed."""
        return self.spec.clip_samples or 2 * self.spec.mel.hop * self.latent_shape[0]

    def identity(self) -> str:
        """Digest of the file: latents of another autoencoder are other latents."""
        return content_digest([self.path])[:24]


def latent_source(config: Config) -> LatentSource:
    """The autoencoder of `config.generator`; reads nothing.

    Raises:
        ValueError: the file is missing, or the generator is one whose autoencoder is not known here.
    """
    target, options = config.generator.target, config.generator.options
    if target == "mini":
        path = Path(options.get("assets") or ASSETS) / "autoencoder.safetensors"

        def load() -> Autoencoder:
            model = build_autoencoder(MINI)
            model.load_state_dict(load_safetensors(path, model.state_dict()))
            return model

        return LatentSource(path, MINI, load)
    if target == "fluxaudio":
        mode, name = choose_mode(options.get("mode", "44k")), str(options.get("autoencoder") or "")
        if not name:
            raise ValueError(
                "generator.options.autoencoder is missing; expected a name of `rlloop weights list` or a path"
            )
        return LatentSource(resolve(name), mode.spec, lambda: open_autoencoder(name, mode))
    raise ValueError(
        f"generator.target is '{target}', whose autoencoder is not known; audio is prepared for mini and fluxaudio"
    )


class LatentEncoder:
    """Waveforms through mel front end and encoder.

    Args:
        device: "auto", "cpu" or "cuda".
    Raises:
        ValueError: the autoencoder cannot be loaded.
    """

    def __init__(self, source: LatentSource, device: str = "cpu"):
        self.source, self.device = source, choose_device(device)
        self.to_mel = LogMel(source.spec.mel).to(self.device)
        self.autoencoder = source.load().eval().requires_grad_(False).to(self.device)

    @torch.inference_mode()
    def encode(self, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Audio [B, num_samples] in [-1, 1] to posterior mean and deviation, not normalised, [B, L, D] float32 each."""
        waves = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32)).to(self.device)
        with full_float32():
            mean, std = (part.transpose(1, 2).cpu().numpy() for part in self.autoencoder.encode(self.to_mel(waves)))
        length = self.source.latent_shape[0]
        return mean[:, :length], std[:, :length]
