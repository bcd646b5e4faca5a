"""`rlloop report`: reads one run or two and writes the page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rlloop.loop.environment import version_of
from rlloop.recipes.run_clips import one_run, two_runs
from rlloop.recipes.run_comparison import compare_runs
from rlloop.recipes.run_record import read_run
from rlloop.views.report.page import comparison_page, run_page


def report_page(folders: Sequence[Path]) -> str:
    """The page of one run, or of two against each other. Half a surrogate, which JSON lets a prompt have, becomes `?`.

    Raises:
        ValueError: a folder holds no run or a damaged one, or both are the same.
    """
    made = f"Made by rlloop {version_of('rlloop') or '(not installed)'} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."
    runs = [read_run(folder) for folder in folders]
    if len(runs) == 1:
        record, ledger = runs[0]
        return text(run_page(record, one_run(record, ledger), made))
    (a, _), (b, _) = runs
    if a.folder == b.folder:
        raise ValueError(f"{folders[0]} and {folders[1]} are the same run; give two")
    return text(comparison_page(a, b, compare_runs(a, b), two_runs(a, b), made))


def text(page: str) -> str:
    """What UTF-8 can hold of it."""
    return page.encode("utf-8", errors="replace").decode()


def write_page(page: str, out: Path) -> None:
    """Complete or as before."""
    scratch = out.with_name(out.name + ".tmp")
    try:
        scratch.write_text(page, encoding="utf-8")
        os.replace(scratch, out)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
