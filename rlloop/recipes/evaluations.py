"""Evaluation of one version on fixed held-out (prompt, seed) pairs, and its result files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rlloop.config import Config
from rlloop.loop.files import as_kind, is_inside, read_json
from rlloop.loop.snapshot import EvaluationResult
from rlloop.recipes.judges import SetJudges, write_embeddings
from rlloop.recipes.sampler import Sampler
from rlloop.recipes.scorer import Scorer
from rlloop.rewards.base import Clip

SEED_BASE = 20_000  # the same for every run, so that runs can be compared


def evaluation_seeds(num_prompts: int, seeds_per_prompt: int) -> list[list[int]]:
    """Fixed noise seeds [prompt][seed]; they depend on no run."""
    return [[SEED_BASE + p * 1000 + s for s in range(seeds_per_prompt)] for p in range(num_prompts)]


def next_version(newest: int, stored: set[int], required: Sequence[int], in_between: bool) -> int | None:
    """What to evaluate next: the lowest required version that exists and has no result, else the newest, if wanted."""
    due = [version for version in required if version <= newest and version not in stored]
    if due:
        return due[0]
    return newest if in_between and newest not in stored else None


def evaluate(
    sampler: Sampler,
    scorer: Scorer,
    prompts: Sequence[str],
    config: Config,
    run_dir: Path,
    version: int,
    stage: str,
    progress: Callable[[int, int, float], None],
    judges: SetJudges | None = None,
) -> EvaluationResult:
    """Samples every (prompt, seed) pair in batches, scores it, keeps the audio of the first `audio_clips` prompts.

    `progress(done, total, seconds)` is called after each batch. Judges of sets leave their embeddings on disk.
    """
    settings = config.evaluation
    seeds = evaluation_seeds(len(prompts), settings.seeds_per_prompt)
    pairs = [(p, s) for p in range(len(prompts)) for s in range(settings.seeds_per_prompt)]
    scores = {name: [[None] * settings.seeds_per_prompt for _ in prompts] for name in scorer.names}
    audio_paths = []
    heard: dict[str, list[np.ndarray]] = {name: [] for name in judges.embedders} if judges else {}
    for first in range(0, len(pairs), settings.batch):
        began = time.monotonic()
        batch = pairs[first : first + settings.batch]
        texts = [prompts[p] for p, _ in batch]
        drawn = sampler.sample(texts, [seeds[p][s] for p, s in batch], settings.sampling)
        clips = [Clip(wave, drawn.sample_rate_hz, text) for wave, text in zip(drawn.audio, texts, strict=True)]
        judged, _ = scorer.score_clips(clips)
        for name, found in (judges.embed(clips) if judges else {}).items():
            heard[name].append(found)
        for (p, s), found, audio in zip(batch, judged, drawn.audio, strict=True):
            for name, value in found.items():
                scores[name][p][s] = value
            if s == 0 and p < settings.audio_clips:
                name = f"version{version:06d}-prompt{p:03d}"
                audio_paths.append(write_clip(run_dir, name, audio, drawn.sample_rate_hz))
        progress(first + len(batch), len(pairs), time.monotonic() - began)
    sets = {name: np.concatenate(found).reshape(len(prompts), -1, found[0].shape[-1]) for name, found in heard.items()}
    write_embeddings(run_dir, version, sets)
    distances = judges.distances(sets) if judges else {}
    return EvaluationResult(version, stage, list(prompts), seeds, scores, audio_paths, 0.0, time.time(), distances)


def write_clip(run_dir: Path, name: str, audio: np.ndarray, sample_rate_hz: int) -> str:
    """Writes [T] float audio as 16-bit FLAC; returns its path relative to run_dir."""
    import soundfile

    path = run_dir / "audio" / f"{name}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(audio, -1, 1), sample_rate_hz, subtype="PCM_16")
    return str(path.relative_to(run_dir))


def write_result(run_dir: Path, result: EvaluationResult) -> None:
    """Stores a result under its version; complete or not there."""
    path = run_dir / "evaluations" / f"version{result.version:06d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(asdict(result)))
    os.replace(scratch, path)


def evaluated_versions(run_dir: Path) -> set[int]:
    """Versions that have a stored result."""
    return {int(path.stem.removeprefix("version")) for path in (run_dir / "evaluations").glob("version*.json")}


def stored_results(run_dir: Path) -> list[EvaluationResult]:
    """All stored results, by version."""
    files = sorted((run_dir / "evaluations").glob("version*.json"))
    return [read_result(path) for path in files]


def read_result(path: Path) -> EvaluationResult:
    """One stored result.

    Raises:
        ValueError: it is none, of another version than its name says, or names audio outside the run.
    """
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("distances", {}), dict):
        raise ValueError(f"{path}: is no result of an evaluation")
    result = as_kind(EvaluationResult, from_json_fields(found), f"{path}: is no result of an evaluation")
    if path.name != f"version{result.version:06d}.json":
        raise ValueError(f"{path}: is of version {result.version}")
    if outside := [name for name in result.audio if not is_inside(name)]:
        raise ValueError(f"{path}: names {outside[0]!r}, which is outside of the run")
    shape = (len(result.prompts), [len(seeds) for seeds in result.seeds])
    for name, rows in result.scores.items():
        if (len(rows), [len(row) for row in rows]) != shape or len(result.seeds) != len(result.prompts):
            raise ValueError(f"{path}: '{name}' has not one score a prompt and seed")
    return result


def from_json_fields(data: dict[str, Any]) -> dict[str, Any]:
    """The fields of a stored result; older ones kept of a distance its value alone."""
    unknown = {"n": None, "reference": None, "reference_n": None}
    distances = {
        name: found if isinstance(found, dict) else {"value": found, **unknown}
        for name, found in data.get("distances", {}).items()
    }
    return {**data, "distances": distances}
