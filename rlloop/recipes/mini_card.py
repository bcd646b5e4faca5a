"""Measures the mini generator on the held-out prompts: what the model card says is computed here, never typed in.

Separate from training, so that the card can be made again after a change of reward, vocoder or weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlloop.models.mel import MEL_16K, LogMel
from rlloop.models.policy import FluxAudioGenerator, SamplingSettings, mini_generator
from rlloop.recipes.mini_card_text import model_card
from rlloop.recipes.mini_clips import WINDOW_SAMPLES, Clip, list_clips, load_clips, set_level
from rlloop.rewards.base import Clip as ScoredClip
from rlloop.rewards.base import Reward
from rlloop.rewards.mini import mini_rewards

SEEDS = (0, 1, 2)
BATCH_SIZE = 4
SCORES = (0.0, 0.5, 1.0, 1.5, 2.0)
WEIGHT_FILES = ("fluxaudio", "autoencoder", "vocoder")


@dataclass(frozen=True)
class Bench:
    """What every measurement needs: the generator, the rewards, the held-out clips and their prompts."""

    generator: FluxAudioGenerator
    rewards: Sequence[Reward]
    clips: Sequence[Clip]
    settings: SamplingSettings

    @property
    def prompts(self) -> list[str]:
        """Held-out prompts, each once, in the order of their ids."""
        return [prompt for _, prompt in sorted({(clip.prompt_id, clip.prompt) for clip in self.clips})]

    def score(self, waveforms: Tensor, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """Scores [B, T] at 16 kHz by name, each [B]; NaN where there is none."""
        clips = [ScoredClip(w.numpy(), MEL_16K.sample_rate_hz, p) for w, p in zip(waveforms, prompts, strict=True)]
        return {
            reward.name: np.array([np.nan if s.value is None else s.value for s in reward.score(clips)])
            for reward in self.rewards
        }

    def sample(self, settings: SamplingSettings, seeds: Sequence[int]) -> Tensor:
        """Latents of every held-out prompt with every seed, in batches of one prompt group's size."""
        pairs = [(prompt, 1000 * row + seed) for row, prompt in enumerate(self.prompts) for seed in seeds]
        parts = []
        for start in range(0, len(pairs), BATCH_SIZE):
            prompts, numbers = zip(*pairs[start : start + BATCH_SIZE], strict=True)
            parts.append(self.generator.sample_latents(prompts, numbers, settings))
        return torch.cat(parts)


