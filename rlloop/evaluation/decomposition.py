"""What each stage of a run contributed: every stage against the one before it (the stage table of arXiv:2606.21670).

Scores have a value per prompt, so their gain has a paired t-test and an interval; distances have neither
(distances.py says why). A row is a plain dict without NaN, as `decomposition` of summary.json holds it:

    {"stage": "sft", "scores": {"tunejury": {"mean", "gain", "ci_low", "ci_high", "p", "num_prompts", "num_missing"}},
     "distances": {"fad_clap": {"value", "n", "gain", "note"}}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from rlloop.evaluation.distances import Distance, distance_gain
from rlloop.evaluation.statistics import Scores, estimate, paired, plain


@dataclass(frozen=True)
class Stage:
    """The evaluation after one stage. `scores`: name -> [P, S]; `pairs`: P (prompt, its S seeds), one list for all."""

    name: str
    scores: Mapping[str, Scores]
    pairs: Sequence[tuple[str, tuple[int, ...]]]
    distances: Mapping[str, Distance] = field(default_factory=dict)


def decompose(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """One row a stage, in order; the first has no gain. A score or distance that the stage before lacks has none.

    Raises:
        ValueError: two stages were evaluated on other prompts or seeds, so that nothing is paired.
    """
    for stage in stages[1:]:
        if list(stage.pairs) != list(stages[0].pairs):
            raise ValueError(
                f"decomposition: {stages[0].name} and {stage.name} were evaluated on other prompts or seeds "
                f"({len(stages[0].pairs)} and {len(stage.pairs)} prompts); evaluate both on the same"
            )
    return [_row(stage, before) for before, stage in zip([None, *stages], stages, strict=False)]


def _row(stage: Stage, before: Stage | None) -> dict[str, Any]:
    earlier_scores = before.scores if before else {}
    earlier_distances = before.distances if before else {}
    return {
        "stage": stage.name,
        "scores": {name: score_cell(earlier_scores.get(name), values) for name, values in stage.scores.items()},
        "distances": {name: distance_cell(earlier_distances.get(name), d) for name, d in stage.distances.items()},
    }


def score_cell(before: Scores | None, after: Scores) -> dict[str, Any]:
    """The mean after, and the paired gain with its interval and p where there is a before."""
    now = estimate(after)
    cell: dict[str, Any] = {
        "mean": plain(now.mean),
        "mean_ci_low": plain(now.ci_low),
        "mean_ci_high": plain(now.ci_high),
    }
    gain = None if before is None else paired(before, after)
    known = gain is not None and gain.num_prompts > 0
    cell |= {key: plain(getattr(gain, key)) if known else None for key in ("gain", "ci_low", "ci_high")}
    cell["p"] = gain.p_value if known else None
    source = gain if gain is not None else now
    return cell | {"num_prompts": source.num_prompts, "num_missing": source.num_missing}


def distance_cell(before: Distance | None, after: Distance, *, allow_other_n: bool = False) -> dict[str, Any]:
    """The value after with its n; the gain, or in `note` why there is none."""
    gain, note = None, ""
    if before is not None:
        try:
            gain = plain(distance_gain(before, after, allow_other_n=allow_other_n))
        except ValueError as error:
            note = str(error)
    return {"value": plain(after.value), "n": after.n, "gain": gain, "note": note}


def over_runs(tables: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Decompositions of runs that differ in seed, as one: gains with their mean over runs and its 95 % t-interval.

    Returns:
        rows {"stage", "gains": {score or distance: {"mean", "ci_low", "ci_high", "p", "num_runs"}}}; p is that of a
        two-sided t-test over runs. A gain that some run lacks is taken over the others.
    Raises:
        ValueError: the runs have other stages.
    """
    names = [row["stage"] for row in tables[0]]
    for table in tables[1:]:
        if [row["stage"] for row in table] != names:
            raise ValueError(f"runs with the stages {names} and {[row['stage'] for row in table]} have no common table")
    return [
        {
            "stage": name,
            "gains": {key: _over_runs([table[number] for table in tables], key) for key in _columns(tables)},
        }
        for number, name in enumerate(names)
    ]


def _columns(tables: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    return list(
        dict.fromkeys(name for table in tables for row in table for name in (*row["scores"], *row["distances"]))
    )


def _over_runs(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    cells = [{**row["scores"], **row["distances"]}.get(key, {}) for row in rows]
    gains = np.array([cell["gain"] for cell in cells if cell.get("gain") is not None])
    out: dict[str, Any] = {"mean": plain(gains.mean()) if len(gains) else None, "num_runs": len(gains)}
    if len(gains) < 2 or np.ptp(gains) == 0:
        return out | {"ci_low": None, "ci_high": None, "p": None}
    half = stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains)
    p = stats.ttest_1samp(gains, 0.0).pvalue
    return out | {"ci_low": plain(gains.mean() - half), "ci_high": plain(gains.mean() + half), "p": plain(p)}
