"""From the summaries of a sweep's runs to its table: means over seeds, paired with the first setting by seed.

The unit is the run: intervals are 95 % t-intervals over run seeds (Student 1908). Prompts and evaluation seeds are the
same in every run, so they do not say what other prompts would. Settings are ranked on the seeds that all of them
finished: a run that failed, or that its alarm ended, is most often a bad one, and to leave it out of one setting alone
would favour that setting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from rlloop.recipes.sweep_outcome import Outcome
from rlloop.recipes.sweep_plan import Setting, Trial

Figures = dict[str, dict[str, float | None]]


def aggregate(trials: Sequence[tuple[Trial, Outcome]]) -> dict[str, Any]:
    """Plain values: "settings" in the order of the trials, "best" (None where no seeds tell), "notes".

    A setting has its finished seeds, the unfinished with state and reason, how many of these the alarm ended, and per
    figure (reward, other scores, distances) the estimates of before, after, gain, and of its gain less that of the
    first setting.
    """
    order = list(dict.fromkeys(trial.setting for trial, _ in trials))
    own = {setting: [(trial, o) for trial, o in trials if trial.setting == setting] for setting in order}
    found = {s: {t.seed: o.summary for t, o in own[s] if o.summary is not None} for s in order}
    figures = {s: {seed: figures_of(summary) for seed, summary in found[s].items()} for s in order}
    rows = [_row(s, own[s], found[s], figures[s], figures[order[0]]) for s in order]
    best, notes = _best(rows, {s.label: figures[s] for s in order})
    return {"settings": rows, "best": best, "notes": notes}


def figures_of(summary: Mapping[str, Any]) -> Figures:
    """Name -> before, after and gain of one run: the reward first, then other scores, then distances."""
    label = summary["score_label"]
    names = sorted(summary["scores"], key=lambda name: name != label)
    found: Figures = {n: {k: summary["scores"][n][k] for k in ("before", "after", "gain")} for n in names}
    by_version = {evaluation["version"]: evaluation["distances"] for evaluation in summary["evaluations"]}
    first, last = by_version.get(0, {}), by_version.get(summary["policy_versions"], {})
    for name in [name for name in last if name in first]:
        before, after = _distance(first[name]), _distance(last[name])
        gain = None if before is None or after is None else after - before
        found[name] = {"before": before, "after": after, "gain": gain}
    return found


def _distance(cell: float | Mapping[str, Any] | None) -> float | None:
    return cell["value"] if isinstance(cell, Mapping) else cell


def estimate(values: Sequence[float | None]) -> dict[str, float | int | None]:
    """Mean of the values that are there, with its 95 % t-interval; no interval for fewer than two."""
    there = np.array([value for value in values if value is not None and math.isfinite(value)], dtype=float)
    n = len(there)
    out: dict[str, float | int | None] = {"mean": None, "ci_low": None, "ci_high": None, "n": n}
    if n:
        out["mean"] = float(there.mean())
    if n > 1:
        half = float(stats.t.ppf(0.975, n - 1) * there.std(ddof=1) / math.sqrt(n))
        out |= {"ci_low": float(there.mean()) - half, "ci_high": float(there.mean()) + half}
    return out


def paired_gains(own: Mapping[int, Figures], other: Mapping[int, Figures], name: str) -> dict[str, float | int | None]:
    """Estimate of own gain less the other's, seed by seed, over the seeds that both have."""
    pairs = [(own[seed].get(name), other[seed].get(name)) for seed in own if seed in other]
    gains = [(a["gain"], b["gain"]) for a, b in pairs if a and b]
    return estimate([x - y for x, y in gains if x is not None and y is not None])


def _row(
    setting: Setting,
    trials: Sequence[tuple[Trial, Outcome]],
    summaries: Mapping[int, Mapping[str, Any]],
    own: Mapping[int, Figures],
    first: Mapping[int, Figures],
) -> dict[str, Any]:
    names = list(dict.fromkeys(name for figures in own.values() for name in figures))
    scores = {name for summary in summaries.values() for name in summary["scores"]}
    cells = {}
    for name in names:
        parts = {k: estimate([f[name][k] for f in own.values() if name in f]) for k in ("before", "after", "gain")}
        against = paired_gains(own, first, name) if own is not first else None
        cells[name] = {"kind": "score" if name in scores else "distance", **parts, "against_first": against}
    return {
        "label": setting.label,
        "overrides": list(setting.overrides),
        "n": len(summaries),
        "seeds": sorted(summaries),
        "reward": next((summary["score_label"] for summary in summaries.values()), None),
        "figures": cells,
        "alarms": sum(bool(summary["alarms"]) for summary in summaries.values()),
        "ended_by_alarm": sum(o.was_ended_by_alarm for _, o in trials),
        "unfinished": [
            {"seed": t.seed, "state": o.state, "reason": o.reason, "run_dir": str(t.run_dir)}
            for t, o in trials
            if o.state != "finished"
        ],
    }


def _best(
    rows: Sequence[Mapping[str, Any]], figures: Mapping[str, Mapping[int, Figures]]
) -> tuple[dict[str, Any] | None, list[str]]:
    """The setting with the largest mean gain over the seeds that all settings have, its interval, and how it compares
    with the next; or why none is named."""
    if len(rows) < 2:
        return None, ["no best setting is named: that takes two settings"] if rows else []
    rewards = {row["reward"] for row in rows if row["n"]}
    if len(rewards) > 1:
        return None, ["no best setting is named: the settings rank by different rewards"]
    name = next(iter(rewards), None)
    gains = {label: _gains(own, name) for label, own in figures.items()}
    seeds = sorted(set.intersection(*(set(own) for own in gains.values())))
    if len(seeds) < 2:
        which = f"seed {seeds[0]} alone" if seeds else "no finished seed"
        return None, [f"no best setting is named: that takes two seeds that all settings finished, they share {which}"]
    means = {label: float(np.mean([own[seed] for seed in seeds])) for label, own in gains.items()}
    best, following = sorted(means, key=means.__getitem__, reverse=True)[:2]
    lead = estimate([gains[best][seed] - gains[following][seed] for seed in seeds])
    return {
        "label": best,
        "reward": name,
        "seeds": seeds,
        "gain": estimate([gains[best][seed] for seed in seeds]),
        "next": following,
        "lead": lead,
        "is_told_apart": lead["ci_low"] > 0,
        "num_candidates": len(rows),
    }, []


def _gains(own: Mapping[int, Figures], name: str | None) -> dict[int, float]:
    """Seed -> gain, of the runs that have one."""
    found = {seed: figures[name]["gain"] for seed, figures in own.items() if name in figures}
    return {seed: gain for seed, gain in found.items() if gain is not None and math.isfinite(gain)}
