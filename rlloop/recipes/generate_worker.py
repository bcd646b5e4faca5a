"""Draws clips, keeps the best candidate of each, post-processes and writes it. Plain class, no Ray.

A clip's file says all that was done; whether it is there already is asked of it alone (generate_folder.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlloop.audio.tagged import write_tagged
from rlloop.config import Config, RewardEntry, Role, StepEntry
from rlloop.recipes.generate_request import candidate_seed
from rlloop.recipes.policy_source import Policy
from rlloop.recipes.postprocess import Chain
from rlloop.recipes.sampler import Sampler
from rlloop.recipes.scorer import Scorer
from rlloop.rewards.base import Clip


@dataclass(frozen=True)
class Job:
    """What is common to all clips of a call; small, it travels to each worker.

    Args:
        out: folder, as a path that every worker sees.
        best_of: candidates a clip; the first of `rewards` decides which is kept.
        postprocess: steps in their order.
        seconds: length that is drawn; None is the generator's own.
        fit_seconds: length that a drawn clip is padded or cut to; None leaves it.
        bits: of a sample. batch: clips of one forward pass.
    """

    config: Config
    policy: Policy
    out: str
    best_of: int = 1
    rewards: tuple[RewardEntry, ...] = ()
    postprocess: tuple[StepEntry, ...] = ()
    seconds: float | None = None
    fit_seconds: float | None = None
    bits: int = 16
    batch: int = 1

    @property
    def settings(self) -> dict[str, Any]:
        """What decides a clip beside its prompt and seed, as plain data; `batch` only decides the last bits."""
        generator = self.config.generator
        found = {
            "generator": generator.model_dump(include={"target", "text_encoder", "options", "dtype", "tf32"}),
            "weights": self.policy.identity,
            "sampling": self.config.sampling.model_dump(),
            "best_of": self.best_of,
            "rewards": [entry.model_dump() for entry in self.rewards],
            "postprocess": [entry.model_dump() for entry in self.postprocess],
            "seconds": self.seconds,
            "fit_seconds": self.fit_seconds,
            "bits": self.bits,
        }
        return json.loads(json.dumps(found))

    @property
    def rows_per_call(self) -> int:
        """Clips whose candidates share forward passes."""
        return max(1, self.batch // self.best_of)


class GenerateWorker:
    """Called with rows of path, prompt and seed, it yields what became of each: {"path"} or {"path", "reason"}.

    Args:
        threads: of torch. device: "cpu" or "cuda".
    Raises:
        ValueError: a model, the weights, a reward or a step cannot be built.
    """

    def __init__(self, job: Job, threads: int, device: str) -> None:
        self.job, self.settings = job, job.settings
        role = Role(threads=threads, num_gpus=0.0 if device == "cpu" else 1.0)
        self.sampler = Sampler(job.config, role)
        job.policy.load(self.sampler)
        if job.seconds is not None:
            set_seconds(self.sampler, job.seconds)
        self.scorer = Scorer(job.config, job.rewards, threads, role.num_gpus > 0)
        self.chain = Chain(job.postprocess, device)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict]:
        size = self.job.rows_per_call
        for first in range(0, len(rows), size):
            yield from self._generate(rows[first : first + size])

    def _generate(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict]:
        seeds = [candidate_seed(row["seed"], n) for row in rows for n in range(self.job.best_of)]
        prompts = [row["prompt"] for row in rows for _ in range(self.job.best_of)]
        clips, broken = self._draw(prompts, seeds)
        scores, reasons = self.scorer.score_clips(clips)
        for number, row in enumerate(rows):
            mine = range(number * self.job.best_of, (number + 1) * self.job.best_of)
            best = max(mine, key=lambda n: (not broken[n], self._rank(scores[n]), -n))
            if broken[best]:
                yield {"path": row["path"], "reason": broken[best]}
                continue
            record = {
                "prompt": row["prompt"],
                "seed": row["seed"],
                "noise_seed": seeds[best],
                "policy": self.job.policy.described,
                "version": self.job.policy.version,
                "scores": scores[best],
                "reasons": reasons[best],
                "settings": self.settings,
            }
            yield self._write(row["path"], clips[best], record)

    def _rank(self, scores: Mapping[str, float | None]) -> float:
        """By the first reward; a candidate that has no score comes last."""
        value = scores[self.scorer.names[0]] if self.scorer.names else None
        return -np.inf if value is None else value

    def _draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> tuple[list[Clip], list[str]]:
        """A clip a seed, and what is wrong with each: "" where nothing is."""
        clips, broken = [], []
        for first in range(0, len(seeds), self.job.batch):
            part = slice(first, first + self.job.batch)
            try:
                drawn = self.sampler.sample(prompts[part], seeds[part], self.job.config.sampling)
            except Exception as error:
                said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                raise ValueError(
                    f"prompt {prompts[first][:60]!r}, seed {seeds[first]}: {' '.join(said.split())}"
                ) from error
            rate = drawn.sample_rate_hz
            waves = [fit(wave, rate, self.job.fit_seconds) for wave in drawn.audio]
            clips += [Clip(wave, rate, prompt) for wave, prompt in zip(waves, prompts[part], strict=True)]
            broken += [not_finite(each, wave) for each, wave in zip(drawn.latents, drawn.audio, strict=True)]
        return clips, broken

    def _write(self, path: str, clip: Clip, record: dict[str, Any]) -> dict:
        """What a step refuses costs this clip alone; a folder that cannot be written to ends the call."""
        try:
            done = self.chain(clip.audio, clip.sample_rate_hz)
        except Exception as error:
            return {"path": path, "reason": " ".join(f"post-processing: {error or type(error).__name__}".split())}
        record = {**record, "postprocess": done.facts}
        write_tagged(Path(self.job.out) / path, done.audio, clip.sample_rate_hz, record, self.job.bits)
        return {"path": path}


def not_finite(latents: np.ndarray, wave: np.ndarray) -> str:
    """Why a drawn clip is none; "" where it is one. A vocoder that clamps makes full scale of infinite latents."""
    if np.isfinite(wave).all() and np.isfinite(latents).all():
        return ""
    return "audio is not finite: the policy diverged, or its settings are extreme"


def fit(wave: np.ndarray, sample_rate_hz: int, seconds: float | None) -> np.ndarray:
    """[T] padded with zeros or cut at its end."""
    if seconds is None:
        return wave
    size = round(seconds * sample_rate_hz)
    return np.pad(wave[:size], (0, max(0, size - len(wave))))


def set_seconds(sampler: Sampler, seconds: float) -> None:
    """Has the generator draw clips of another length.

    Raises:
        ValueError: it knows one length only.
    """
    if not hasattr(sampler.generator, "set_clip_seconds"):
        raise ValueError(
            f"--seconds {seconds:g}: {type(sampler.generator).__name__} has no set_clip_seconds(); leave it out"
        )
    sampler.generator.set_clip_seconds(seconds)
