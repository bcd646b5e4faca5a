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
from rlloop.views.decomposition import OVER_RUNS, OVER_UNLIKE_RUNS, WITHIN_RUN, Grid, markdown, over_runs_grid, run_grid
from rlloop.views.run_decomposition import Decomposition, pairs, run_decomposition

CORPUS_FILE = "corpus.json"  # of a run: which corpus it reads


@dataclass(frozen=True)
class Run:
    """`pairs`: the held-out prompts with their seeds, the same in all rows. `corpus`: its identity and number of rows,
    None where the run keeps none."""

    folder: Path
    config: Config
    decomposition: Decomposition
    pairs: list[tuple[str, tuple[int, ...]]]
    corpus: tuple[str, int] | None

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
    first = next(result for result in results if result.version == found.rows[0]["version"])
    return Run(folder, config, found, pairs(first), read_corpus(folder))


def read_corpus(folder: Path) -> tuple[str, int] | None:
    """Identity and number of rows of the corpus that a run keeps as its own.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / CORPUS_FILE
    if not path.is_file():
        return None
    try:
        kept = json.loads(path.read_text())
        return str(kept["identity"]), int(kept["rows"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); take it from another copy of the run") from None


def report(folders: Sequence[Path]) -> Report:
    """One run's table with intervals over prompts, or the mean gains of several with intervals over runs.

    Runs that repeat a seed or differ in more than that have no p and no interval: they are no sample of one plan.

    Raises:
        ValueError: what read_run refuses, a run that is given twice, or runs whose tables have other stages or other
            held-out prompts or seeds.
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
        unlike = _unlike(runs)
        if unlike:
            rows = without_intervals(rows)
        own = [f"{run.folder}: {note}" for run in runs for note in run.decomposition.notes]
        notes = [(OVER_UNLIKE_RUNS if unlike else OVER_RUNS).format(num_runs=len(runs)), *own, *unlike]
        grid = over_runs_grid(rows, distances, len(runs))
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
        if run.pairs != first.pairs:
            raise ValueError(
                f"{first.folder} and {run.folder} were evaluated on other held-out prompts or seeds "
                f"({len(first.pairs)} and {len(run.pairs)} prompts); give runs that were evaluated on the same"
            )


def without_intervals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `over_runs` with their means alone."""
    none = {"ci_low": None, "ci_high": None, "p": None}
    return [row | {"gains": {name: cell | none for name, cell in row["gains"].items()}} for row in rows]


def _unlike(runs: Sequence[Run]) -> list[str]:
    """What speaks against taking the runs as independent ones of one plan; empty where nothing does."""
    by_seed: dict[int, list[str]] = {}
    for run in runs:
        by_seed.setdefault(run.config.seed, []).append(str(run.folder))
    notes = [f"seed {seed} is that of {', '.join(of)}: not independent" for seed, of in by_seed.items() if len(of) > 1]
    digests = [run.config.model_copy(update={"seed": 0}).digest() for run in runs]
    other = [str(run.folder) for run, digest in zip(runs, digests, strict=True) if digest != digests[0]]
    if other:
        notes.append(f"configured otherwise than {runs[0].folder} in more than the seed: {', '.join(other)}")
    read = [run for run in runs if run.corpus is not None]
    strange = [run for run in read if run.corpus != read[0].corpus]
    if strange:
        found = ", ".join(f"{run.folder} ({run.corpus[1]} rows)" for run in strange)
        notes.append(f"trained on another corpus than {read[0].folder} ({read[0].corpus[1]} rows): {found}")
    return notes
