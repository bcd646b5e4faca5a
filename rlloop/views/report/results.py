"""Tables of what a run reached: before and after, what each stage contributed, the sweep over the score."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rlloop.views.contributions import order_of_contributions
from rlloop.views.decomposition import WITHIN_RUN
from rlloop.views.report.curves import Chart, chart
from rlloop.views.report.markup import Html, folded, join, lines, section, table, tag
from rlloop.views.report.record import Comparison, Difference, RunRecord, Sweep, SweepPoint, SweepRank
from rlloop.views.report.wording import DASH, count, interval, p_text, plain, score, shown
from rlloop.views.run_decomposition import run_decomposition
from rlloop.views.svg import Line


def stages(run: RunRecord) -> Html:
    """What each stage contributed; of a run of one stage that is before and after."""
    found = run_decomposition(run.config, run.evaluations)
    title = "What each stage contributed" if len(run.stages) > 1 else "Before and after"
    if not found.rows:
        return section("stages", title, tag("p", "Neither version 0 nor the end of a stage was evaluated yet."))
    names = list(dict.fromkeys(name for row in found.rows for name in row["scores"]))
    far = list(dict.fromkeys(name for row in found.rows for name in row["distances"]))
    rows = [
        (
            lines([row["stage"], f"version {row['version']}"]),
            *(_score_cell(row["scores"].get(name)) for name in names),
            *(_distance_cell(row["distances"].get(name)) for name in far),
        )
        for row in found.rows
    ]
    shown_table = table(
        "Held-out scores and distances at the end of each stage",
        ["stage", *names, *(f"{name} ↓" for name in far)],
        rows,
        class_="wide",
    )
    order = order_of_contributions(found.rows) if len(run.stages) > 1 else {}
    items = [
        tag(
            "li",
            f"{name}{' ↓' if name in far else ''}: ",
            ", ".join(f"{one['stage']} {one['gain']:+.3f}" for one in of),
        )
        for name, of in order.items()
    ]
    ordered = [folded("Largest contribution first", tag("ul", *items))] if items else []
    notes = [WITHIN_RUN, *found.notes]
    return section("stages", title, shown_table, *(tag("p", note, class_="note") for note in notes), *ordered)


def _score_cell(cell: Mapping[str, Any] | None) -> Html:
    if cell is None:
        return lines([DASH])
    gain = (
        []
        if cell["gain"] is None
        else [f"Δ {cell['gain']:+.3f}, {p_text(cell['p'])}", interval(cell["ci_low"], cell["ci_high"])]
    )
    missing = [f"{cell['num_missing']} missing"] if cell["num_missing"] else []
    return lines([tag("b", score(cell["mean"])), *gain, f"n {cell['num_prompts']}", *missing])


def _distance_cell(cell: Mapping[str, Any] | None) -> Html:
    if cell is None:
        return lines([DASH])
    gain = [] if cell["gain"] is None else [f"Δ {cell['gain']:+.3f}"]
    return lines([tag("b", plain(cell["value"])), *gain, "n unknown" if cell["n"] is None else f"n {cell['n']} clips"])


def score_sweep(run: RunRecord) -> Html:
    """What `rlloop sweep-score` found, where its output lies in the run."""
    if run.sweep is None:
        places = ("--config", f"{run.folder}/config.json", "--weights", run.folder, "--out", f"{run.folder}/sweep")
        how = shlex.join(["rlloop", "sweep-score", *places])
        text = tag("p", "Not made for this run. This makes it, and the next report has it: ", tag("code", how))
        return section("sweep", "What the policy makes of its conditioning score", text)
    asked = [point for point in run.sweep.points if point.s is not None]
    names = dict.fromkeys(name for point in asked for name in point.scores)
    far = dict.fromkeys(name for point in asked for name in point.distances)
    charts = [chart(_sweep_chart(run.sweep, asked, name)) for name in names]
    charts += [chart(_sweep_distance(asked, name)) for name in far]
    notes = [tag("p", note, class_="note") for note in run.sweep.notes]
    bare = [point for point in run.sweep.points if point.s is None]
    without = [f"{name} {score(cell.mean)}" for point in bare for name, cell in point.scores.items()]
    told = f" Without a score, which has no place on the axis: {', '.join(without)}." if without else ""
    same = tag("p", f"The same prompts and noise seeds at every s.{told}", class_="note")
    return section(
        "sweep", "What the policy makes of its conditioning score", tag("div", *charts, class_="charts"), same, *notes
    )


def _sweep_chart(sweep: Sweep, points: Sequence[SweepPoint], name: str) -> Chart:
    there = [point for point in points if name in point.scores]
    cells = [point.scores[name] for point in there]
    rank = sweep.spearman.get(name, SweepRank())
    told = f"Spearman of s {score(rank.rho)}, 95 % interval {interval(rank.ci_low, rank.ci_high)}."
    n = max(cell.num_prompts for cell in cells)
    bands = ([cell.mean for cell in cells], [cell.ci_low for cell in cells], [cell.ci_high for cell in cells])
    return Chart(
        name,
        f"{told} {count(n, 'prompt')}; bands are 95 % intervals.",
        "conditioning score s",
        [Line(name, [point.s for point in there], *bands)],
    )


def _sweep_distance(points: Sequence[SweepPoint], name: str) -> Chart:
    there = [point for point in points if name in point.distances]
    cells = [point.distances[name] for point in there]
    return Chart(
        f"Distance: {name}",
        f"Of {cells[0].n} clips as a set; lower is nearer.",
        "conditioning score s",
        [Line(name, [point.s for point in there], [cell.value for cell in cells])],
    )


def differences(found: Comparison) -> Html:
    """B less A at their last evaluated versions."""
    rows = [_difference_row(one) for one in found.figures]
    header = ["figure", "A", "B", "B − A", "95 % interval", "p", "paired over"]
    shown_table = [table("B less A at the last evaluated versions", header, rows)] if rows else []
    notes = [
        "Means are over all held-out prompts of each run; the difference, its bootstrap interval and the p of a paired "
        "t-test are over prompts that both have with the same seeds. ↓: a distance of the whole set, lower is nearer.",
        "Both are single runs: the interval is over prompts and says nothing of what another run seed would give.",
        *found.notes,
    ]
    return section("differences", "Differences", *shown_table, *(tag("p", note, class_="note") for note in notes))


def _difference_row(one: Difference) -> tuple[str, ...]:
    number = plain if one.is_distance else score
    missing = f", {one.num_missing} values missing" if one.num_missing else ""
    return (
        f"{one.name} ↓" if one.is_distance else one.name,
        number(one.a),
        number(one.b),
        score(one.difference),
        interval(one.ci_low, one.ci_high),
        p_text(one.p),
        f"{one.num_prompts} {'clips' if one.is_distance else 'prompts'}{missing}",
    )


def config_differences(found: Comparison) -> Html:
    rows = [(tag("code", key), shown(a), shown(b)) for key, a, b in found.config]
    if not rows:
        return section("configuration", "Configuration", tag("p", "The resolved configurations are the same."))
    return section(
        "configuration", "Configuration that differs", table("Configuration", ["key", "A", "B"], rows), _more(rows)
    )


def _more(rows: list) -> Html:
    return join([tag("p", f"{count(len(rows), 'key')} differ; all others are the same.", class_="note")])
