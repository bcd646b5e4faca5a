"""A generator of one's own: what `generator.target` names. This one is a toy, eight voices whose loudness flows.

Run it: see docs/plugging_in.md. What a generator has, with shapes, is the Protocol `Generator` in
rlloop/models/policy.py; read that next, then rlloop/recipes/sampler.py, which calls it.
"""

import math
import zlib

import torch
from torch import nn

from rlloop.flow.solver import euler

FRAMES, VOICES, WORDS = 32, 8, 16  # a latent is [L, D] = [32, 8]: how loud each voice is in each sixteenth of a second


class Velocity(nn.Module):
    """(x_t [B, L, D], t [B], {"text": [B, 16]}, score [B], NaN where there is none) -> velocity [B, L, D]."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(VOICES + WORDS + 3, 64), nn.SiLU(), nn.Linear(64, VOICES))

    def forward(self, x_t, t, conditions, score):
        has_score = (~score.isnan()).to(score)
        beside = torch.cat([conditions["text"], torch.stack([t, score.nan_to_num(), has_score], dim=-1)], dim=-1)
        return x_t + self.layers(torch.cat([x_t, beside[:, None].expand(-1, x_t.shape[1], -1)], dim=-1))


class Voices:
    """What the configuration names. Its arguments are what `generator.options` may set."""

    sample_rate_hz, latent_shape = 16_000, (FRAMES, VOICES)

    def __init__(self, lowest_hz: float = 220.0):
        self.network = Velocity()
        self.pitches_hz = lowest_hz * torch.arange(1, VOICES + 1)

    def encode_prompts(self, prompts):
        text = torch.zeros(len(prompts), WORDS)
        for row, prompt in enumerate(prompts):
            for word in prompt.lower().split():
                text[row, zlib.crc32(word.encode()) % WORDS] = 1
        return {"text": text}

    def null_conditions(self, batch_size):
        return self.encode_prompts([""] * batch_size)

    def sample_latents(self, prompts, seeds, settings):
        conditions = self.encode_prompts(prompts)  # a clip's noise is of its own seed, whatever lies beside it
        noise = torch.stack([torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(s)) for s in seeds])
        score = torch.full((len(seeds),), math.nan if settings.score is None else settings.score)
        return euler(lambda x, t: self.network(x, t, conditions, score), noise, settings.num_steps)

    def decode(self, latents):
        loudness = latents.sigmoid().repeat_interleave(1000, dim=1)  # [B, T, D]: 32 frames of 1000 samples are 2 s
        seconds = torch.arange(loudness.shape[1]) / self.sample_rate_hz
        return (loudness * torch.sin(2 * math.pi * seconds[:, None] * self.pitches_hz)).mean(dim=-1)
