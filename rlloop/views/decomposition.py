"""The decomposition as a table: for a terminal of any width, and as markdown.

One run shows its stages with their gains; several show the mean gains over runs (rlloop.evaluation.decomposition).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlloop.views.scores import show_score

WITHIN_RUN = (
    "Each cell: the mean, then Δ, the gain over the stage above, with its p and 95 % interval. Both are within this "
    "one run, paired over its held-out prompts: they say nothing of another seed. ↓: a distance of the whole set of n "
    "clips, lower is nearer, without p and interval."
)
OVER_RUNS = (
    "Each cell: Δ, the gain over the stage above as the mean over {num_runs} runs, with p and 95 % interval of a "
    "t-test over runs. ↓: a distance, lower is nearer."
)
OVER_UNLIKE_RUNS = (
    "Each cell: Δ, the gain over the stage above as the mean over {num_runs} runs, without p and interval, because the "
    "runs are not independent ones of one plan. ↓: a distance, lower is nearer."
)
GAP = 2  # columns of the terminal between columns of the table
STAGE_WIDTH = 18


@dataclass(frozen=True)
class Grid:
    """What is shown: score and distance names across, stages down, each cell a list of lines."""

    names: Sequence[str]
    rows: Sequence[tuple[str, Mapping[str, Sequence[str]]]]

    def width_of(self, name: str) -> int:
        lines = [line for _, cells in self.rows for line in cells.get(name, ())]
        return max(map(len, [name, *lines]))


def run_grid(rows: Sequence[Mapping[str, Any]]) -> Grid:
    """The grid of one run's `decompose` rows."""
    shown = []
    for row in rows:
        cells = {name: _score_lines(cell) for name, cell in row["scores"].items()}
        cells |= {f"{name} ↓": _far_lines(cell) for name, cell in row["distances"].items()}
        shown.append((row["stage"], cells))
    return Grid(_names(shown), shown)


def over_runs_grid(rows: Sequence[Mapping[str, Any]], distances: Sequence[str], num_runs: int) -> Grid:
    """The grid of `over_runs`; the baseline, which has no gain, is left out."""
    shown = []
    for row in rows[1:]:
        marked = {f"{name} ↓" if name in distances else name: cell for name, cell in row["gains"].items()}
        shown.append((row["stage"], {name: _mean_lines(cell, num_runs) for name, cell in marked.items()}))
    return Grid(_names(shown), shown)


def tables(grid: Grid, width: int) -> list[Table]:
    """The grid in as many tables below each other as `width` columns of a terminal need."""
    stage_width = min(STAGE_WIDTH, max(map(len, ["stage", *(stage for stage, _ in grid.rows)])))
    blocks: list[list[str]] = []
    room = 0
    for name in grid.names:
        needed = GAP + grid.width_of(name)
        if not blocks or needed > room:
            blocks.append([])
            room = width - stage_width
        blocks[-1].append(name)
        room -= needed
    return [_table(grid, names, stage_width) for names in blocks or [[]]]


def print_grid(grid: Grid, notes: Sequence[str], console: Console) -> None:
    """The tables with what there is to say about them."""
    console.print()
    for table in tables(grid, console.width):
        console.print(table)
    for note in notes:
        console.print(Text(note, style="dim"))


def markdown(grid: Grid) -> str:
    """The grid as a markdown table."""
    lines = [["stage", *grid.names], ["---"] * (1 + len(grid.names))]
    lines += [[stage, *(", ".join(cells.get(name, ["-"])) for name in grid.names)] for stage, cells in grid.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _names(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """All columns in the order of their appearance, distances last."""
    return sorted(dict.fromkeys(name for _, cells in rows for name in cells), key=lambda name: name.endswith("↓"))


def _table(grid: Grid, names: Sequence[str], stage_width: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 0, 1, GAP), collapse_padding=False)
    table.add_column("stage", width=stage_width, overflow="fold")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for stage, cells in grid.rows:
        table.add_row(stage, *("\n".join(cells.get(name, ["-"])) for name in names))
    return table


def _score_lines(cell: Mapping[str, Any]) -> list[str]:
    missing = [f"{cell['num_missing']} missing"] if cell["num_missing"] else []
    return [show_score(cell["mean"]), *_gain_lines(cell, cell["gain"]), *missing]


def _far_lines(cell: Mapping[str, Any]) -> list[str]:
    value = "-" if cell["value"] is None else f"{cell['value']:.4g}"
    size = "n unknown" if cell["n"] is None else f"n {cell['n']}"
    return [f"{value} ({size})", *([] if cell["gain"] is None else [f"Δ {cell['gain']:+.3f}"])]


def _mean_lines(cell: Mapping[str, Any], num_runs: int) -> list[str]:
    fewer = [f"of {cell['num_runs']} runs"] if cell["num_runs"] < num_runs else []
    return [*(_gain_lines(cell, cell["mean"]) or ["-"]), *fewer]


def _gain_lines(cell: Mapping[str, Any], gain: float | None) -> list[str]:
    """Gain and p, interval; nothing where there is no gain."""
    if gain is None:
        return []
    p = "" if cell["p"] is None else f" p {cell['p']:.2g}"
    low, high = cell["ci_low"], cell["ci_high"]
    return [f"Δ {gain:+.3f}{p}", *([] if low is None or high is None else [f"[{low:+.3f}, {high:+.3f}]"])]
