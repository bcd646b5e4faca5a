"""The file of results, one JSON object a line, and the table that is made of it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bench.chaos_checks import Results
from bench.chaos_recovery import DEFINITIONS
from bench.chaos_roles import WEIGHTS, Kill
from bench.chaos_run import Outcome

REPOSITORY = Path(__file__).resolve().parent.parent
CODE = ("actors/**/*.py", "rlloop/**/*.py", "bench/chaos*.py", "bench/chaos*.yaml")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal, in what a run said last
Line = dict


def read_lines(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append_lines(path: Path, lines: Sequence[Line]) -> None:
    """Adds lines together: a run that was cut off leaves none, so it is not counted and comes again."""
    with path.open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def reference_line(outcome: Outcome, settings: str, code: str) -> Line:
    return {
        "kind": "reference", "settings": settings, "commit": commit(), "code": code,
        "seconds": round(outcome.seconds, 1), "violations": outcome.violations,
        "results": asdict(outcome.results) if outcome.results else None,
    }  # fmt: skip


def find_reference(lines: Sequence[Line], settings: str) -> Results | None:
    """What the undisturbed run of these settings came to; `lines` are of one code."""
    found = [line["results"] for line in lines if line["kind"] == "reference" and line["settings"] == settings]
    return Results(**found[-1]) if found and found[-1] else None


def run_lines(outcome: Outcome, *, run: int, seed: int, topology: str, settings: str, code: str) -> list[Line]:
    """One line a kill and one for their run."""
    common = {"run": run, "seed": seed, "topology": topology, "settings": settings, "commit": commit(), "code": code}
    alone = {kill.number for kill in outcome.kills if is_alone(kill, outcome.kills)}
    lines: list[Line] = [
        {
            "kind": "kill", **common, "number": kill.number, "role": kill.role, "detail": kill.detail,
            "after": kill.after, "version": kill.version, "seconds_into_run": round(kill.seconds_into_run, 2),
            "recovery_seconds": None if kill.seconds is None else round(kill.seconds, 2),
            "alone": kill.number in alone,
        }
        for kill in outcome.kills
    ]  # fmt: skip
    results = asdict(outcome.results) if outcome.results else None
    lines.append(
        {
            "kind": "run",
            **common,
            "kills": len(outcome.kills),
            "commands": outcome.commands,
            "seconds": round(outcome.seconds, 1),
            "violations": outcome.violations,
            "results": results,
            "load": round(outcome.load, 1),
        }  # fmt: skip
    )
    return lines


def is_alone(kill: Kill, kills: Sequence[Kill]) -> bool:
    """Whether nothing else was down between a kill and its recovery; a kill without recovery lasts for ever."""

    def end(one: Kill) -> float:
        return one.time + (np.inf if one.seconds is None else one.seconds)

    return all(other is kill or end(other) < kill.time or other.time > end(kill) for other in kills)


def code_state(root: Path = REPOSITORY) -> str:
    """A hash of the files whose change makes earlier kills prove nothing: loop, method, and this bench.

    Of the files as they lie there, not of a commit: one that only adds results or words is the same code, and changes
    without a commit are not.
    """
    digest = hashlib.sha256()
    for path in sorted({path for pattern in CODE for path in root.glob(pattern)}):
        digest.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


def of_code(lines: Sequence[Line], code: str) -> list[Line]:
    """Those of this code; lines of earlier times name none."""
    return [line for line in lines if line.get("code") == code]


def commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "actors", "rlloop", "tests", "bench/*.py")
    return git("rev-parse", "--short=9", "HEAD") + ("+" if changed else "")


def machine() -> str:
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def report(lines: Sequence[Line], date: str, code: str) -> str:
    """The section's body: what was killed, what was wrong, and how long recovery took; a part for each settings.

    Kills of earlier code are only counted.
    """
    mine = of_code(lines, code)
    runs = [line for line in mine if line["kind"] == "run"]
    violations = [(line["run"], what) for line in runs for what in line["violations"]]
    commits = ", ".join(dict.fromkeys(line["commit"] for line in runs))
    body = [f"`make chaos`, {date}, {machine()}, shared. Commits: {commits}; code {code}."]
    for settings in dict.fromkeys(line["settings"] for line in runs):
        body += ["", *_part(settings, [line for line in mine if line.get("settings") == settings])]
    body += [
        "",
        "Seconds from the kill until work was done again. *Alone*: nothing else was down meanwhile; the first three "
        "are of these, *with others* are the rest. A kill after which a role had no more work has no recovery.",
        "",
        *(f"- {role}: until {DEFINITIONS[role]}" for role in WEIGHTS),
    ]
    earlier = [line for line in lines if line.get("code") != code]
    body += ["", f"Not in the table: {_counted(earlier)}."] if earlier else []
    body += (
        ["", "Violations:", *(f"- run {run}: {COLOURS.sub('', what)}" for run, what in violations)]
        if violations
        else []
    )
    return "\n".join(body)


def _counted(earlier: Sequence[Line]) -> str:
    kills = sum(line["kind"] == "kill" for line in earlier)
    violations = sum(len(line.get("violations", ())) for line in earlier)
    return f"earlier code: {kills} kills, {violations} violations"


def _part(settings: str, lines: Sequence[Line]) -> list[str]:
    kills, runs = ([line for line in lines if line["kind"] == kind] for kind in ("kill", "run"))
    topologies = Counter(line["topology"] for line in runs)
    loads = [line["load"] for line in runs]
    compared = any(line["kind"] == "reference" for line in lines)
    return [
        f"**{len(kills)} kills** by SIGKILL" + (f" with `{settings}`" if settings else "")
        + f" in {len(runs)} runs ({', '.join(f'{n} on {name}' for name, n in sorted(topologies.items()))}), "
        f"{sum(line['seconds'] for line in runs) / 60:.0f} minutes, load {min(loads):.0f} to {max(loads):.0f}; "
        f"{sum(line['commands'] - 1 for line in runs)} commands repeated. "
        + ("Weights, selections and losses compared with an undisturbed run's, bit by bit. " if compared else "")
        + f"**Violations: {sum(len(line['violations']) for line in runs)}.**",
        "",
        table(kills),
    ]  # fmt: skip


def table(kills: Sequence[Line]) -> str:
    """Markdown: a row a role."""
    rows = [
        "| role | kills | recovered alone | p50 | p90 | max | with others | p50 | max |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for role in WEIGHTS:
        mine = [line for line in kills if line["role"] == role]
        times = [(line["alone"], line["recovery_seconds"]) for line in mine if line["recovery_seconds"] is not None]
        alone, others = ([t for flag, t in times if flag is which] for which in (True, False))
        cells = [role, str(len(mine)), str(len(alone)), *_quantiles(alone, (0.5, 0.9, 1)), str(len(others))]
        rows.append("| " + " | ".join([*cells, *_quantiles(others, (0.5, 1))]) + " |")
    return "\n".join(rows)


def _quantiles(times: Sequence[float], at: Sequence[float]) -> list[str]:
    return [f"{np.quantile(times, q):.1f}" if times else "" for q in at]
