"""Small stand-ins for the generator and the rewards: classes of a few lines that configurations name by path."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

LENGTH, WIDTH = 8, 4


class TinyNetwork(nn.Module):
    """Velocity of [B, 8, 4] latents from x_t, t, a pooled prompt feature and the score."""

    def __init__(self, step_delay_s: float = 0.0) -> None:
        super().__init__()
        self.step_delay_s = step_delay_s
        self.spec = SimpleNamespace(score_variant="v1")
        generator = torch.Generator().manual_seed(0)
        self.inner = nn.Linear(WIDTH + 3, 32)
        self.outer = nn.Linear(32, WIDTH)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2

    def set_variant(self, variant: str) -> None:
        self.spec.score_variant = variant

    def normalise(self, latents: Tensor) -> Tensor:
        return (latents - 0.5) / 2

    def forward(self, x_t: Tensor, t: Tensor, conditions: dict[str, Tensor], score: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            time.sleep(self.step_delay_s)
        score = torch.nan_to_num(score) * (0.5 if self.spec.score_variant == "v2" else 1.0)
        extra = torch.stack([t, conditions["text"], score], dim=-1)
        return x_t + self.outer(torch.tanh(self.inner(torch.cat([x_t, extra[:, None].expand(-1, LENGTH, -1)], -1))))


class TinyGenerator:
    """Four Euler steps; `decode` holds each latent for 20 samples."""

    sample_rate_hz = 1600
    latent_shape = (LENGTH, WIDTH)

    def __init__(self, delay_s: float = 0.0, step_delay_s: float = 0.0) -> None:
        self.network, self.delay_s = TinyNetwork(step_delay_s), delay_s

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"text": torch.tensor([len(p) % 7 / 7 for p in prompts], dtype=torch.float32)}

    def null_conditions(self, batch_size: int) -> dict[str, Tensor]:
        return {"text": torch.zeros(batch_size)}

    def sample_latents(self, prompts: Sequence[str], seeds: Sequence[int], settings) -> Tensor:
        time.sleep(self.delay_s)
        x = torch.stack([torch.randn(LENGTH, WIDTH, generator=torch.Generator().manual_seed(s)) for s in seeds])
        conditions, score = self.encode_prompts(prompts), torch.full((len(seeds),), settings.score or 0.0)
        for k in range(settings.num_steps):
            t = torch.full((len(seeds),), 1 - k / settings.num_steps)
            x = x - self.network(x, t, conditions, score) / settings.num_steps
        return x

    def decode(self, latents: Tensor) -> Tensor:
        return torch.tanh(latents).flatten(1).repeat_interleave(20, dim=1)


@dataclass(frozen=True)
class FakeScore:
    value: float | None
    reason: str | None = None


class Loudness:
    """Mean of the audio: easy to raise, so a loop that works raises it."""

    name = "Loudness"

    def score(self, clips) -> list[FakeScore]:
        return [FakeScore(float(np.mean(clip.audio))) for clip in clips]


class SlowLoudness(Loudness):
    """For what is to be met while it works."""

    name = "SlowLoudness"

    def score(self, clips) -> list[FakeScore]:
        time.sleep(0.5 * len(clips))
        return super().score(clips)


class Softness:
    """A second score, for evaluation only."""

    name = "Softness"

    def score(self, clips) -> list[FakeScore]:
        return [FakeScore(-float(np.std(clip.audio))) for clip in clips]


class Moody(Loudness):
    """Fails on a fixed third of all clips."""

    name = "Moody"

    def score(self, clips) -> list[FakeScore]:
        scores = super().score(clips)
        return [FakeScore(None, "moody") if int(abs(s.value) * 1e6) % 3 == 0 else s for s in scores]


def tiny_generator(delay_s: float = 0.0, step_delay_s: float = 0.0) -> TinyGenerator:
    """`delay_s` is slept in each sample, `step_delay_s` in each training step."""
    return TinyGenerator(delay_s, step_delay_s)


def breaking_generator(marker: str) -> TinyGenerator:
    """Raises in the first sample of each process while the marker file is absent."""
    generator = TinyGenerator()
    sample = generator.sample_latents

    def once(prompts, seeds, settings):
        if not Path(marker).exists():
            Path(marker).touch()
            raise RuntimeError("planted failure")
        return sample(prompts, seeds, settings)

    generator.sample_latents = once
    return generator


def deadly_generator(marker: str) -> TinyGenerator:
    """Kills its own process in the first sample while the marker file is absent."""
    generator = TinyGenerator()
    sample = generator.sample_latents

    def once(prompts, seeds, settings):
        if not Path(marker).exists():
            Path(marker).touch()
            os.kill(os.getpid(), 9)
        return sample(prompts, seeds, settings)

    generator.sample_latents = once
    return generator


class Broken:
    """Fails whatever it is given."""

    name = "Broken"

    def score(self, clips) -> list[FakeScore]:
        raise RuntimeError("out of order")


class Betrayed(Loudness):
    """A judge that falls exactly as the loudness rises."""

    name = "Betrayed"

    def score(self, clips) -> list[FakeScore]:
        return [FakeScore(-found.value) for found in super().score(clips)]


def hanging_generator(where: str) -> TinyGenerator:
    """For ever in a sample or in a training step, from the second call on."""
    generator, calls = TinyGenerator(), []

    def hang_in(method):
        def called(*args, **kwargs):
            calls.append(1)
            if len(calls) > 1 and (where == "sampler" or torch.is_grad_enabled()):
                hang_for_ever()
            return method(*args, **kwargs)

        return called

    if where == "sampler":
        generator.sample_latents = hang_in(generator.sample_latents)
    else:
        generator.network.forward = hang_in(generator.network.forward)
    return generator


def hang_for_ever() -> None:
    while True:
        time.sleep(3600)
