"""Evaluates any folder of clips, alone or against another: hears each clip once, then compares."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlloop.config import load
from rlloop.evaluation.comparison import ClipSet, Yardstick, compare
from rlloop.evaluation.frechet import FrechetStatistics
from rlloop.evaluation.reference import cached_reference
from rlloop.recipes.clip_files import ClipFile, ScoreLine, list_clips, read_lines, write_lines
from rlloop.recipes.clip_hearing import Advance, hear_clips
from rlloop.recipes.embedders import MINI_REFERENCE, Embedder, make_embedder
from rlloop.recipes.scorer import Scorer
from rlloop.views.progress import JobProgress


@dataclass(frozen=True)
class Listed:
    """The clips of one system, and their scores where those are known already."""

    name: str
    clips: Sequence[ClipFile]
    lines: Sequence[ScoreLine] | None


@dataclass(frozen=True)
class Request:
    """What `rlloop evaluate` was asked for; its help says what each is."""

    clips: Listed
    against: Listed | None
    reference: str
    ears: Sequence[str]
    rewards: Sequence[str]
    config: str
    cache: Path
    crop_seed: int
    batch: int
    allow_other_n: bool

    @property
    def systems(self) -> list[Listed]:
        return [self.clips, *([self.against] if self.against else [])]


def listed(source: Path, scores: Path | None) -> Listed:
    """Lists a folder or clips.jsonl, with the lines of a scores file.

    Raises:
        ValueError: nothing is there, or the scores are of other clips.
    """
    clips = list_clips(source)
    return Listed(str(source), clips, read_scores(scores, clips) if scores else None)


def evaluate(request: Request, out: Path) -> dict[str, Any]:
    """Hears, compares, and writes evaluation.json, the scores as scores.jsonl, and those of the other as against.jsonl.

    Raises:
        ValueError: sets of different size where distances are asked for, a missing weight, an unknown name.
    """
    sizes = [len(system.clips) for system in request.systems]
    if request.reference != "none" and len(set(sizes)) > 1 and not request.allow_other_n:
        raise ValueError(
            f"{request.clips.name} has {sizes[0]} clips and {request.systems[1].name} has {sizes[1]}: distances depend "
            "on n; give sets of one size, --reference none, or --allow-other-n"
        )
    scorer = build_scorer(request)
    yardsticks, embedders = build_yardsticks(request)
    out.mkdir(parents=True, exist_ok=True)
    sets = []
    for system, file in zip(request.systems, ("scores.jsonl", "against.jsonl"), strict=False):
        lines, embeddings = _hear(system, scorer, embedders, request.batch)
        write_lines(out / file, lines)
        sets.append(clip_set(system.name, lines, embeddings))
    report = compare(sets[0], sets[1] if len(sets) > 1 else None, yardsticks, allow_other_n=request.allow_other_n)
    scratch = out / "evaluation.json.tmp"
    scratch.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(scratch, out / "evaluation.json")
    return report


def build_scorer(request: Request) -> Scorer | None:
    """The rewards; None where all scores are given, or none are wanted."""
    if list(request.rewards) == ["none"] or all(system.lines is not None for system in request.systems):
        return None
    import torch

    config = load(request.config)
    return Scorer(config, list(request.rewards) or list(config.evaluation.scores), torch.get_num_threads())


def build_yardsticks(request: Request) -> tuple[dict[str, Yardstick], list[Embedder]]:
    """The reference of each ear, and the ears."""
    if request.reference == "none":
        return {}, []
    ears = ["musicnn"] if request.reference == "mini" else list(request.ears)
    embedders = [make_embedder(ear, request.crop_seed) for ear in ears]
    if request.reference == "mini":
        return {"musicnn": Yardstick("mini", FrechetStatistics.load(MINI_REFERENCE))}, embedders
    folder = Path(request.reference)
    with JobProgress("reference clips", len(list_clips(folder)) * len(embedders)) as progress:
        found = {e.name: folder_yardstick(folder, e, request.cache, request.batch, progress.advance) for e in embedders}
    return found, embedders


def _hear(
    system: Listed, scorer: Scorer | None, embedders: Sequence[Embedder], batch: int
) -> tuple[Sequence[ScoreLine], dict[str, np.ndarray]]:
    """Scores that are known are not computed again."""
    scorer = None if system.lines is not None else scorer
    if scorer is None and not embedders:
        return system.lines or [ScoreLine(clip.path, clip.prompt, {}, {}) for clip in system.clips], {}
    with JobProgress(f"clips of {system.name}", len(system.clips)) as progress:
        lines, embeddings = hear_clips(system.clips, scorer, embedders, batch, progress.advance)
    return (lines if system.lines is None else system.lines), embeddings


def clip_set(name: str, lines: Sequence[ScoreLine], embeddings: Mapping[str, np.ndarray]) -> ClipSet:
    """Lines as arrays; a clip without a prompt is its own unit."""
    names = dict.fromkeys(score for line in lines for score in line.scores)
    scores = {score: [line.scores.get(score) for line in lines] for score in names}
    return ClipSet(name, [line.prompt or line.path for line in lines], scores, embeddings)


def read_scores(path: Path, clips: Sequence[ClipFile]) -> list[ScoreLine]:
    """The lines of these clips in a scores.jsonl of `rlloop score`.

    Raises:
        ValueError: a line is none, or a clip has none; says how many and which comes first.
    """
    found = {}
    for number, row in read_lines(path):
        try:
            line = ScoreLine(**row)
        except TypeError as error:
            raise ValueError(
                f"{path}:{number}: is no line of scores ({error}); expected what rlloop score wrote"
            ) from None
        found[line.path, line.prompt] = line
    lacking = [clip.path for clip in clips if (clip.path, clip.prompt) not in found]
    if lacking:
        raise ValueError(
            f"{path} lacks {len(lacking)} of {len(clips)} clips, {lacking[0]} first; score the same clips again"
        )
    return [found[clip.path, clip.prompt] for clip in clips]


def folder_yardstick(folder: Path, embedder: Embedder, cache: Path, batch: int, advance: Advance) -> Yardstick:
    """A folder of clips (or a clips.jsonl) as the reference, embedded once and kept in `cache`."""
    files = {Path(clip.file): clip for clip in list_clips(folder)}

    def embed(paths: Sequence[Path]) -> tuple[np.ndarray, dict[Path, str]]:
        lines, embeddings = hear_clips([files[path] for path in paths], None, [embedder], batch, advance)
        reasons = {path: line.reasons[embedder.name] for path, line in zip(paths, lines, strict=True) if line.reasons}
        return embeddings[embedder.name][[not line.reasons for line in lines]], reasons

    reference = cached_reference(folder, list(files), embedder.identity, embed, cache)
    return Yardstick(str(folder), reference.statistics, reference.embeddings)
