"""The curves: held-out reward and judges over versions first, then rollouts, distances, staleness and loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlloop.evaluation.statistics import estimate, plain
from rlloop.loop.snapshot import EvaluationResult
from rlloop.views.report.curves import Box, Chart, boxes, chart
from rlloop.views.report.markup import Html, section, tag
from rlloop.views.report.record import RunRecord
from rlloop.views.svg import Line

MAX_POINTS = 400  # of a loss curve: more than the figure has columns
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def curves(run: RunRecord) -> Html:
    charts = [
        chart(one) for one in (reward_chart(run), *judge_charts([run], run.config.judges()), staleness_chart(run))
    ]
    more = [chart(one) for one in loss_charts(run)]
    return section("curves", "Curves", tag("div", *charts, distribution(run), *more, class_="charts"))


def curves_of_two(a: RunRecord, b: RunRecord) -> Html:
    """Both runs over each other; every judge that either has."""
    runs = [a, b]
    reward = _heldout_chart(runs, a.reward)
    judges = [name for name in dict.fromkeys([*a.config.judges(), *b.config.judges()]) if name != a.reward]
    if b.reward != a.reward:
        judges = list(dict.fromkeys([b.reward, *judges]))
    lag = [
        _cohort_line(run, f"{letter}: {run.name}", lambda c: c.staleness_mean)
        for letter, run in zip("AB", runs, strict=True)
    ]
    words = "Versions that a cohort's rollouts lagged behind, mean."
    staleness = Chart("Staleness", words, "generation", lag, floor=0.0)
    charts = [chart(one) for one in (reward, *judge_charts(runs, judges), staleness)]
    return section("curves", "Curves over each other", tag("div", *charts, class_="charts"))


def reward_chart(run: RunRecord) -> Chart:
    name = run.reward
    lines = [heldout_line(run.evaluations, name, "held-out prompts")]
    lines.append(policy_line(run, "its rollouts"))
    return Chart(
        f"Reward: {name}",
        f"{_heldout_note(run, name)} The band is a 95 % bootstrap interval over prompts. Rollouts are of training "
        "prompts at the sampling of their stage, so the two lines need not agree.",
        "policy version",
        lines,
        run.stages,
    )


def judge_charts(runs: Sequence[RunRecord], judges: Sequence[str]) -> list[Chart]:
    """A chart a held-out judge, then every other score that was evaluated, then distances."""
    reward = runs[0].reward
    scores = [name for run in runs for result in run.evaluations for name in result.scores]
    distances = [name for run in runs for result in run.evaluations for name in result.distances]
    names = [*(name for name in judges if name in scores), *scores]
    charts = [_heldout_chart(runs, name, judges) for name in dict.fromkeys(names) if name != reward]
    return charts + [_distance_chart(runs, name) for name in dict.fromkeys(distances)]


def _heldout_chart(runs: Sequence[RunRecord], name: str, judges: Sequence[str] = ()) -> Chart:
    labels = (
        [run.name for run in runs]
        if len(runs) == 1
        else [f"{x}: {run.name}" for x, run in zip("AB", runs, strict=True)]
    )
    lines = [heldout_line(run.evaluations, name, label) for run, label in zip(runs, labels, strict=True)]
    kind = "Judge" if name in judges else "Reward" if name == runs[0].reward else "Score"
    role = " Nothing was selected by it or trained on it." if kind == "Judge" else ""
    note = " ".join(dict.fromkeys(_heldout_note(run, name) for run in runs))
    bands = runs[0].stages if len(runs) == 1 else ()
    return Chart(f"{kind}: {name}", f"{note}{role}", "policy version", lines, bands)


def _distance_chart(runs: Sequence[RunRecord], name: str) -> Chart:
    lines = []
    for letter, run in zip("AB", runs, strict=False):
        found = [(result.version, result.distances[name]) for result in run.evaluations if name in result.distances]
        label = run.name if len(runs) == 1 else f"{letter}: {run.name}"
        lines.append(Line(label, [version for version, _ in found], [plain(d["value"]) for _, d in found]))
    sizes = sorted(
        {
            d["n"]
            for run in runs
            for result in run.evaluations
            for k, d in result.distances.items()
            if k == name and d["n"]
        }
    )
    of = " and ".join(map(str, sizes)) or "an unknown number of"
    caption = f"Distance of the set of {of} clips from its reference; lower is nearer. A set has no interval."
    return Chart(f"Distance: {name}", caption, "policy version", lines, runs[0].stages if len(runs) == 1 else ())


def _heldout_note(run: RunRecord, name: str) -> str:
    found = [result for result in run.evaluations if name in result.scores]
    if not found:
        return "Not evaluated yet."
    prompts, seeds = len(found[0].prompts), max(map(len, found[0].seeds), default=0)
    return f"Mean over {prompts} held-out prompts of {seeds} seeds."


def heldout_line(results: Sequence[EvaluationResult], name: str, label: str) -> Line:
    """The mean over prompts with its interval, by version."""
    found = [(result.version, estimate(result.scores[name])) for result in results if result.scores.get(name)]
    of = [one for _, one in found]
    low, high = [plain(one.ci_low) for one in of], [plain(one.ci_high) for one in of]
    return Line(label, [version for version, _ in found], [plain(one.mean) for one in of], low, high)


def policy_line(run: RunRecord, label: str) -> Line:
    """Mean reward of the rollouts by version; a version that made none is a gap."""
    of = {one.version: float(np.mean(one.values)) for one in run.rewards if one.values}
    versions = range(min(of), max(of) + 1) if of else ()
    return Line(label, list(versions), [of.get(version) for version in versions])


def staleness_chart(run: RunRecord) -> Chart:
    bound = run.config.loop.max_staleness
    lines = [
        _cohort_line(run, "mean", lambda c: c.staleness_mean),
        _cohort_line(run, "largest", lambda c: float(c.staleness_max)),
    ]
    return Chart(
        "Staleness",
        f"Versions that a cohort's rollouts lagged behind; at most {bound} is allowed.",
        "generation",
        lines,
        floor=0.0,
    )


def _cohort_line(run: RunRecord, label: str, value) -> Line:
    return Line(label, [cohort.generation for cohort in run.cohorts], [value(cohort) for cohort in run.cohorts])


def loss_charts(run: RunRecord) -> list[Chart]:
    """The training loss in means of neighbouring updates; nothing where the event files are gone."""
    if not run.updates:
        return []
    size = max(1, -(-len(run.updates) // MAX_POINTS))
    parts = [run.updates[first : first + size] for first in range(0, len(run.updates), size)]
    line = Line(
        "loss", [part[-1].step for part in parts], [float(np.mean([one.loss for one in part])) for part in parts]
    )
    each = "Every update" if size == 1 else f"Means of {size} updates"
    return [Chart("Loss", f"{each}; stages with other losses are not comparable.", "update", [line])]


def distribution(run: RunRecord) -> Html:
    """The reward of rollouts by the version that made them."""
    groups = [
        Box(one.version, tuple(map(float, np.quantile(one.values, QUANTILES))), len(one.values))
        for one in run.rewards
        if one.values
    ]
    missing = sum(one.num_missing for one in run.rewards)
    lost = f" {missing} rollouts without a score are left out." if missing else ""
    total = sum(len(one.values) for one in run.rewards)
    caption = f"{run.reward} of {total:,} rollouts: median, middle half, 5 to 95 %.{lost}"
    return boxes("Rollouts by the version that made them", caption, "policy version", groups)
