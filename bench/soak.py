"""Soak: a long run of stand-ins through the real loop, and what grows with its length.

    python -m bench.soak                              20,160 tickets, into bench/results.md
    python -m bench.soak --minutes 15 -- stages.0.generations=100

Memory is what a process has for itself (RSS less the pages that it shares, as the object store's), summed over the
processes of a role. The slope is a line through the samples of the second half, in MB per 1,000 tickets.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from bench.machine import describe
from bench.results import RESULTS, write_section

REPOSITORY = Path(__file__).resolve().parents[1]
PRESET = REPOSITORY / "bench" / "soak.yaml"
EVERY_S = 5.0
END_S = 180.0
CLOSED = re.compile(r"tickets (\d+)/(\d+)")
MB = 1e6
KINDS = ("rollouts", "checkpoints", "audio", "tensorboard", "journal", "evaluations", "ray_train")


@dataclass(frozen=True)
class Sample:
    """The run at one moment: closed tickets, and bytes by role and by kind."""

    seconds: float
    tickets: int
    memory: dict[str, int]
    rss: dict[str, int]
    folders: dict[str, int]


def role_of(command: list[str]) -> str:
    """A process by its role: actors and stages by their class, Ray's own by their program."""
    first = command[0] if command else "gone"
    if "rlloop.main" in command:
        return "driver"
    if first.startswith("ray::"):
        named = re.findall(r"Gate|SamplerStage|ScorerStage|RayTrainWorker|TrainController", first)
        return named[-1] if named else re.split(r"[.(:\s]", first.removeprefix("ray::"))[0]
    words = " ".join(command)
    program = re.search(r"(gcs_server|raylet|log_monitor|runtime_env_agent|dashboard|monitor)\b", words)
    return program[1] if program else Path(first).name


def memory_by_role(root: psutil.Process) -> tuple[Counter[str], Counter[str], str]:
    """(bytes of its own, RSS) by role over a process and its descendants, and Ray's session folder."""
    own, rss, session = Counter(), Counter(), ""
    for process in [root, *root.children(recursive=True)]:
        try:
            command, found = process.cmdline(), process.memory_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        named = re.search(r"/\S*/session_[0-9_-]+", " ".join(command))
        session = session or (named[0] if named else "")
        role = role_of(command)
        own[role] += found.rss - found.shared
        rss[role] += found.rss
    return own, rss, session


def tree_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # removed meanwhile
            continue
    return total


def closed_tickets(log: Path) -> int:
    """Of the newest status line."""
    found = CLOSED.findall(log.read_text()) if log.exists() else []
    return int(found[-1][0]) if found else 0


def watch(run_dir: Path, overrides: list[str], minutes: float, samples: Path) -> tuple[list[Sample], int]:
    """Runs it, sampling every few seconds, to its end or for so long; returns the samples and the exit status."""
    log = run_dir.with_suffix(".log")
    command = [sys.executable, "-m", "rlloop.main", "--config", str(PRESET), f"run_dir={run_dir}", *overrides]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    found, began = [], time.monotonic()
    with log.open("w") as output, samples.open("w") as kept:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=env, stdout=output, stderr=output, start_new_session=True
        )
        root = psutil.Process(process.pid)
        while process.poll() is None and time.monotonic() < began + 60 * minutes:
            time.sleep(EVERY_S)
            own, rss, session = memory_by_role(root) if process.poll() is None else ({}, {}, "")
            folders = {kind: tree_bytes(run_dir / kind) for kind in KINDS}
            folders["whole run directory"] = tree_bytes(run_dir)
            if session:
                folders["Ray's logs"] = tree_bytes(Path(session) / "logs")
            seconds = time.monotonic() - began
            found.append(Sample(seconds, closed_tickets(log), dict(own), dict(rss), folders))
            kept.write(json.dumps(asdict(found[-1])) + "\n")
            kept.flush()
        return found, end(process)


