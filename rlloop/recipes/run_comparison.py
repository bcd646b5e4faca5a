"""Two runs against each other: their last evaluated versions on the prompts and seeds that both have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlloop.evaluation.statistics import estimate, paired, plain
from rlloop.loop.snapshot import EvaluationResult
from rlloop.views.report.record import Comparison, Difference, RunRecord


def compare_runs(a: RunRecord, b: RunRecord) -> Comparison:
    """Differences of B less A with paired statistics over shared (prompt, seeds), and of their configurations."""
    notes = []
    last_a, last_b = a.last or a.first, b.last or b.first
    if last_a is None or last_b is None:
        without = a.name if last_a is None else b.name
        return Comparison([], config_differences(a, b), [f"{without} has no evaluation yet: nothing is compared."])
    for run, last in ((a, last_a), (b, last_b)):
        if last.version != run.num_versions:
            notes.append(f"{run.name}: version {last.version} of {run.num_versions} is the newest that was evaluated.")
    shared = [pair for pair in pairs_of(last_a) if pair in set(pairs_of(last_b))]
    total = len(set(pairs_of(last_a)) | set(pairs_of(last_b)))
    if not shared:
        notes.append("No held-out prompt was evaluated with the same seeds in both: means alone, nothing is paired.")
    elif len(shared) < total:
        notes.append(f"Paired over the {len(shared)} of {total} held-out prompts that both have with the same seeds.")
    alone = sorted(set(last_a.scores) ^ set(last_b.scores))
    if alone:
        notes.append(f"Only one of the two runs was judged by {', '.join(alone)}.")
    names = [name for name in last_a.scores if name in last_b.scores]
    scores = [difference(name, last_a, last_b, shared) for name in names]
    distances = [found for name in last_a.distances if (found := distance(name, last_a, last_b, notes))]
    return Comparison([*scores, *distances], config_differences(a, b), notes)


def pairs_of(result: EvaluationResult) -> list[tuple[str, tuple[int, ...]]]:
    return [(prompt, tuple(seeds)) for prompt, seeds in zip(result.prompts, result.seeds, strict=True)]


def difference(name: str, a: EvaluationResult, b: EvaluationResult, shared: list) -> Difference:
    """Means over all prompts of each; the difference over the shared ones."""
    means = [plain(estimate(result.scores[name]).mean) for result in (a, b)]
    if not shared:
        return Difference(name, *means)
    rows = [dict(zip(pairs_of(result), result.scores[name], strict=True)) for result in (a, b)]
    found = paired(*([own[pair] for pair in shared] for own in rows))
    if not found.num_prompts:
        return Difference(name, *means)
    p = found.p_value if found.num_prompts > 1 else None
    low, high = plain(found.ci_low), plain(found.ci_high)
    return Difference(name, *means, plain(found.gain), low, high, p, found.num_prompts, found.num_missing)


def distance(name: str, a: EvaluationResult, b: EvaluationResult, notes: list[str]) -> Difference | None:
    """A distance of each; the difference only where n and reference are the same."""
    if name not in b.distances:
        return None
    one, other = a.distances[name], b.distances[name]
    values = plain(one["value"]), plain(other["value"])
    same = one["n"] == other["n"] and one["n"] is not None and one["reference"] == other["reference"]
    if not same or None in values:
        notes.append(f"{name}: sets of {one['n']} and {other['n']} clips, or other references: no difference is taken.")
        return Difference(name, *values, is_distance=True)
    return Difference(name, *values, values[1] - values[0], num_prompts=one["n"], is_distance=True)


def config_differences(a: RunRecord, b: RunRecord) -> list[tuple[str, Any, Any]]:
    """(dotted key, value in A, value in B) wherever the resolved configurations differ; run_dir is left out."""
    both = [flat(run.config.model_dump(mode="json", exclude={"run_dir"})) for run in (a, b)]
    keys = list(dict.fromkeys([*both[0], *both[1]]))
    none = "(not there)"
    found = [(key, both[0].get(key, none), both[1].get(key, none)) for key in keys]
    return [one for one in found if one[1] != one[2]]


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Dotted keys of nested mappings and lists; lists of plain values stay whole."""
    if isinstance(value, Mapping) and value:
        items = value.items()
    elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        items = enumerate(value)
    else:
        return {key: value}
    return {k: v for name, inner in items for k, v in flat(inner, f"{key}.{name}" if key else str(name)).items()}
