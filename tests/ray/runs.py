"""Runs of the real command with stand-in models, in a process of their own, and what their files must show."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from rlloop.config import load
from rlloop.loop import checkpoints
from rlloop.loop import records as r
from rlloop.loop.journal import Journal
from rlloop.loop.ledger import FINAL, Ledger
from rlloop.loop.plan import Plan

REPOSITORY = Path(__file__).parents[2]
FAKE = REPOSITORY / "tests" / "fake.yaml"
DEADLINE_S = 420.0


def command(run_dir: Path, *overrides: str, preset: Path = FAKE) -> list[str]:
    return [sys.executable, "-m", "rlloop.main", "--config", str(preset), f"run_dir={run_dir}", *overrides]


def start(run_dir: Path, *overrides: str, preset: Path = FAKE) -> subprocess.Popen:
    """Starts the driver in the background; its output goes to run_dir.out."""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    output = run_dir.with_suffix(".out").open("ab")
    return subprocess.Popen(
        command(run_dir, *overrides, preset=preset),
        cwd=REPOSITORY,
        env=env,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def press_control_c(driver: subprocess.Popen) -> None:
    """SIGINT to the driver's whole process group, as a terminal sends it."""
    os.killpg(driver.pid, signal.SIGINT)


def finish(process: subprocess.Popen, run_dir: Path, status: int = 0) -> dict:
    """Waits for a driver's end and returns its summary."""
    try:
        found = process.wait(DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"no end within {DEADLINE_S} s:\n{tail(run_dir)}") from None
    assert found == status, f"status {found}, expected {status}:\n{tail(run_dir)}"
    return json.loads((run_dir / "summary.json").read_text())


def run(run_dir: Path, *overrides: str, preset: Path = FAKE) -> dict:
    return finish(start(run_dir, *overrides, preset=preset), run_dir)


def tail(run_dir: Path) -> str:
    lines = run_dir.with_suffix(".out").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("Extension modules:"))[-3000:]  # of a crash


def records(run_dir: Path) -> list[r.Record]:
    return [record for record, _ in Journal(run_dir / "journal" / "journal.log").read()]


def wait_until(driver: subprocess.Popen, run_dir: Path, condition, what: str) -> None:
    """Polls the journal until condition(records) holds; fails when the driver ends before."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition(records(run_dir)):
        assert driver.poll() is None, f"the driver ended before {what}:\n{tail(run_dir)}"
        assert time.monotonic() < deadline, f"waited {DEADLINE_S} s for {what}:\n{tail(run_dir)}"
        time.sleep(0.2)


def count(found: list[r.Record], kind: type) -> int:
    return sum(isinstance(record, kind) for record in found)


def kill_role(driver: subprocess.Popen, title: str) -> bool:
    """SIGKILL to one process of the driver's own Ray whose title contains `title`; False when there is none."""
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if title in " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
                return True
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return False


def selections(run_dir: Path) -> dict[int, tuple]:
    return {record.generation: record.examples for record in records(run_dir) if isinstance(record, r.Selected)}


def wait_for_checkpoint(driver: subprocess.Popen, run_dir: Path, digest: str, version: int, step: int) -> None:
    """Waits until a checkpoint inside generation `version`, at `step` updates of it or later, is complete."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        found = checkpoints.newest(run_dir, digest)
        if found and (found[1].version, found[1].step) >= (version, step):
            return
        assert driver.poll() is None, f"the driver ended before version {version}, step {step}:\n{tail(run_dir)}"
        assert time.monotonic() < deadline, f"waited {DEADLINE_S} s for step {step}:\n{tail(run_dir)}"
        time.sleep(0.1)


def check_exactness(run_dir: Path, *overrides: str, preset: Path = FAKE) -> Ledger:
    """No ticket in two selections, none lost, versions monotonic, staleness within bound: replayed from the journal."""
    config = load(preset, list(overrides))
    ledger, versions, chosen = Ledger(Plan.from_config(config)), [], []
    for record in records(run_dir):
        ledger.apply(record)  # asserts what a ledger forbids
        if isinstance(record, r.Published):
            versions.append(record.version)
        if isinstance(record, r.Selected):
            chosen += sorted({ticket for ticket, _, _ in record.examples})
        if isinstance(record, r.Buffered):
            lag = ledger.plan.generation_of(record.ticket).k - record.version
            assert 0 <= lag <= config.loop.max_staleness, record
    assert versions == list(range(1, ledger.plan.num_versions + 1))
    assert len(chosen) == len(set(chosen)), "a ticket is in two selections"
    lost = [n for n, ticket in enumerate(ledger.tickets) if ticket.state not in FINAL]
    assert not lost, f"tickets in no final state: {lost}"
    return ledger
