"""Trains the mini autoencoder on random windows of the clips (reference.md section 5 at a small width)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rlloop.models.autoencoder import Autoencoder
from rlloop.models.mel import MEL_16K, mel_filterbank
from rlloop.models.policy import MINI, build_autoencoder
from rlloop.recipes.mini_clips import load_clips, log_mels
from rlloop.recipes.mini_training import Schedule, train

WINDOW_FRAMES, BATCH_SIZE = 128, 16
KL_WEIGHT = 1e-3


def band_gain() -> Tensor:
    """[80, 1] factor from a squared magnitude mel to 10 000 times a power mel of half the window, as musicnn has."""
    peak = mel_filterbank(MEL_16K).amax(dim=1, keepdim=True)  # a tone in a band has magnitude mel peak * |X|
    return 1e4 / 4 / peak


def reconstruction_loss(predicted: Tensor, mel: Tensor, std: Tensor, gain: Tensor) -> Tensor:
    """L1 of the log-mel in units of its deviation, plus L1 of log10(1 + 10^4 power), which musicnn hears.

    The second term forgives what lies below the floor of that logarithm.
    Mels are [B, 80, F], std [1, 80, 1], gain [80, 1].
    """
    plain = ((predicted - mel) / std).abs().mean()
    heard = [torch.log1p(gain * 10.0 ** (2 * m.clamp(max=3.0))) / 2.302585 for m in (predicted, mel)]
    return plain + (heard[0] - heard[1]).abs().mean()


def train_autoencoder(clips_dir: Path, out_dir: Path, work_dir: Path, minutes: float = 17.0) -> Autoencoder:
    """Trains and writes `out_dir`/autoencoder.safetensors (float16); resumes from `work_dir`.

    Returns:
        the averaged autoencoder, in eval mode.
    """
    mels = torch.stack(log_mels(load_clips(clips_dir, is_held_out=False)))  # [clips, 80, frames]: all 10 s
    torch.manual_seed(0)
    model = build_autoencoder(MINI)
    model.data_mean.copy_(mels.mean(dim=(0, 2))[None, :, None])
    model.data_std.copy_(mels.std(dim=(0, 2))[None, :, None])
    gain = band_gain()

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(mels), (BATCH_SIZE,), generator=generator)
        starts = torch.randint(mels.shape[-1] - WINDOW_FRAMES, (BATCH_SIZE,), generator=generator)
        mel = torch.stack([mels[r, :, s : s + WINDOW_FRAMES] for r, s in zip(rows, starts, strict=True)])
        mean, std = model.encode(mel)
        z = mean + std * torch.randn(mean.shape, generator=generator)
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()
        return reconstruction_loss(model.decode(z), mel, model.data_std, gain) + KL_WEIGHT * kl

    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, betas=(0.9, 0.99))
    ema = train(model, loss_of, optimizer, Schedule(minutes, 1e-2, 1e-4), work_dir / "autoencoder.pt").eval()
    out_dir.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in ema.state_dict().items()}, out_dir / "autoencoder.safetensors")
    return ema
