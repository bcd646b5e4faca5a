"""rlloop stacks RUN: what every process of a run does at this moment, for one that seems to hang."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, such as runs/mini.")]) -> None:
    """Prints the stacks of all threads of the run's processes on this machine; the run goes on.

    Example: rlloop stacks runs/mini | grep -A 12 sampler
    """
    from rlloop.loop import stacks

    if not (run_dir / "config.json").is_file():
        raise ValueError(f"{run_dir} holds no run: config.json is missing; give the run_dir that a run printed")
    found = stacks.dump_here(run_dir)
    for name, text in found:
        print(f"==== {name}\n{text}")
    elsewhere = sorted({p.host for p in stacks.registered(run_dir)} - {stacks.host_name()})
    if elsewhere:
        print(f"==== not asked, repeat it there: processes on {', '.join(elsewhere)}")
    if not found and not elsewhere:
        print(f"no process of {run_dir} runs")
