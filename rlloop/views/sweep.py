"""What a sweep of configurations shows: its table on the terminal and in sweep.md, and the words below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from rlloop.views.scores import show_score


def settings_table(found: Mapping[str, Any]) -> Table:
    """The table of recipes.sweep_table.aggregate, a setting a row."""
    header, rows = cells(found)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for number, column in enumerate(header):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


def markdown(found: Mapping[str, Any], command: str) -> str:
    """sweep.md: the command, the table, the words below."""
    header, rows = cells(found)
    lines = [f"| {' | '.join(row)} |".replace("\n", " ") for row in [header, ["---"] * len(header), *rows]]
    return "\n".join(["# Sweep", "", f"    {command}", "", *lines, "", *[f"- {line}" for line in words(found)], ""])


def cells(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: reward before, after, gain and gain over the first setting; gains of other scores; distances
    after with their change (lower is nearer)."""
    rows = found["settings"]
    rewards = {row["reward"] for row in rows if row["n"]}
    kinds = {name: cell["kind"] for row in rows for name, cell in row["figures"].items() if name not in rewards}
    others = sorted(kinds, key=lambda name: kinds[name] == "distance")
    reward = rewards.pop() if len(rewards) == 1 else "reward"
    header = ["setting", "seeds", f"{reward} before", "after", "gain", "gain over first"]
    header += [f"{name} change" if kinds[name] == "score" else f"{name} after, change" for name in others]
    return header, [_cells(row, others) for row in rows]


def _cells(row: Mapping[str, Any], others: Sequence[str]) -> list[str]:
    total = row["n"] + len(row["unfinished"])
    count = str(row["n"]) if row["n"] == total else f"{row['n']} of {total}"
    cell = row["figures"].get(row["reward"])
    if cell is None:
        return [row["label"], count, *["-"] * (4 + len(others))]
    shown = [row["label"], count, show_score(cell["before"]["mean"]), show_score(cell["after"]["mean"])]
    shown += [_with_interval(cell["gain"]), _with_interval(cell["against_first"])]
    for name in others:
        other = row["figures"].get(name)
        if other is None:
            shown.append("-")
        elif other["kind"] == "score":
            shown.append(_with_interval(other["gain"]))
        else:
            after = other["after"]["mean"]
            shown.append(f"{'-' if after is None else f'{after:.4g}'}, {_with_interval(other['gain'])}")
    return shown


def words(found: Mapping[str, Any]) -> list[str]:
    """What the figures are, the best setting with its interval, and every trial that is missing with its reason."""
    lines = ["means over run seeds with 95 % t-intervals; gain over first: paired with the first setting by seed"]
    best = found["best"]
    if best is not None:
        verdict = "" if best["is_told_apart"] else "; these seeds do not tell the two apart"
        lines.append(
            f"largest mean gain of {best['reward']}: {best['label']}, {_with_interval(best['gain'])} over "
            f"the {len(best['seeds'])} seeds that all settings finished; more than the next, {best['next']}, by "
            f"{_with_interval(best['lead'])} on the same seeds{verdict}"
        )
        lines.append(f"the best of {best['num_candidates']} was chosen on these very runs: its gain is optimistic")
    lines += found["notes"]
    for row in found["settings"]:
        if row["alarms"]:
            lines.append(f"{row['label']}: the alarm rang in {row['alarms']} of {row['n']} finished runs")
        if row["ended_by_alarm"]:
            lines.append(
                f"{row['label']}: its alarm ended {row['ended_by_alarm']} of {row['n'] + len(row['unfinished'])} runs; "
                "the table's means leave them out and so may look better than the setting is"
            )
        for trial in row["unfinished"]:
            reason = f": {trial['reason']}" if trial["reason"] else ""
            lines.append(f"{trial['state']}: {row['label']}, seed {trial['seed']}{reason}")
    return lines


def _with_interval(cell: Mapping[str, Any] | None) -> str:
    if cell is None or cell["mean"] is None:
        return "-"
    if cell["ci_low"] is None:
        return show_score(cell["mean"])
    return f"{show_score(cell['mean'])} [{cell['ci_low']:+.3f}, {cell['ci_high']:+.3f}]"
