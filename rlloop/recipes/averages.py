"""Stored averages of a run's weights (post-hoc EMA) and the synthesis of any width from them."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file

from rlloop.config import Config
from rlloop.loop.checkpoints import write_arrays
from rlloop.loop.plan import Plan
from rlloop.models.ema import Snapshot, synthesise
from rlloop.recipes.disk import make_writable

NAME = re.compile(r"sigma([0-9.]+)-step(\d+)\.safetensors")


def snapshot_path(run_dir: Path, stage: str, sigma: float, step: int) -> Path:
    return run_dir / "ema" / stage / f"sigma{sigma:g}-step{step:09d}.safetensors"


def stored_snapshots(run_dir: Path, stage: str) -> list[Snapshot]:
    """All stored tracks of a stage, by step.

    Raises:
        ValueError: there are none; says which stages have some.
    """
    found = []
    for path in (run_dir / "ema" / stage).glob("*.safetensors"):
        if match := NAME.fullmatch(path.name):
            found.append(Snapshot(int(match[2]), float(match[1]), partial(load_file, str(path))))
    if not found:
        there = sorted(path.name for path in (run_dir / "ema").glob("*") if any(path.iterdir()))
        raise ValueError(
            f"{run_dir}: no averages of stage '{stage}' are stored, there are those of {there}; train with "
            "trainer.ema_sigmas=[0.05, 0.1]"
        )
    return sorted(found, key=lambda one: (one.step, one.sigma))


def average(run_dir: Path, stage: str, sigma: float, step: int | None, out: Path) -> str:
    """Writes the average of relative width `sigma` at update `step` of a stage (None: its last) as network weights.

    Returns:
        a line that says what was written, and in which score variant the stage had the network.
    Raises:
        ValueError: no such run, stage or step, or stored tracks from which this width cannot be had.
    """
    if out.exists():
        raise ValueError(f"{out} is there already; choose another name")
    make_writable(out.parent)
    path = run_dir / "config.json"
    if not path.is_file():
        raise ValueError(f"{run_dir} is no run: it has no config.json; name a run directory")
    config = Config.model_validate(json.loads(path.read_text()))
    plan = Plan.from_config(config)
    variant = plan.variant_of(plan.last_of_stage(stage) + 1)
    snapshots = stored_snapshots(run_dir, stage)
    at = snapshots[-1].step if step is None else step
    used = [one for one in snapshots if one.step <= at]
    try:
        write_arrays(out, synthesise(used, sigma, at))
    except SafetensorError as error:  # a damaged snapshot, or a place that cannot be written
        found = " ".join(str(error).split())
        raise ValueError(f"{out} cannot be made from {run_dir / 'ema' / stage}: {found}") from None
    forward = f"score variant {variant}" if variant else "the generator's own score variant"
    return f"{out}: average of width {sigma:g} at update {at} of {stage}, from {len(used)} stored tracks; of {forward}"
