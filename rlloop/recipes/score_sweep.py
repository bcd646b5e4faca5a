"""Samples the held-out prompts at several values of the conditioning score s, and scores them.

The same prompts and noise seeds at every s, those of the run's evaluations, so that points differ in s alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from rlloop.config import Config
from rlloop.evaluation.distances import Distance
from rlloop.evaluation.frechet import FrechetStatistics
from rlloop.evaluation.sweep import Point, summarise_sweep
from rlloop.loop.checkpoints import MARKER, read_marker
from rlloop.loop.result import is_run, result_checkpoint
from rlloop.recipes.build import heldout_prompts
from rlloop.recipes.clip_hearing import embed_clips, is_mini
from rlloop.recipes.embedders import MINI_REFERENCE, Embedder, musicnn_embedder
from rlloop.recipes.evaluations import evaluation_seeds
from rlloop.recipes.sampler import Sampler
from rlloop.recipes.scorer import Scorer
from rlloop.rewards.base import Clip
from rlloop.views.svg import Line, Panel, figure


def sweep(config: Config, scores: Sequence[float | None], sampler: Sampler, advance: Callable[[int], None]) -> dict:
    """Figures of evaluation.sweep.summarise_sweep and "notes"; the distance is `frechet_mini`, for the mini generator.

    Args:
        scores: the values of s; None samples without a score.
        advance: called with the number of clips after each batch.
    """
    settings = config.evaluation
    scorer = Scorer(config, settings.scores, settings.threads)
    ear = musicnn_embedder() if is_mini(config) else None
    drawn = [_draw(config, s, sampler, scorer, ear, advance) for s in scores]
    points = [Point(s, found) for s, (found, _) in zip(scores, drawn, strict=True)]
    if ear is None:
        target = config.generator.target
        notes = [f"no distance: the generator is {target}, the shipped reference is of the mini stack's training clips"]
    else:
        distances, notes = _distances([rows for _, rows in drawn])
        points = [replace(point, distances=d) for point, d in zip(points, distances, strict=True)]
    return {**summarise_sweep(points), "notes": notes}


def _draw(
    config: Config,
    s: float | None,
    sampler: Sampler,
    scorer: Scorer,
    ear: Embedder | None,
    advance: Callable[[int], None],
) -> tuple[dict[str, np.ndarray], list[np.ndarray | str]]:
    """All (prompt, seed) pairs at one s: scores by name [P, S], and an embedding or the reason for none of each."""
    settings, prompts = config.evaluation, heldout_prompts(config)
    seeds = evaluation_seeds(len(prompts), settings.seeds_per_prompt)
    pairs = [(p, n) for p in range(len(prompts)) for n in range(settings.seeds_per_prompt)]
    found = {name: np.full((len(prompts), settings.seeds_per_prompt), np.nan) for name in scorer.names}
    rows: list[np.ndarray | str] = []
    for first in range(0, len(pairs), settings.batch):
        part = pairs[first : first + settings.batch]
        texts = [prompts[p] for p, _ in part]
        sampling = settings.sampling.model_copy(update={"score": s})
        drawn = sampler.sample(texts, [seeds[p][n] for p, n in part], sampling)
        clips = [Clip(wave, drawn.sample_rate_hz, text) for wave, text in zip(drawn.audio, texts, strict=True)]
        for (p, n), values in zip(part, scorer.score_clips(clips)[0], strict=True):
            for name, value in values.items():
                found[name][p, n] = np.nan if value is None else value
        rows += embed_clips(clips, ear) if ear else []
        advance(len(part))
    return found, rows


def _distances(heard: Sequence[Sequence[np.ndarray | str]]) -> tuple[list[dict[str, Distance]], list[str]]:
    """The distance at each s over the pairs that could be heard at every s, so that n is one."""
    num_pairs = len(heard[0])
    kept = [i for i in range(num_pairs) if not any(isinstance(rows[i], str) for rows in heard)]
    notes = []
    if len(kept) < num_pairs:
        first = next(row for rows in heard for row in rows if isinstance(row, str))
        notes.append(
            f"frechet_mini: over the {len(kept)} of {num_pairs} pairs of prompt and seed heard at every s ({first})"
        )
    if len(kept) < 2:
        return [{} for _ in heard], notes
    reference = FrechetStatistics.load(MINI_REFERENCE)
    values = [FrechetStatistics.of(np.stack([rows[i] for i in kept])).distance(reference) for rows in heard]
    name, of = "frechet_mini", reference
    return [{name: Distance(name, value, len(kept), of.checksum, of.count)} for value in values], notes


def load_policy(sampler: Sampler, weights: Path) -> Path:
    """Puts weights.safetensors, that of a checkpoint's folder, or that of a run's result into the sampler.

    Returns:
        the file that was read.
    Raises:
        ValueError: it is missing, damaged, or not of this network.
    """
    weights = result_checkpoint(weights) if is_run(weights) else weights
    path = weights / "weights.safetensors" if weights.is_dir() else weights
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not readable as safetensors ({error}); give a checkpoint's folder") from error
    marked = (path.parent / MARKER).is_file()
    sampler.load(arrays, 0, read_marker(path.parent).variant if marked else None)
    return path


def write_sweep(found: dict[str, Any], out: Path) -> None:
    """sweep.json and sweep.svg."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "sweep.json").write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (out / "sweep.svg").write_text(sweep_figure(found), encoding="utf-8")


def sweep_figure(found: dict[str, Any]) -> str:
    """A panel a score and distance over s; a point without a score has no place on the axis and is left out."""
    rows = [row for row in found["points"] if row["s"] is not None]
    xs = [row["s"] for row in rows]
    panels = [] if rows else [Panel("no point has a score s")]
    for name in dict.fromkeys(name for row in rows for name in row["scores"]):
        cells = [row["scores"][name] for row in rows]
        mean, low, high = ([cell[key] for cell in cells] for key in ("mean", "ci_low", "ci_high"))
        rho = found["spearman"][name]["rho"]
        title = name if rho is None else f"{name} (Spearman {rho:+.2f})"
        panels.append(Panel(title, [Line(name, xs, mean, low, high)]))
    for name in dict.fromkeys(name for row in rows for name in row["distances"]):
        cells = [row["distances"].get(name) for row in rows]
        size = next(cell["n"] for cell in cells if cell)
        values = [cell["value"] if cell else None for cell in cells]
        panels.append(Panel(f"{name} (lower is nearer, n = {size})", [Line(name, xs, values)]))
    return figure(panels, "conditioning score s")
