"""One set of clips, or one against another, as plain values: scores over prompts, distances over the set.

Prompts are the unit: clips of one prompt are averaged first, and two sets are paired over the prompts that both have.
Clips without a prompt are units of their own, by file name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlloop.evaluation.decomposition import distance_cell, score_cell
from rlloop.evaluation.distances import Distance, mad
from rlloop.evaluation.frechet import FrechetStatistics
from rlloop.evaluation.statistics import plain, prompt_means


@dataclass(frozen=True, eq=False)
class ClipSet:
    """N clips: `units` [N] (the prompt, or what stands for it), `scores` name -> [N] with None where missing, and
    `embeddings` ear -> [N, D] with NaN where a clip could not be heard."""

    name: str
    units: Sequence[str]
    scores: Mapping[str, Sequence[float | None]]
    embeddings: Mapping[str, np.ndarray]

    def means(self, score: str, units: Sequence[str]) -> np.ndarray:
        """[P, 1] mean score of each of these units; NaN where it has none."""
        groups: dict[str, list[float | None]] = {unit: [] for unit in units}
        for unit, value in zip(self.units, self.scores[score], strict=True):
            if unit in groups:
                groups[unit].append(value)
        return np.array([prompt_means([values])[0] if values else np.nan for values in groups.values()])[:, None]

    def heard(self, ear: str) -> np.ndarray:
        """[n, D] of the clips that could be heard."""
        embeddings = self.embeddings[ear]
        is_heard = np.isfinite(embeddings).all(axis=1) & (embeddings.shape[1] > 0)
        return embeddings[is_heard]


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What distances are taken from: `statistics`, and the clips' own `embeddings` [m, D] where they are at hand."""

    name: str
    statistics: FrechetStatistics
    embeddings: np.ndarray | None = None


def compare(
    clips: ClipSet, against: ClipSet | None, yardsticks: Mapping[str, Yardstick], *, allow_other_n: bool = False
) -> dict[str, Any]:
    """All figures of `clips`, and its gains over `against`.

    Args:
        yardsticks: ear -> where its distances are taken from.
        allow_other_n: compare distances of sets of different size; the gain then says so in its note.
    Returns:
        {"clips", "against", "paired_prompts", "scores", "distances", "notes"}. A score's entry is that of score_cell,
        "against", the other set's mean over all its prompts, and "paired_prompts", those that have it in both; a
        distance's that of distance_cell, "against" and "reference".
    """
    theirs = set(against.units) if against else set()
    shared = [unit for unit in dict.fromkeys(clips.units) if unit in theirs]
    notes = []
    if against is not None and len(shared) < 2:
        notes.append(f"{len(shared)} prompts in common: nothing is paired, so there is neither a gain nor a p")
    elif against is not None and len(shared) < len(set(clips.units) | theirs):
        notes.append(f"paired over the {len(shared)} prompts that both have; means are over all prompts of each")
    if against is not None and (alone := sorted(set(clips.scores) ^ set(against.scores))):
        notes.append(f"only one of the two sets is scored by {', '.join(alone)}: no gain in it")
    scores = {name: _score(clips, against, name, shared) for name in clips.scores}
    distances = {}
    for ear, yardstick in yardsticks.items():
        distances |= _distances(clips, against, ear, yardstick, notes, allow_other_n)
    return {
        "clips": _describe(clips),
        "against": None if against is None else _describe(against),
        "paired_prompts": len(shared),
        "scores": scores,
        "distances": distances,
        "notes": notes,
    }


def _describe(clips: ClipSet) -> dict[str, Any]:
    return {"name": clips.name, "num_clips": len(clips.units), "num_prompts": len(set(clips.units))}


def _score(clips: ClipSet, against: ClipSet | None, name: str, shared: Sequence[str]) -> dict[str, Any]:
    """The mean over all prompts of the set; the gain over the shared ones."""
    cell = score_cell(None, clips.means(name, list(dict.fromkeys(clips.units))))
    cell |= {"num_missing": sum(value is None for value in clips.scores[name]), "against": None, "paired_prompts": 0}
    if against is None or name not in against.scores:
        return cell
    other = score_cell(None, against.means(name, list(dict.fromkeys(against.units))))
    if len(shared) >= 2:
        paired = score_cell(against.means(name, shared), clips.means(name, shared))
        cell["paired_prompts"] = paired["num_prompts"]
        if paired["num_prompts"] >= 2:  # of one prompt there is neither an interval nor a test
            cell |= {key: paired[key] for key in ("gain", "ci_low", "ci_high", "p")}
    return cell | {"against": other["mean"]}


def _distances(
    clips: ClipSet, against: ClipSet | None, ear: str, yardstick: Yardstick, notes: list[str], allow_other_n: bool
) -> dict[str, dict[str, Any]]:
    after = _measure(clips, ear, yardstick, notes)
    before = _measure(against, ear, yardstick, notes) if against is not None else {}
    of = yardstick.statistics
    found = {}
    for name, now in after.items():
        then = before.get(name)
        cell = distance_cell(then, now, allow_other_n=allow_other_n)
        if then is not None and then.n != now.n:
            cell["note"] = cell["note"] or f"{name}: compared over sets of {then.n} and {now.n} clips, as allowed"
            notes.append(cell["note"])
        cell["against"] = None if then is None else plain(then.value)
        found[name] = cell | {"reference": {"name": yardstick.name, "num_clips": of.count, "checksum": of.checksum}}
    return found


def _measure(clips: ClipSet, ear: str, yardstick: Yardstick, notes: list[str]) -> dict[str, Distance]:
    """The Frechet distance, and MAD where the reference's clips and the library are at hand."""
    heard = clips.heard(ear)
    if len(heard) < 2:
        notes.append(f"{clips.name}: {len(heard)} clips could be heard by {ear}; a distance needs two")
        return {}
    statistics, known = yardstick.statistics, yardstick.embeddings

    def distance(name: str, value: float) -> Distance:
        return Distance(name, value, len(heard), statistics.checksum, statistics.count)

    name = frechet_name(ear, yardstick)
    found = {name: distance(name, FrechetStatistics.of(heard).distance(statistics))}
    if known is not None:
        try:
            found[f"mad_{ear}"] = distance(f"mad_{ear}", mad(heard, known))
        except ValueError as error:
            if str(error) not in notes:
                notes.append(str(error))
    return found


def frechet_name(ear: str, yardstick: Yardstick) -> str:
    """FAD-CLAP is the published name; `frechet_mini` is the mini stack's own reference."""
    if yardstick.name == "mini":
        return "frechet_mini"
    return "fad_clap" if ear == "clap" else f"frechet_{ear}"
