"""The judges of a run: which held-out scores are watched, and what the alarm finds after each evaluation.

A judge is a score that no stage ranks by or trains with, or `frechet_mini`: how far the clips as a set lie from real
music, heard by an ear that saw no label of the reward.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rlloop.config import Config
from rlloop.evaluation.alarm import Evaluated, look
from rlloop.evaluation.frechet import FrechetStatistics
from rlloop.evaluation.reference import load_reference
from rlloop.loop.snapshot import EvaluationResult
from rlloop.recipes.embedders import MINI_REFERENCE, Embedder, make_embedder
from rlloop.rewards.base import Clip

EARS = {"frechet_mini": "musicnn", "fad_clap": "clap"}  # judge of sets -> what it hears with


def set_judges(config: Config) -> dict[str, FrechetStatistics]:
    """Judges of sets that this run has -> their references.

    Raises:
        ValueError: evaluation.fad_reference is no reference, or one of another ear.
    """
    named = [name for name in config.judges() if name in EARS]
    return {name: _reference(name, config) for name in named}


def _reference(judge: str, config: Config) -> FrechetStatistics:
    if judge == "frechet_mini":
        return FrechetStatistics.load(MINI_REFERENCE)
    found = load_reference(Path(config.evaluation.fad_reference or "").expanduser())
    if not found.identity.startswith("clap"):
        raise ValueError(
            f"evaluation.fad_reference: this reference was heard by {found.identity!r}, expected clap; "
            "make one: rlloop evaluate CLIPS --reference FOLDER --embedding clap"
        )
    return found.statistics


class SetJudges:
    """Hears whole sets of clips: one embedding a clip, and the distance of all of them from the reference."""

    def __init__(self, config: Config):
        self.references = set_judges(config)
        self.embedders: dict[str, Embedder] = {name: make_embedder(EARS[name]) for name in self.references}

    def embed(self, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
        """Judge -> [n, D]; NaN for all where a clip cannot be heard."""
        found = {}
        for name, embedder in self.embedders.items():
            try:
                found[name] = embedder.embed(clips).astype(np.float32)
            except Exception:  # a broken clip costs its batch its embeddings, never the evaluation
                found[name] = np.full((len(clips), self.references[name].dim), np.nan, np.float32)
        return found

    def distances(self, embeddings: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
        """Judge -> Frechet distance of the clips [P, S, D] that could be heard; left out with fewer than two.

        Returns:
            name -> {"value", "n", "reference", "reference_n"}, as EvaluationResult holds it.
        """
        heard = {name: found.reshape(-1, found.shape[-1]) for name, found in embeddings.items()}
        heard = {name: found[np.isfinite(found).all(axis=1)] for name, found in heard.items()}
        return {name: distance_entry(found, self.references[name]) for name, found in heard.items() if len(found) > 1}


def distance_entry(heard: np.ndarray, reference: FrechetStatistics) -> dict[str, Any]:
    """The Frechet distance of embeddings [n, D] with what its value depends on."""
    value = reference.distance(FrechetStatistics.of(heard))
    return {"value": value, "n": len(heard), "reference": reference.checksum, "reference_n": reference.count}


def alarms(config: Config, run_dir: Path, results: Sequence[EvaluationResult], num_planned: int) -> list[dict]:
    """What sets off the alarm at the newest of these evaluations: judge, versions, changes, p, and a sentence."""
    judges = config.judges()
    if not judges:
        return []
    sets = set_judges(config)
    history = [
        Evaluated(one.version, one.scores, {n: read_embeddings(run_dir, one, n, s.dim) for n, s in sets.items()})
        for one in sorted(results, key=lambda one: one.version)
    ]
    findings = look(
        history,
        config.headline_score,
        judges,
        num_planned=num_planned,
        references={name: statistics.mean for name, statistics in sets.items()},
        window=config.evaluation.alarm.window,
        level=config.evaluation.alarm.level,
    )
    raised = [finding for finding in findings if finding.is_alarm]
    return [{**asdict(f), "best_version": f.best_version, "text": str(f)} for f in raised]


def embeddings_path(run_dir: Path, version: int, judge: str) -> Path:
    return run_dir / "evaluations" / f"version{version:06d}-{judge}.npy"


def write_embeddings(run_dir: Path, version: int, embeddings: Mapping[str, np.ndarray]) -> None:
    """Keeps [P, S, D] of each judge beside the version's result; complete or not there."""
    for judge, found in embeddings.items():
        path = embeddings_path(run_dir, version, judge)
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".tmp")
        with scratch.open("wb") as file:
            np.save(file, found, allow_pickle=False)
        os.replace(scratch, path)


def read_embeddings(run_dir: Path, result: EvaluationResult, judge: str, dim: int) -> np.ndarray:
    """[P, S, D = dim]; all NaN where the version was evaluated without this judge, or its file is damaged."""
    try:
        return np.load(embeddings_path(run_dir, result.version, judge), allow_pickle=False)
    except (OSError, ValueError):
        shape = (len(result.prompts), len(result.seeds[0]), dim)
        return np.full(shape, np.nan, np.float32)
