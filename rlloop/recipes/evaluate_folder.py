"""Evaluates any folder of clips, alone or against another: hears each clip once, then compares."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlloop.config import Config, load
from rlloop.data.prompts import shipped_prompts
from rlloop.evaluation.comparison import ClipSet, Yardstick, compare
from rlloop.evaluation.frechet import FrechetStatistics
from rlloop.evaluation.reference import cached_reference
from rlloop.models.text import normalise_prompt
from rlloop.recipes.clip_files import ScoreLine, list_clips, write_lines
from rlloop.recipes.clip_hearing import Advance, hear_clips
from rlloop.recipes.disk import make_writable
from rlloop.recipes.embedders import MINI_REFERENCE, Embedder, make_embedder
from rlloop.recipes.evaluate_request import Listed, Request, choose_reference, outputs, refuse
from rlloop.recipes.scorer import Scorer
from rlloop.rewards.mini import MINI_NAMES
from rlloop.views.progress import JobProgress


def evaluate(request: Request, out: Path) -> dict[str, Any]:
    """Hears, compares, and writes evaluation.json; new scores as scores.jsonl, those of the other as against.jsonl.

    Returns:
        what compare returns; "clips" and "against" say in "scores" which file theirs are in.
    Raises:
        ValueError: sets of different size where distances are asked for, a missing weight, an unknown name, options
            that contradict each other, or an output that is an input.
    """
    config = load(request.config)
    reference, notes = choose_reference(request, config)
    refuse(request, reference, out)
    make_writable(out)
    scorer = build_scorer(request, config)
    yardsticks, embedders = build_yardsticks(request, reference)
    sets, files = [], []
    for system, file in zip(request.systems, outputs(out), strict=False):
        lines, embeddings, unheard = _hear(system, scorer, embedders, request.batch)
        if system.lines is None:
            write_lines(file, lines)
        files.append(str(system.scores or file))
        sets.append(clip_set(str(system.source), lines, embeddings))
        notes += unheard + fitted_note(sets[-1], reference)
    report = compare(sets[0], sets[1] if len(sets) > 1 else None, yardsticks, allow_other_n=request.allow_other_n)
    for key, file in zip(("clips", "against"), files, strict=False):
        report[key]["scores"] = file
    report["notes"] += notes
    scratch = out / "evaluation.json.tmp"
    scratch.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(scratch, out / "evaluation.json")
    return report


def fitted_note(clips: ClipSet, reference: str) -> list[str]:
    """Says so where the bundled measures are asked about prompts whose clips they were made from."""
    names = [name for name in clips.scores if name in MINI_NAMES]
    names += ["frechet_mini"] if reference == "mini" else []
    fitted = {normalise_prompt(prompt) for prompt in shipped_prompts("train")}
    units = set(clips.units)
    known = sum(normalise_prompt(unit) in fitted for unit in units)
    if not names or not known:
        return []
    return [
        f"{clips.name}: {known} of {len(units)} prompts are those of the clips that {', '.join(names)} were made from; "
        "clips of these are judged by what has seen them, so evaluate on other prompts"
    ]


def build_scorer(request: Request, config: Config) -> Scorer | None:
    """The rewards; None where all scores are given, or none are wanted."""
    if list(request.rewards) == ["none"] or request.has_all_scores:
        return None
    import torch

    return Scorer(config, list(request.rewards) or list(config.evaluation.scores), torch.get_num_threads())


def build_yardsticks(request: Request, reference: str) -> tuple[dict[str, Yardstick], list[Embedder]]:
    """The reference of each ear, and the ears."""
    if reference == "none":
        return {}, []
    embedders = [make_embedder(ear, request.crop_seed) for ear in request.ears]
    if reference == "mini":
        return {"musicnn": Yardstick("mini", FrechetStatistics.load(MINI_REFERENCE))}, embedders
    folder = Path(reference)
    with JobProgress("reference clips", len(list_clips(folder)) * len(embedders)) as progress:
        found = {e.name: folder_yardstick(folder, e, request.cache, request.batch, progress.advance) for e in embedders}
    return found, embedders


def _hear(
    system: Listed, scorer: Scorer | None, embedders: Sequence[Embedder], batch: int
) -> tuple[Sequence[ScoreLine], dict[str, np.ndarray], list[str]]:
    """Lines, embeddings, and a note for each ear that missed clips. Scores that are known are not computed again."""
    scorer = None if system.lines is not None else scorer
    if scorer is None and not embedders:
        return system.lines or [ScoreLine(clip.path, clip.prompt, {}, {}) for clip in system.clips], {}, []
    with JobProgress(f"clips of {system.source}", len(system.clips)) as progress:
        lines, embeddings = hear_clips(system.clips, scorer, embedders, batch, progress.advance)
    notes = []
    for ear in embeddings:
        missed = [line for line in lines if ear in line.reasons]
        if missed:
            first = f"{missed[0].path}: {missed[0].reasons[ear]}"
            notes.append(f"{system.source}: {len(missed)} of {len(lines)} clips not heard by {ear} ({first})")
    return (lines if system.lines is None else system.lines), embeddings, notes


def clip_set(name: str, lines: Sequence[ScoreLine], embeddings: Mapping[str, np.ndarray]) -> ClipSet:
    """Lines as arrays; a clip without a prompt is its own unit."""
    names = dict.fromkeys(score for line in lines for score in line.scores)
    scores = {score: [line.scores.get(score) for line in lines] for score in names}
    return ClipSet(name, [line.prompt or line.path for line in lines], scores, embeddings)


def folder_yardstick(folder: Path, embedder: Embedder, cache: Path, batch: int, advance: Advance) -> Yardstick:
    """A folder of clips (or a clips.jsonl) as the reference, embedded once and kept in `cache`."""
    files = {Path(clip.file): clip for clip in list_clips(folder)}

    def embed(paths: Sequence[Path]) -> tuple[np.ndarray, dict[Path, str]]:
        lines, embeddings = hear_clips([files[path] for path in paths], None, [embedder], batch, advance)
        reasons = {path: line.reasons[embedder.name] for path, line in zip(paths, lines, strict=True) if line.reasons}
        return embeddings[embedder.name][[not line.reasons for line in lines]], reasons

    reference = cached_reference(folder, list(files), embedder.identity, embed, cache)
    return Yardstick(str(folder), reference.statistics, reference.embeddings)
