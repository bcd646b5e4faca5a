"""What ran, on what, for how long and at what cost; and what went wrong on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from rlloop.evaluation.alarm import MIN_EVALUATIONS
from rlloop.resources import resources
from rlloop.views.report.markup import Html, facts, folded, lines, section, table, tag
from rlloop.views.report.record import RunRecord, Troubles
from rlloop.views.report.wording import DASH, count, moment
from rlloop.views.scores import show_seconds

UNKNOWN = "not recorded by this run"


def what_ran(run: RunRecord) -> Html:
    config = yaml.safe_dump(run.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return section(
        "provenance",
        "What ran",
        facts([*run_facts(run), *environment_facts(run), *cost_facts(run)]),
        busy_table(run),
        folded("Resolved configuration", tag("pre", tag("code", config), tabindex="0"), class_="configuration"),
    )


def what_ran_of_two(a: RunRecord, b: RunRecord) -> Html:
    of = [dict([*run_facts(r), *environment_facts(r), *cost_facts(r), *trouble_facts(r)]) for r in (a, b)]
    rows = [(name, of[0].get(name, DASH), of[1].get(name, DASH)) for name in dict.fromkeys([*of[0], *of[1]])]
    return section("provenance", "What ran, and what went wrong", table("The two runs", ["", "A", "B"], rows))


def run_facts(run: RunRecord) -> list[tuple[str, Any]]:
    stages = ", ".join(
        f"{stage.name} ({stage.algorithm})" if stage.name != stage.algorithm else stage.name
        for stage in run.config.stages
    )
    tickets = ", ".join(f"{number:,} {state}" for state, number in run.tickets.items())
    found: list[tuple[str, Any]] = [
        ("Run directory", tag("code", run.folder)),
        ("Stages", stages),
        ("Generator", run.config.generator.target),
        ("Run seed", str(run.config.seed)),
        ("Tickets", tickets or DASH),
        ("Result", f"version {run.result_version}"),
    ]
    if run.corpus:
        found.append(("Corpus", f"{run.corpus.get('rows', '?')} rows, identity {run.corpus.get('identity', '?')}"))
    return found


def environment_facts(run: RunRecord) -> list[tuple[str, Any]]:
    """Of the newest start; earlier ones are named where they differ."""
    if not run.starts:
        return [("Versions", UNKNOWN), ("Hardware", UNKNOWN)]
    newest = run.starts[-1]
    versions = ", ".join(f"{name} {version}" for name, version in (newest.get("versions") or {}).items() if version)
    commit = newest.get("commit")
    found = [("Versions", versions or UNKNOWN), ("Source", f"commit {commit}" if commit else "no working copy")]
    found += [("Hardware", lines(hardware(newest)))]
    keys = ("versions", "commit", "cpu", "gpus", "nodes")
    if any(start.get(key) != newest.get(key) for start in run.starts for key in keys):
        found.append(("Starts", "not all on the same hardware and versions; this is the newest"))
    return found


def hardware(start: Mapping[str, Any]) -> list[str]:
    memory = start.get("memory_bytes")
    size = f", {memory / 2**30:.0f} GiB of memory" if memory else ""
    found = [f"{start.get('cpu') or 'unknown processor'}, {start.get('cpus')} logical CPUs{size}"]
    found += start.get("gpus") or ["no GPU on the driver's machine"]
    nodes = start.get("nodes") or []
    if len(nodes) > 1:
        total = {kind: sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
        found.append(f"cluster of {len(nodes)} nodes with {total['CPU']:g} CPUs and {total['GPU']:g} GPUs")
    return [*found, str(start.get("platform") or "")]


def cost_facts(run: RunRecord) -> list[tuple[str, Any]]:
    """Time, and what the roles held over it: what is paid for, whether busy or not."""
    rows = resources(run.config, run.mean_actors)
    cpus, gpus = sum(row.cpus for row in rows), sum(row.gpus for row in rows)
    time = show_seconds(run.worked_seconds)
    if not run.is_exact:
        time += (
            ", from the first to the last journaled record of each start: loading and the last evaluation not counted"
        )
    starts = f" in {count(run.num_starts, 'start')}" if run.num_starts > 1 else ""
    gpu = f"{gpus * run.hours:.2f} ({_few(gpus)} GPUs held)" if gpus else "0 (no role holds a GPU)"
    return [
        ("Began", moment(run.began_at)),
        ("Time", f"{time}{starts}"),
        ("GPU-hours", gpu),
        ("CPU-hours", f"{cpus * run.hours:.2f} ({_few(cpus)} logical CPUs held)"),
    ]


def busy_table(run: RunRecord) -> Html | None:
    """How much of the held time each role computed."""
    if not run.worked_seconds:
        return None
    busy = dict(run.busy_seconds)
    if run.updates and all(update.seconds is not None for update in run.updates):
        busy["trainer"] = sum(update.seconds or 0.0 for update in run.updates)
    rows = []
    for row in resources(run.config, run.mean_actors):
        if row.role == "control":
            continue
        seconds = busy.get(row.role)
        actors = 1 if row.role == "trainer" else row.num_actors  # ranks compute at the same time
        share = UNKNOWN if seconds is None else f"{seconds / (actors * run.worked_seconds):.0%}"
        held = f"{_few(row.cpus)} CPUs, {_few(row.gpus)} GPUs"
        rows.append((row.role, _few(row.num_actors), held, DASH if seconds is None else show_seconds(seconds), share))
    return table("How busy the roles were", ["role", "actors", "held", "computed", "of its time"], rows)


def _few(number: float) -> str:
    """To two places; a mean of a pool that changed its size has any number."""
    return f"{round(number, 2):g}"


def trouble_facts(run: RunRecord) -> list[tuple[str, Any]]:
    found = run.troubles
    scores, alarms = sum(found.missing_scores.values()), sum(len(result.alarms) for result in run.evaluations)
    return [
        (
            "Ended",
            f"{'not yet, or killed' if run.status == 'open' else run.status}{f': {run.reason}' if run.reason else ''}",
        ),
        ("Starts", f"{run.num_starts}" if run.num_starts else "nothing was journaled"),
        ("Failed scores", f"{scores:,} of {found.num_scores:,} scores of rollouts"),
        ("Failed tickets", f"{sum(found.failed_tickets.values()):,}, {found.tickets_tried_again:,} more tried again"),
        ("Restarts", restarts_text(found)),
        ("Alarms", count(alarms, "finding") if alarms else _silent(run)),
        ("Refused checkpoints", f"{len(found.refused_checkpoints)}"),
    ]


def what_went_wrong(run: RunRecord) -> Html:
    """Every kind of trouble that a run can tell of, also those that did not happen."""
    found = run.troubles
    alarms = [one["text"] for result in run.evaluations for one in result.alarms]
    parts = [
        facts(trouble_facts(run)),
        *_reasons("Scores of rollouts that failed, by reason", found.missing_scores, "scores"),
        *_reasons("Held-out scores that are missing", found.missing_heldout, "values"),
        *_reasons("Tickets that failed, by reason", found.failed_tickets, "tickets"),
        *_reasons("Rows that were tried again, by reason", found.retried_rows, "rows"),
        *_listed("Cohorts that were skipped or ended the run", found.interrupted_cohorts),
        *_listed("Checkpoints that a resume would refuse", found.refused_checkpoints),
        *_listed("Checkpoints that were never completed; a resume passes them over", found.unmarked_checkpoints),
        *_listed("Files of the run that are damaged", found.damaged_files),
        *_listed("Alarms", alarms),
        *_listed("Messages of the last start", found.messages or ()),
    ]
    if found.messages is None:
        parts.append(tag("p", "Messages are not known: no summary of the run's last start keeps them.", class_="note"))
    parts.append(
        tag(
            "p",
            "A failed score is missing, never zero: it is counted here and trained on nowhere. Checkpoints are checked "
            "by the sizes of their files, not by checksum.",
            class_="note",
        )
    )
    return section("troubles", "What went wrong", *parts)


def restarts_text(found: Troubles) -> str:
    if found.restarts is None:
        return "not known: no summary of the run's last start"
    listed = ", ".join(f"{role} {number}" for role, number in found.restarts.items() if number)
    return listed or "none in the last start"


def _silent(run: RunRecord) -> str:
    judges = run.config.judges()
    if not judges:
        return "no judge was watched: every evaluated score is ranked by or trained with"
    number = len(run.evaluations)
    too_few = f"; it needs {MIN_EVALUATIONS}" if number < MIN_EVALUATIONS else ""
    return f"silent over {count(number, 'evaluation')}{too_few}, watching {', '.join(judges)}"


def _reasons(title: str, reasons: Mapping[str, int], unit: str) -> list[Html]:
    if not reasons:
        return []
    rows = [(reason, f"{number:,}") for reason, number in sorted(reasons.items(), key=lambda one: -one[1])]
    return [table(title, ["reason", unit], rows)]


def _listed(title: str, texts: Sequence[str]) -> list[Html]:
    if not texts:
        return []
    items = tag("ul", *(tag("li", text) for text in texts))
    return [folded(f"{title} ({len(texts)})", items)] if len(texts) > 4 else [tag("h3", title), items]
