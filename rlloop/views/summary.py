"""The summary of a run: what was before, what is after, how sure that is, and where to listen.

Before is version 0, after is the last published version, never the best; both on the same prompts and seeds. A run that
ended before its last version was evaluated has the newest that was, and says which.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlloop.config import Config
from rlloop.evaluation.statistics import Paired, paired, plain
from rlloop.loop.snapshot import EvaluationResult, Snapshot
from rlloop.views.decomposition import WITHIN_RUN, print_grid, run_grid
from rlloop.views.run_decomposition import pairs, run_decomposition
from rlloop.views.scores import evaluation_labels, mean_score, score_label, show_score, show_seconds

SIGNIFICANT_P = 0.05


def build_summary(
    config: Config, snapshot: Snapshot, kept: Collection[int] = (0,), *, status: str = "finished", reason: str = ""
) -> dict[str, Any]:
    """What `summary.json` holds; plain values, None where a figure does not exist (no evaluation, one prompt).

    Args:
        snapshot: the last of the run; `wall_seconds` counts from its `started_at`.
        kept: versions whose checkpoint is on disk; that of version 0 always is.
        status: finished | stopped | failed.
        reason: why it is not finished.
    """
    label = score_label(config)
    first, last = endpoints(snapshot)
    compared = {name: compare(first, last, name) for name in evaluation_labels(config)}
    reward = compared.get(label)
    stages = run_decomposition(config, snapshot.evaluations)
    return {
        "status": status,
        "reason": reason,
        "run_dir": snapshot.run_dir,
        "score_label": label,
        "reward_before": plain(reward.mean_before) if reward else mean_of(first, label),
        "reward_after": plain(reward.mean_after) if reward else mean_of(last, label),
        "reward_gain": plain(reward.gain) if reward else None,
        "ci_low": plain(reward.ci_low) if reward else None,
        "ci_high": plain(reward.ci_high) if reward else None,
        "paired_p_value": plain(reward.p_value) if reward else None,
        "after_version": last.version if last else None,
        "num_eval_prompts": reward.num_prompts if reward else 0,
        "num_eval_missing": reward.num_missing if reward else 0,
        "seeds_per_prompt": config.evaluation.seeds_per_prompt,
        "scores": {name: score_entry(result) for name, result in compared.items()},
        "guards": {name: guard_entry(result) for name, result in compared.items() if name != label},
        "policy_versions": snapshot.version,
        "alarms": [dict(found) for evaluation in snapshot.evaluations for found in evaluation.alarms],
        "alarm_action": config.evaluation.alarm.action,
        "result_version": result_version(config, snapshot, kept),
        "tickets": dict(snapshot.tickets),
        "clips_generated": snapshot.clips_generated,
        "wall_seconds": round(snapshot.time - snapshot.started_at, 1),
        "failures": dict(snapshot.failures),
        "restarts": dict(snapshot.restarts),
        "messages": list(snapshot.messages),
        "evaluations": [evaluation_entry(evaluation, config) for evaluation in snapshot.evaluations],
        "decomposition": stages.rows,
        "decomposition_notes": stages.notes,
        "seed": config.seed,
    }


def result_version(config: Config, snapshot: Snapshot, kept: Collection[int]) -> int:
    """The version to go on with: the last; after an alarm, where it rolls back, the one that the judge liked best.

    Of those whose checkpoint is `kept`: before it was told to roll back, the run may have removed the best one's.
    """
    raised = [found for evaluation in snapshot.evaluations for found in evaluation.alarms]
    if raised and config.evaluation.alarm.action == "rollback":
        return next((version for version in raised[0]["ranking"] if version in kept), 0)
    return snapshot.version


def endpoints(snapshot: Snapshot) -> tuple[EvaluationResult | None, EvaluationResult | None]:
    """The evaluations of version 0 and of the newest version after it that has one; None where there is none.

    For a run that has finished the newest is the last published version: a run does not finish without its evaluation.
    """
    by_version = {evaluation.version: evaluation for evaluation in snapshot.evaluations}
    return by_version.get(0), by_version.get(max((version for version in by_version if version > 0), default=-1))


def compare(first: EvaluationResult | None, last: EvaluationResult | None, name: str) -> Paired | None:
    """The paired comparison of one score; None unless both versions have it.

    Raises:
        ValueError: prompts or seeds differ, so that nothing is paired.
    """
    if first is None or last is None or name not in first.scores or name not in last.scores:
        return None
    pairs_first, pairs_last = pairs(first), pairs(last)
    if pairs_first != pairs_last:
        raise ValueError(
            f"versions {first.version} and {last.version} were evaluated on different prompts or seeds "
            f"({len(pairs_first)} and {len(pairs_last)} prompts); nothing to pair"
        )
    return paired(first.scores[name], last.scores[name])


def mean_of(evaluation: EvaluationResult | None, name: str) -> float | None:
    return None if evaluation is None else mean_score(evaluation, name)


def score_entry(result: Paired | None) -> dict[str, float | None]:
    if result is None:
        return dict.fromkeys(("before", "after", "gain", "p"))
    names = {"before": "mean_before", "after": "mean_after", "gain": "gain", "p": "p_value"}
    return {key: plain(getattr(result, name)) for key, name in names.items()}


def guard_entry(result: Paired | None) -> dict[str, Any]:
    """A score beside the reward: whether it fell significantly. None: not known."""
    if result is None or result.num_prompts == 0:
        return {"fell": None, "gain": None, "p": None}
    fell = result.p_value < SIGNIFICANT_P and result.gain < 0
    return {"fell": bool(fell), "gain": plain(result.gain), "p": plain(result.p_value)}


def evaluation_entry(evaluation: EvaluationResult, config: Config) -> dict[str, Any]:
    scores = {name: mean_score(evaluation, name) for name in evaluation_labels(config)}
    return {
        "version": evaluation.version,
        "stage": evaluation.stage,
        "scores": scores,
        "distances": {name: {"value": plain(d["value"]), "n": d["n"]} for name, d in evaluation.distances.items()},
        "audio": list(evaluation.audio),
        "seconds": round(evaluation.seconds, 1),
    }


def write_summary(run_dir: str | Path, summary: dict[str, Any]) -> Path:
    """Writes `summary.json` whole or not at all; returns its path."""
    path = Path(run_dir) / "summary.json"
    partial = path.with_name("summary.json.tmp")
    partial.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path


def print_summary(summary: dict[str, Any], console: Console | None = None) -> None:
    """The same for a person."""
    console = console or Console()
    reason = f": {summary['reason']}" if summary["reason"] else ""
    minutes = show_seconds(summary["wall_seconds"])
    clips, versions = summary["clips_generated"], summary["policy_versions"]
    console.print(Text(f"\n{summary['status']}{reason}", style="bold"), soft_wrap=True)
    console.print(f"{versions} policy versions from {clips} clips in {minutes}", highlight=False)
    console.print(score_table(summary))
    print_decomposition(summary, console)
    for line in verdict_lines(summary):
        console.print(Text(line), soft_wrap=True)
    run_dir = summary["run_dir"]
    console.print(Text(f"summary  {run_dir}/summary.json"), soft_wrap=True)
    console.print(Text(f"clips    {run_dir}/{clip_folder(summary)}"), soft_wrap=True)
    console.print(Text(f"curves   {shlex.quote(tensorboard_path())} --logdir {shlex.quote(run_dir)}"), soft_wrap=True)


def print_decomposition(summary: dict[str, Any], console: Console) -> None:
    """The stages of the run; of a run of one stage the table of before and after says the same."""
    rows, notes = summary["decomposition"], summary["decomposition_notes"]
    if len(rows) < 2 or (len(rows) == 2 and not notes):
        return
    print_grid(run_grid(rows), [WITHIN_RUN, *notes], console)


def tensorboard_path() -> str:
    """The command as it can be pasted: the one beside this interpreter, which may be on no PATH."""
    beside = Path(sys.executable).with_name("tensorboard")
    return str(beside) if beside.exists() else "tensorboard"


def score_table(summary: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in ("held-out score", "before", "after", "gain", "p"):
        table.add_column(column, justify="left" if column == "held-out score" else "right")
    for name, entry in summary["scores"].items():
        p = "-" if entry["p"] is None else f"{entry['p']:.2g}"
        mark = " (the reward)" if name == summary["score_label"] else ""
        table.add_row(name + mark, *(show_score(entry[key]) for key in ("before", "after", "gain")), p)
    return table


def verdict_lines(summary: dict[str, Any]) -> list[str]:
    """The gain with its interval, each guard that fell, each alarm, and the version to go on with."""
    return [*gain_lines(summary), *alarm_lines(summary)]


def alarm_lines(summary: dict[str, Any]) -> list[str]:
    lines = [f"ALARM: {found['text']}" for found in summary["alarms"]]
    if summary["result_version"] != summary["policy_versions"]:
        lines.append(f"rolled back: the result is version {summary['result_version']}, see checkpoints/")
    if lines and summary["status"] == "stopped" and summary["alarm_action"] != "warn":
        lines.append("the same command with evaluation.alarm.action=warn goes on all the same")
    return lines


def gain_lines(summary: dict[str, Any]) -> list[str]:
    if summary["reward_gain"] is None:
        return ["no before and after: version 0 or every later one was not evaluated"]
    interval = f"[{show_score(summary['ci_low'])}, {show_score(summary['ci_high'])}]"
    p, prompts, seeds = summary["paired_p_value"], summary["num_eval_prompts"], summary["seeds_per_prompt"]
    gain = f"gain {show_score(summary['reward_gain'])}, 95 % interval {interval}, p = {p:.2g}"
    lines = [f"{gain}, paired over {prompts} held-out prompts of {seeds} seeds"]
    if summary["after_version"] != summary["policy_versions"]:
        after, final = summary["after_version"], summary["policy_versions"]
        lines.append(f"after is version {after}: of {final} versions it is the newest that was evaluated")
    fallen = [name for name, guard in summary["guards"].items() if guard["fell"]]
    lines += [
        f"warning: {name} fell by {-summary['guards'][name]['gain']:.3f}: listen before you trust it" for name in fallen
    ]
    return lines


def clip_folder(summary: dict[str, Any]) -> str:
    """The folder of the last evaluation's clips, relative to the run directory."""
    kept = [audio for evaluation in summary["evaluations"] for audio in evaluation["audio"]]
    return str(Path(kept[-1]).parent) if kept else "audio"
