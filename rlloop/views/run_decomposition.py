"""The decomposition of a run: its evaluations and its plan as the stages of rlloop.evaluation.decomposition.

Here, where the summary and TensorBoard take it from, because rlloop.evaluation knows no plan and no stored result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlloop.config import Config
from rlloop.evaluation.decomposition import Stage, decompose
from rlloop.evaluation.distances import Distance
from rlloop.loop.plan import Plan
from rlloop.loop.snapshot import EvaluationResult

BASELINE = "baseline"


@dataclass(frozen=True)
class Decomposition:
    """`rows` are those of `decompose`, each with "version", "algorithm" (None of the baseline) and "over", the stage
    that its gains are over; `notes` say which stages are left out and which gains are missing."""

    rows: list[dict[str, Any]]
    notes: list[str]


@dataclass(frozen=True)
class End:
    """Where a stage ends: its name in the table, the version, and the algorithm that led there."""

    name: str
    version: int
    algorithm: str | None


def ends_of(plan: Plan) -> list[End]:
    """Version 0, then the end of each stage, in the order of `Plan.required_versions`."""
    stages = zip(plan.stages, plan.stage_ends(), strict=True)
    return [End(BASELINE, 0, None), *(End(stage.name, version, stage.algorithm) for stage, version in stages)]


def run_decomposition(config: Config, results: Sequence[EvaluationResult]) -> Decomposition:
    """One row a stage that was evaluated, each over the one before it in the table.

    A stage whose end was not evaluated, or on other prompts or seeds than the first of the table, is left out; the
    next one's gains are then over an earlier stage. Notes say so.
    """
    kept, notes = _evaluated(ends_of(Plan.from_config(config)), {result.version: result for result in results})
    rows = decompose([stage for _, stage in kept])
    names = [end.name for end, _ in kept]
    for (end, _), row, over in zip(kept, rows, [None, *names], strict=False):
        row |= {"version": end.version, "algorithm": end.algorithm, "over": over}
    notes += [f"{row['stage']}: {cell['note']}" for row in rows for cell in row["distances"].values() if cell["note"]]
    return Decomposition(rows, notes)


def _evaluated(ends: Sequence[End], results: dict[int, EvaluationResult]) -> tuple[list[tuple[End, Stage]], list[str]]:
    """The stages of the table, and a note for each that is left out and each whose gains are over an earlier one."""
    kept: list[tuple[End, Stage]] = []
    notes, was_left_out = [], False
    for end in ends:
        problem = _problem(results.get(end.version), results[kept[0][0].version] if kept else None)
        if problem:
            notes.append(f"{end.name} is left out: version {end.version} {problem}")
        elif was_left_out:
            over = f"are over {kept[-1][0].name}" if kept else "are missing, as nothing before it is in the table"
            notes.append(f"{end.name}: its gains {over}")
        if not problem:
            kept.append((end, as_stage(end.name, results[end.version])))
        was_left_out = bool(problem)
    return kept, notes


def _problem(result: EvaluationResult | None, first: EvaluationResult | None) -> str:
    """Why a stage cannot be in the table; empty if it can."""
    if result is None:
        return "was not evaluated"
    if first is not None and pairs(result) != pairs(first):
        return f"was evaluated on other prompts or seeds than version {first.version}"
    return ""


def as_stage(name: str, result: EvaluationResult) -> Stage:
    distances = {
        key: Distance(key, cell["value"], cell["n"], cell["reference"], cell["reference_n"])
        for key, cell in result.distances.items()
    }
    return Stage(name, result.scores, pairs(result), distances)


def pairs(evaluation: EvaluationResult) -> list[tuple[str, tuple[int, ...]]]:
    """Held-out prompts, each with its seeds."""
    return [(prompt, tuple(own)) for prompt, own in zip(evaluation.prompts, evaluation.seeds, strict=True)]
