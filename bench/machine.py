"""The machine, the date and the commit that a section of the results is from."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

CODE = (":/", ":(top,exclude)*.md", ":(top,exclude)bench/*.jsonl")


def describe() -> str:
    """`2026-11-22, AMD EPYC, 2 cores (load 1.3), commit abc1234`."""
    load = f"{os.getloadavg()[0]:.1f}"
    return f"{time.strftime('%Y-%m-%d')}, {cpu()}, {os.cpu_count()} cores (load {load}), commit {commit()}"


def cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str:
    """Short hash of the checked-out commit, with + where code differs from it; 'unknown' outside a checkout.

    Words and results do not count: a bench that writes its section would mark the next one.
    """
    here = Path(__file__).parent

    def git(*words: str) -> str:
        found = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=False)
        return found.stdout.strip()

    is_changed = git("status", "--porcelain", "-uno", "--", *CODE)
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if is_changed else "")