def summarise(scores: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation and number of the scores that exist."""
    found = {name: values[~np.isnan(values)] for name, values in scores.items()}
    return {
        name: {"mean": _round(v.mean()), "std": _round(v.std()), "n": len(v)} if len(v) else {"n": 0}
        for name, v in found.items()
    }


def describe_training(clips_dir: Path) -> dict:
    """How many clips and prompts the weights were trained on, and the range of their labels."""
    rows = list_clips(clips_dir, is_held_out=False)
    labels = [row["tunejury"] for row in rows]
    return {
        "clips": len(rows),
        "prompts": len({row["id"] for row in rows}),
        "systems": len({row["system"] for row in rows}),
        "label_range": [_round(min(labels)), _round(max(labels))],
    }


def measure_codec(bench: Bench) -> dict:
    """Held-out windows through autoencoder and vocoder: log-mel error, and what the rewards make of it."""
    waves = middle_windows(bench.clips)
    to_mel = LogMel(MEL_16K)
    mel = to_mel(waves)
    network, autoencoder = bench.generator.network, bench.generator.autoencoder
    with torch.inference_mode():
        z = autoencoder.encode(mel)[0]
        error = (autoencoder.decode(z) - mel).abs().mean().item()
        decoded = bench.generator.decode(network.normalise(z.transpose(1, 2)))
        audible = (to_mel(decoded) - mel).abs().mean().item()
    prompts = [clip.prompt for clip in bench.clips]
    before, after = bench.score(waves, prompts), bench.score(decoded, prompts)
    rewards = {
        name: {
            "pearson": _round(np.corrcoef(before[name], after[name])[0, 1]),
            "shift": _round((after[name] - before[name]).mean()),
        }
        for name in before
    }
    return {"log10_mel_l1": _round(error), "log10_mel_l1_after_vocoder": _round(audible), "rewards": rewards}


def measure_references(bench: Bench) -> dict:
    """Scores of the real held-out clips by system, of white noise and of silence, over the same 5 s."""
    waves = middle_windows(bench.clips)
    found = {}
    for system in sorted({clip.system for clip in bench.clips}):
        rows = [row for row, clip in enumerate(bench.clips) if clip.system == system]
        found[system] = summarise(bench.score(waves[rows], [bench.clips[row].prompt for row in rows]))
    noise = set_level(torch.randn(len(bench.prompts), WINDOW_SAMPLES, generator=torch.Generator().manual_seed(0)))
    found["white_noise"] = summarise(bench.score(noise, bench.prompts))
    found["silence"] = summarise(bench.score(torch.zeros_like(noise), bench.prompts))
    return found


def measure_generated(bench: Bench) -> dict:
    """Scores of generated clips at the default settings, and their mean over the conditioning score."""
    prompts = [prompt for prompt in bench.prompts for _ in SEEDS]
    latents = bench.sample(bench.settings, SEEDS)
    found = {"default": summarise(bench.score(bench.generator.decode(latents), prompts)), "over_score": {}}
    for s in (None, *SCORES):
        latents = bench.sample(replace(bench.settings, score=s), SEEDS)
        found["over_score"][str(s)] = summarise(bench.score(bench.generator.decode(latents), prompts))
    return found


def measure_seconds(bench: Bench) -> dict:
    """CPU seconds per clip of sampling and of decoding on one thread, in batches of `BATCH_SIZE`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.process_time()
        latents = bench.sample(bench.settings, SEEDS[:1])
        middle = time.process_time()
        bench.generator.decode(latents)
        end = time.process_time()
    finally:
        torch.set_num_threads(threads)
    count = len(latents)
    return {"sample": _round((middle - start) / count), "decode": _round((end - middle) / count), "batch": BATCH_SIZE}


def measure_sizes(bench: Bench, assets: Path) -> dict:
    """Bytes of the weight files and numbers of parameters."""
    generator = bench.generator
    return {
        "bytes": {name: (assets / f"{name}.safetensors").stat().st_size for name in WEIGHT_FILES},
        "parameters": {
            "network": sum(p.numel() for p in generator.network.parameters()),
            "autoencoder": sum(p.numel() for p in generator.autoencoder.parameters()),
        },
    }


def write_mini_card(clips_dir: Path, assets: Path, settings: SamplingSettings | None = None) -> dict:
    """Measures the weights in `assets` on the held-out clips; writes card_generator.json and MODEL_CARD.md there.

    The rewards are the shipped ones, so that cards of different weights can be compared.

    Args:
        clips_dir: with clips.jsonl. settings: what counts as default; those of `SamplingSettings` if None.
    Returns:
        what card_generator.json holds.
    """
    generator = mini_generator(assets=assets)
    rewards = mini_rewards(["tunejury_mini", "judge_mini", "alignment_mini"], generator.encode_prompts)
    clips = load_clips(clips_dir, is_held_out=True)
    bench = Bench(generator, rewards, clips, settings or SamplingSettings())
    card = {
        "training": describe_training(clips_dir),
        "held_out": {"prompts": len(bench.prompts), "clips": len(clips), "seeds": list(SEEDS)},
        "settings": vars(bench.settings),
        "codec": measure_codec(bench),
        "references": measure_references(bench),
        "generated": measure_generated(bench),
        "seconds_per_clip_one_thread": measure_seconds(bench),
        "sizes": measure_sizes(bench, assets),
    }
    (assets / "card_generator.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    rewards_card = assets / "card_rewards.json"
    heard = json.loads(rewards_card.read_text(encoding="utf-8")) if rewards_card.is_file() else {}
    (assets / "MODEL_CARD.md").write_text(model_card(card, heard), encoding="utf-8")
    return card


def middle_windows(clips: Sequence[Clip]) -> Tensor:
    """The middle 5 s of each clip at the common level: [B, T]."""
    start = (clips[0].waveform.shape[0] - WINDOW_SAMPLES) // 2
    return torch.stack([clip.waveform[start : start + WINDOW_SAMPLES] for clip in clips])


def _round(value: float) -> float:
    return round(float(value), 4)
