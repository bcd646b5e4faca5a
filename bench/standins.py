"""Stand-ins without torch for what samplers and scorers run: they sleep for a stated time and return tiny results.

Named by bench/standins.yaml (`sampler.target`, `scorer.target`). A sampler takes generator.options.delay_s a ticket, a
scorer a quarter of it, so a pool of scorers a quarter as large keeps up.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np

from rlloop.config import Config, RewardEntry, Role, Sampling, score_name
from rlloop.recipes.sampler import Sample

LATENTS, RATE_HZ = (8, 4), 1600


class StandInSampler:
    """Draws [C, 8, 4] noise from the seeds after a nap; weights are taken and not looked at."""

    def __init__(self, config: Config, role: Role) -> None:
        self.version: int | None = None
        self.nap_s = float(config.generator.options["delay_s"])
        self.generator = SimpleNamespace(sample_rate_hz=RATE_HZ)

    def load(self, arrays: Mapping[str, np.ndarray], version: int, variant: str | None = None) -> None:
        self.version = version

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling) -> Sample:
        time.sleep(self.nap_s)
        latents = np.stack([np.random.default_rng(seed).standard_normal(LATENTS) for seed in seeds]).astype(np.float16)
        return Sample(latents, self.decode(latents), RATE_HZ)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        return np.tanh(latents.reshape(len(latents), -1).astype(np.float32))


class StandInScorer:
    """Each reward is the mean of the clip, after one nap a ticket."""

    def __init__(
        self, config: Config, rewards: Sequence[str | RewardEntry], threads: int, has_gpu: bool = True
    ) -> None:
        self.names = [score_name(reward) for reward in rewards]
        self.nap_s = float(config.generator.options["delay_s"]) / 4

    def score(self, audio: np.ndarray, sample_rate_hz: int, prompts: Sequence[str]) -> tuple[list[dict], list[dict]]:
        time.sleep(self.nap_s)
        return [dict.fromkeys(self.names, float(np.mean(clip))) for clip in audio], [{} for _ in audio]
