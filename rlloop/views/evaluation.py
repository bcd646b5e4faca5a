"""Tables of what rlloop.evaluation returns: a set of clips, a sweep over the score scalar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from rlloop.views.scores import show_score


def comparison_table(report: Mapping[str, Any]) -> Table:
    """Scores and distances (↓: lower is nearer) of a report of comparison.compare; gains where there is another set."""
    has_against = report["against"] is not None
    columns = ["", "mean", "95 % interval", "n", *(["against", "gain", "95 % interval", "p"] if has_against else [])]
    table = _table(columns)
    for name, cell in report["scores"].items():
        missing = f", {cell['num_missing']} clips missing" if cell["num_missing"] else ""
        row = [name, show_score(cell["mean"]), _interval(cell, "mean_ci_"), f"{cell['num_prompts']} prompts{missing}"]
        gain = [show_score(cell["against"]), show_score(cell["gain"]), _interval(cell, "ci_"), _p(cell["p"])]
        table.add_row(*row, *(gain if has_against else []))
    for name, cell in report["distances"].items():
        row = [f"{name} ↓", _plain(cell["value"]), "-", f"{cell['n']} clips"]
        table.add_row(*row, *([_plain(cell["against"]), show_score(cell["gain"]), "-", "-"] if has_against else []))
    return table


def sweep_table(found: Mapping[str, Any]) -> Table:
    """One row a value of s, and the rank correlation of s with each score as the last."""
    scores, distances = _names(found, "scores"), _names(found, "distances")
    table = _table(["s", *scores, *distances])
    for row in found["points"]:
        cells = [f"{show_score(c['mean'])} {_interval(c, 'ci_')}" for c in (row["scores"][name] for name in scores)]
        far = [row["distances"].get(name, {"value": None, "n": 0}) for name in distances]
        cells += [f"{_plain(cell['value'])} (n {cell['n']})" for cell in far]
        table.add_row("none" if row["s"] is None else f"{row['s']:g}", *cells)
    rhos = [found["spearman"].get(name, {}) for name in scores]
    table.add_row("Spearman", *(f"{show_score(rho.get('rho'))} {_interval(rho, 'ci_')}" for rho in rhos))
    return table


def _names(found: Mapping[str, Any], kind: str) -> list[str]:
    return list(dict.fromkeys(name for row in found["points"] for name in row[kind]))


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _interval(cell: Mapping[str, Any], prefix: str) -> str:
    low, high = cell.get(f"{prefix}low"), cell.get(f"{prefix}high")
    return "-" if low is None or high is None else f"[{low:+.3f}, {high:+.3f}]"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
