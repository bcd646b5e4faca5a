"""What `rlloop decomposition` shows: the stages of one run, or of several that differ in seed, from their files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlloop.config import Config, build
from rlloop.evaluation.decomposition import over_runs
from rlloop.recipes.evaluations import stored_results
from rlloop.views.contributions import contribution_lines, order_of_contributions
from rlloop.views.decomposition import OVER_RUNS, WITHIN_RUN, Grid, markdown, over_runs_grid, run_grid
from rlloop.views.run_decomposition import Decomposition, run_decomposition


@dataclass(frozen=True)
class Run:
    folder: Path
    config: Config
    decomposition: Decomposition

    @property
    def stages(self) -> list[str]:
        return [row["stage"] for row in self.decomposition.rows]

    @property
    def distances(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.decomposition.rows for name in row["distances"]))


@dataclass(frozen=True)
class Report:
    """`data` is the JSON file; `grid`, `notes` and `lines` (of the order of contributions) are what is shown."""

    data: dict[str, Any]
    grid: Grid
    notes: list[str]
    lines: list[str]

    @property
    def markdown(self) -> str:
        notes = [f"- {note}" for note in self.notes[1:]]
        return "\n".join([markdown(self.grid), "", self.notes[0], *(["", *notes] if notes else []), "", *self.lines])


def read_run(folder: Path) -> Run:
    """A run's configuration and its stored evaluations.

    Raises:
        ValueError: there is no run, nothing of it was evaluated at the end of a stage, or a file is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no run: {path} is missing; give the run_dir that a run printed")
    try:
        raw = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}; take it from another copy of the run") from None
    config = build(raw, str(path))
    try:
        results = stored_results(folder)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder}/evaluations holds a damaged result: {error}; remove it and resume the run"
        ) from None
    found = run_decomposition(config, results)
    if not found.rows:
        raise ValueError(f"{folder}: neither version 0 nor the end of a stage was evaluated yet; resume the run")
    return Run(folder, config, found)


def report(folders: Sequence[Path]) -> Report:
    """One run's table with intervals over prompts, or the mean gains of several with intervals over runs.

    Raises:
        ValueError: what read_run refuses, a run that is given twice, or runs whose tables have other stages.
    """
    runs = [read_run(folder) for folder in folders]
    data: dict[str, Any] = {"runs": [_entry(run) for run in runs], "over_runs": None}
    if len(runs) == 1:
        rows = runs[0].decomposition.rows
        grid, notes = run_grid(rows), [WITHIN_RUN, *runs[0].decomposition.notes]
        order = order_of_contributions(rows)
    else:
        _refuse(runs)
        rows = over_runs([run.decomposition.rows for run in runs])
        distances = list(dict.fromkeys(name for run in runs for name in run.distances))
        grid, notes = over_runs_grid(rows, distances, len(runs)), [OVER_RUNS.format(num_runs=len(runs)), *_notes(runs)]
        order = order_of_contributions(rows, distances)
        data["over_runs"] = rows
    data |= {"order_of_contributions": order, "notes": notes}
    return Report(data, grid, notes, contribution_lines(order))


def _entry(run: Run) -> dict[str, Any]:
    return {
        "run_dir": str(run.folder),
        "seed": run.config.seed,
        "decomposition": run.decomposition.rows,
        "decomposition_notes": run.decomposition.notes,
    }


def _refuse(runs: Sequence[Run]) -> None:
    first = runs[0]
    if len(first.stages) < 2:
        raise ValueError(f"{first.folder} was evaluated at {first.stages[0]} alone: there is no gain to take a mean of")
    seen: set[Path] = set()
    for run in runs:
        if run.folder.resolve() in seen:
            raise ValueError(f"{run.folder} is given twice; give each run once")
        seen.add(run.folder.resolve())
        if run.stages != first.stages:
            raise ValueError(
                f"{first.folder} has the stages {', '.join(first.stages)} and {run.folder} {', '.join(run.stages)}; "
                "give runs that were evaluated at the same stages"
            )


def _notes(runs: Sequence[Run]) -> list[str]:
    """Each run's own notes, and what speaks against taking the runs together."""
    notes = [f"{run.folder}: {note}" for run in runs for note in run.decomposition.notes]
    by_seed: dict[int, list[str]] = {}
    for run in runs:
        by_seed.setdefault(run.config.seed, []).append(str(run.folder))
    notes += [f"seed {seed} is that of {', '.join(of)}: not independent" for seed, of in by_seed.items() if len(of) > 1]
    digests = [run.config.model_copy(update={"seed": 0}).digest() for run in runs]
    other = [str(run.folder) for run, digest in zip(runs, digests, strict=True) if digest != digests[0]]
    if other:
        notes.append(f"configured otherwise than {runs[0].folder} in more than the seed: {', '.join(other)}")
    return notes