def end(process: subprocess.Popen) -> int:
    """Its exit status; as Ctrl-C would, where it still runs."""
    for number in (None, signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if number and process.poll() is None:
            os.killpg(process.pid, number)
        try:
            return process.wait(1 if number is None else END_S)
        except subprocess.TimeoutExpired:
            continue
    return -1


def slope(tickets: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """(units per 1,000 tickets, standard error) of a line through the second half of the samples, by tickets."""
    late = tickets >= (tickets[0] + tickets[-1]) / 2
    x, y = tickets[late] / 1000, values[late]
    if len(x) < 3 or np.ptp(x) == 0:
        return float("nan"), float("nan")
    (rate, start), x_centred = np.polyfit(x, y, 1), x - x.mean()
    error = np.sqrt(((y - start - rate * x) ** 2).sum() / (len(x) - 2) / (x_centred**2).sum())
    return float(rate), float(error)


def rows(samples: list[Sample], part: str) -> list[str]:
    """One Markdown row a role or kind: at a quarter, at the half, at the end, the largest, and the slope."""
    tickets = np.array([sample.tickets for sample in samples], float)
    names = sorted({name for sample in samples for name in getattr(sample, part)})
    quarters = [int(np.searchsorted(tickets, tickets[-1] * share)) for share in (0.25, 0.5)]
    lines, totals = [], np.zeros(len(samples))
    for name in names:
        values = np.array([getattr(sample, part).get(name, 0) for sample in samples]) / MB
        if (values > 0).mean() < 0.5:
            continue  # a worker that was there for a moment
        totals += values
        lines.append(line(name, values, tickets, quarters))
    return lines if part == "folders" else [*lines, line("all of these", totals, tickets, quarters)]


def line(name: str, values: np.ndarray, tickets: np.ndarray, quarters: list[int]) -> str:
    rate, error = slope(tickets, values)
    shown = " | ".join(f"{value:.1f}" for value in (*values[quarters], values[-1], values.max()))
    return f"| {name} | {shown} | {rate:+.3f} ± {error:.3f} |"


def gauges(run_dir: Path) -> str:
    """Largest values of the run's own gauges of Ray's object store."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    found = []
    for kind in ("object_store", "spilled"):
        tag = f"storage/{kind}_bytes"
        if tag in events.Tags()["scalars"]:
            values = [event.value for event in events.Scalars(tag)]
            found.append(f"{kind} at most {max(values) / MB:.1f} MB, {values[-1] / MB:.1f} MB at the end")
    return "; ".join(found) or "not known"


def tickets_to_the_end(run_dir: Path) -> int:
    """Closed ones of its summary, which counts those after the last status line as well; 0 where there is none."""
    path = run_dir / "summary.json"
    counts = json.loads(path.read_text())["tickets"] if path.exists() else {}
    return sum(counts.get(state, 0) for state in ("trained", "dropped", "failed"))


def report(samples: list[Sample], run_dir: Path, status: int, command: str) -> str:
    at_work = [sample for sample in samples if sample.tickets and "Buffer" in sample.memory]  # not starting or ending
    assert at_work, f"exit status {status} before any ticket: see {run_dir.with_suffix('.log')}"
    seconds, tickets = at_work[-1].seconds - at_work[0].seconds, at_work[-1].tickets
    rate, done = (tickets - at_work[0].tickets) / seconds, tickets_to_the_end(run_dir)
    head = "| 1/4 | 1/2 | end | largest | MB per 1,000 tickets |\n| --- | --- | --- | --- | --- | --- |\n"
    return (
        f"`{command}`, {describe()}. "
        f"{done:,} tickets, the {tickets:,} of these samples in {seconds / 60:.1f} min ({rate:.1f}/s), exit status "
        f"{status}. Slopes are lines through "
        f"the second half, ± their standard error. Memory is RSS less shared pages, in MB, summed over the processes "
        f"of a role (samplers, scorers and the gate begin anew with each segment).\n\n"
        f"| process {head}" + "\n".join(rows(at_work, "memory")) + "\n\n"
        f"| files {head}" + "\n".join(rows(at_work, "folders")) + f"\n\nRay: {gauges(run_dir)}."
    )


def main(given: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="ends the run after so long")
    parser.add_argument("--folder", type=Path, help="keep the run and its samples here")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args(given)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="rlloop-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    assert not (folder / "run").exists(), f"{folder / 'run'} exists: a resumed run would be measured"
    shown = [word for word in given if word not in ("--folder", str(arguments.folder), "--out", str(arguments.out))]
    samples, status = watch(folder / "run", arguments.overrides, arguments.minutes, folder / "samples.jsonl")
    text = report(samples, folder / "run", status, " ".join(["python -m bench.soak", *shown]))
    write_section("Soak", text, arguments.out)
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
