"""What a run ran on: versions and hardware of each start of the driver, kept in `environment.json` of the run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlloop.loop.files import read_json

ENVIRONMENT_FILE = "environment.json"
PACKAGES = ("rlloop", "torch", "ray", "deepspeed", "transformers", "numpy")
ASK_TIMEOUT_S = 10
SOURCE = Path(__file__).resolve().parents[2]


def record_start(run_dir: Path, epoch: int, nodes: Sequence[Mapping[str, float]]) -> None:
    """Adds this start to the run's file; complete or as before.

    Args:
        nodes: the resources that Ray has on each node, such as {"CPU": 2.0, "GPU": 1.0, "accelerator_type:H100": 1.0}.
    """
    path = run_dir / ENVIRONMENT_FILE
    entry = {"epoch": epoch, "time": round(time.time(), 1), **describe(), "nodes": [dict(node) for node in nodes]}
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps([*read_starts(run_dir), entry], indent=1))
    os.replace(scratch, path)


def read_starts(run_dir: Path) -> list[dict[str, Any]]:
    """The entries so far; none where there is no file, or one that is damaged: nothing depends on it."""
    try:
        found = read_json(run_dir / ENVIRONMENT_FILE)
    except ValueError:
        return []
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def describe() -> dict[str, Any]:
    """Versions, source commit and the hardware of the machine that the driver is on; None where it cannot be told."""
    return {
        "versions": {"python": platform.python_version(), **{name: version_of(name) for name in PACKAGES}},
        "commit": commit_of(SOURCE),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "memory_bytes": memory_bytes(),
        "gpus": gpus(),
    }


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit_of(folder: Path) -> str | None:
    """The commit of a working copy, with a plus where files differ from it; None where there is none."""
    if not (folder / ".git").exists():
        return None
    commit = _ask("git", "-C", str(folder), "rev-parse", "--short=12", "HEAD")
    changed = _ask("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+" if commit and changed else commit


def cpu_model() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), None)


def memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def gpus() -> list[str]:
    """Name, memory and driver of each NVIDIA GPU here, as its own tool tells them."""
    found = _ask("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return [line.strip() for line in (found or "").splitlines() if line.strip()]


def _ask(*command: str) -> str | None:
    """What a program prints; None where it is missing, fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
