"""Trains the vocoder's magnitude network, and the decoder with it; the encoder stays, so latents keep their meaning.

Separate from the autoencoder's training because a generator may already be learning those latents.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rlloop.models.autoencoder import Autoencoder
from rlloop.models.mel import MEL_16K, LogMel
from rlloop.models.policy import MINI, build_magnitude_net
from rlloop.models.vocoder import MagnitudeNet
from rlloop.recipes.mini_autoencoder import band_gain, reconstruction_loss
from rlloop.recipes.mini_clips import load_clips
from rlloop.recipes.mini_training import Schedule, train

WINDOW_FRAMES, BATCH_SIZE = 96, 12
FLOOR = 1e-3  # magnitudes below it are inaudible at the common level


class DecoderAndVocoder(nn.Module):
    """What this recipe trains: latents to log-mel to magnitudes."""

    def __init__(self, autoencoder: Autoencoder, magnitudes: MagnitudeNet):
        super().__init__()
        self.autoencoder = autoencoder
        self.magnitudes = magnitudes


def magnitude_loss(predicted: Tensor, magnitude: Tensor) -> Tensor:
    """L1 of log10(1 + 50 m^2), which is what musicnn hears of a bin, and of log10 m, plus the spectral convergence.

    Args:
        predicted, magnitude: [B, bins, F].
    """
    heard = [torch.log1p(50 * m.square()) / 2.302585 for m in (predicted, magnitude)]
    plain = [(m + FLOOR).log10() for m in (predicted, magnitude)]
    convergence = (predicted - magnitude).norm() / magnitude.norm()
    return (heard[0] - heard[1]).abs().mean() + 0.3 * (plain[0] - plain[1]).abs().mean() + convergence


def train_vocoder(
    clips_dir: Path, out_dir: Path, work_dir: Path, autoencoder: Autoencoder, minutes: float = 15.0
) -> Autoencoder:
    """Trains and writes autoencoder.safetensors and vocoder.safetensors (float16) to `out_dir`; resumes.

    Returns:
        the autoencoder with the refined decoder, in eval mode.
    """
    waves = torch.stack([clip.waveform for clip in load_clips(clips_dir, is_held_out=False)])
    to_mel, gain = LogMel(MEL_16K), band_gain()
    torch.manual_seed(0)
    both = DecoderAndVocoder(autoencoder.train(), build_magnitude_net(MINI))
    both.autoencoder.encoder.requires_grad_(False)
    both.autoencoder.decoder.requires_grad_(True)
    window = (WINDOW_FRAMES - 1) * MEL_16K.hop + MEL_16K.n_fft - 2 * ((MEL_16K.n_fft - MEL_16K.hop) // 2)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(waves), (BATCH_SIZE,), generator=generator)
        starts = torch.randint(waves.shape[1] - window, (BATCH_SIZE,), generator=generator)
        wave = torch.stack([waves[r, s : s + window] for r, s in zip(rows, starts, strict=True)])
        magnitude = to_mel.magnitude(wave)
        mel = to_mel.compress(magnitude)
        with torch.no_grad():
            mean, std = both.autoencoder.encode(mel)
            z = mean + std * torch.randn(mean.shape, generator=generator)
        decoded = both.autoencoder.decode(z)
        predicted = both.magnitudes(decoded)
        return reconstruction_loss(decoded, mel, autoencoder.data_std, gain) + magnitude_loss(predicted, magnitude)

    groups = [
        {"params": list(both.autoencoder.decoder.parameters())},
        {"params": list(both.magnitudes.parameters()), "scale": 0.3},
    ]
    optimizer = torch.optim.Adam(groups, lr=0.0, betas=(0.9, 0.99))
    ema = train(both, loss_of, optimizer, Schedule(minutes, 3e-3, 1e-4), work_dir / "vocoder.pt").eval()
    out_dir.mkdir(parents=True, exist_ok=True)
    for module, name in ((ema.autoencoder, "autoencoder"), (ema.magnitudes, "vocoder")):
        save_file({k: v.half().contiguous() for k, v in module.state_dict().items()}, out_dir / f"{name}.safetensors")
    return ema.autoencoder
