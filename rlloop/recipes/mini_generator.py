"""Trains the mini generator from scratch with v1 score conditioning (reference.md sections 3 and 4, mini.md).

Autoencoder and vocoder first, then the network on the latents; all resume from the work directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rlloop.flow.path import interpolate, sample_time, velocity_error
from rlloop.models.autoencoder import Autoencoder
from rlloop.models.fluxaudio import FluxAudio
from rlloop.models.mel import MEL_16K, LogMel
from rlloop.models.policy import MINI
from rlloop.models.text import PromptFeatures
from rlloop.recipes.mini_autoencoder import train_autoencoder
from rlloop.recipes.mini_clips import Clip, load_clips
from rlloop.recipes.mini_training import Schedule, train
from rlloop.recipes.mini_vocoder import train_vocoder

BATCH_SIZE = 16
TEXT_DROPOUT, SCORE_DROPOUT = 0.1, 0.1
SHIFTS = (0, 128, 256, 384)  # samples: a latent spans 512, so the windows do not all start on one grid


@torch.no_grad()
def posteriors(clips: Sequence[Clip], autoencoder: Autoencoder) -> tuple[Tensor, Tensor]:
    """Posterior mean and deviation of whole clips, each [len(SHIFTS), clips, latents, D]."""
    to_mel = LogMel(MEL_16K)
    waves = torch.stack([clip.waveform for clip in clips])
    length = waves.shape[1] - max(SHIFTS)
    chunks = [autoencoder.encode(to_mel(wave[None, shift : shift + length])) for shift in SHIFTS for wave in waves]
    mean, std = (torch.cat(part).transpose(1, 2) for part in zip(*chunks, strict=True))
    return mean.unflatten(0, (len(SHIFTS), -1)), std.unflatten(0, (len(SHIFTS), -1))


def build_network(mean: Tensor, empty: dict[str, Tensor]) -> FluxAudio:
    """An untrained mini network that holds the statistics of `mean` [..., D] and the empty prompt's features."""
    torch.manual_seed(0)
    network = FluxAudio(MINI.network)
    flat = mean.flatten(0, -2)
    with torch.no_grad():
        network.latent_mean.copy_(flat.mean(0))
        network.latent_std.copy_(flat.std(0))
        network.empty_string_feat.copy_(empty["text"][0])
        network.empty_string_feat_c.copy_(empty["text_c"][0])
    return network


class WindowLoss:
    """The flow-matching loss of random 5 s windows; every draw comes from the generator it is called with."""

    def __init__(self, network: FluxAudio, clips: Sequence[Clip], mean: Tensor, std: Tensor, text: dict[str, Tensor]):
        self.network, self.mean, self.std, self.text = network, mean, std, text
        self.rewards = torch.tensor([clip.reward for clip in clips])

    def __call__(self, step: int, generator: torch.Generator) -> Tensor:
        shifts = torch.randint(len(self.mean), (BATCH_SIZE,), generator=generator)
        rows = torch.randint(len(self.rewards), (BATCH_SIZE,), generator=generator)
        x1 = self._windows(shifts, rows, generator)
        t = sample_time(BATCH_SIZE, generator)
        x0 = torch.randn(x1.shape, generator=generator)
        no_text = torch.rand(BATCH_SIZE, generator=generator) < TEXT_DROPOUT
        no_score = torch.rand(BATCH_SIZE, generator=generator) < SCORE_DROPOUT
        network = self.network
        conditions = {
            "text": torch.where(no_text[:, None, None], network.empty_string_feat, self.text["text"][rows]),
            "text_c": torch.where(no_text[:, None], network.empty_string_feat_c, self.text["text_c"][rows]),
        }
        score = self.rewards[rows].masked_fill(no_score, torch.nan)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = network(interpolate(x1, x0, t), t, conditions, score)
        return velocity_error(predicted, x1, x0).mean()

    def _windows(self, shifts: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Normalised posterior samples [B, L, D] of random windows."""
        length = MINI.network.latent_seq_len
        starts = torch.randint(self.mean.shape[2] - length + 1, (BATCH_SIZE,), generator=generator)
        picks = list(zip(shifts, rows, starts, strict=True))
        mean, std = (torch.stack([x[a, b, s : s + length] for a, b, s in picks]) for x in (self.mean, self.std))
        return self.network.normalise(mean + std * torch.randn(mean.shape, generator=generator))


def train_mini_generator(
    clips_dir: Path,
    out_dir: Path,
    work_dir: Path,
    minutes: float = 45.0,
    autoencoder_minutes: float = 17.0,
    vocoder_minutes: float = 15.0,
) -> None:
    """Trains autoencoder and network on the clips that are not held out and writes all files (float16) to `out_dir`.

    Args:
        clips_dir: with clips.jsonl (rlloop/recipes/mini_clips.py).
        work_dir: checkpoints; a killed run goes on from there.
        minutes, autoencoder_minutes, vocoder_minutes: training time of the network and of the two before it.
    """
    autoencoder = train_autoencoder(clips_dir, out_dir, work_dir, autoencoder_minutes)
    autoencoder = train_vocoder(clips_dir, out_dir, work_dir, autoencoder, vocoder_minutes)
    clips = load_clips(clips_dir, is_held_out=False)
    features = PromptFeatures("auto")
    text = features.encode([clip.prompt for clip in clips])
    mean, std = posteriors(clips, autoencoder)
    network = build_network(mean, features.encode([""]))
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, betas=(0.9, 0.95), weight_decay=1e-2, fused=True)
    schedule = Schedule(minutes, peak_lr=1e-3, final_lr=2e-5, warmup_steps=200, checkpoint_every_s=180.0)
    loss = WindowLoss(network, clips, mean, std, text)
    ema = train(network, loss, optimizer, schedule, work_dir / "fluxaudio.pt")
    save_file({k: v.half().contiguous() for k, v in ema.state_dict().items()}, out_dir / "fluxaudio.safetensors")
