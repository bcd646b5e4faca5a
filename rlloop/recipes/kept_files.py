"""Files of a run that a report can do without: read where they are whole, named where they are damaged.

Separate from run_record.py because nothing follows from them: a run is its configuration, journal and evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, NonNegativeFloat

from rlloop.loop.environment import ENVIRONMENT_FILE
from rlloop.loop.files import as_kind, read_json
from rlloop.views.report.record import Sweep

SWEEP_PLACES = ("sweep.json", "sweep/sweep.json")
T = TypeVar("T")


@dataclass(frozen=True)
class Summary:
    """What a report takes of summary.json (rlloop/views/summary.py). None: not known."""

    status: Literal["finished", "stopped", "failed"] = "finished"
    reason: str = ""
    policy_versions: int | None = None
    wall_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    result_version: int | None = None
    restarts: dict[str, int] | None = None
    messages: list[str] | None = None


@dataclass(frozen=True)
class Start:
    """What a report shows of an entry of environment.json (rlloop/loop/environment.py)."""

    versions: dict[str, str | None] | None = None
    commit: str | None = None
    platform: str | None = None
    cpu: str | None = None
    cpus: int | None = None
    memory_bytes: NonNegativeFloat | None = None
    gpus: list[str] | None = None
    nodes: list[dict[str, float]] | None = None


@dataclass(frozen=True)
class Prompts:
    """prompts.json, of which a report shows those that rollouts were drawn with."""

    train: list[str]


@dataclass(frozen=True)
class KeptFiles:
    """`damaged` has a line for each file that is there and cannot be taken."""

    summary: Summary | None
    starts: Sequence[Mapping[str, Any]]
    sweep: Sweep | None
    corpus: Mapping[str, Any] | None
    training_prompts: Sequence[str]
    damaged: Sequence[str]


def read_kept(folder: Path) -> KeptFiles:
    """All of them; a missing or damaged one is None, or empty."""
    damaged: list[str] = []
    starts = read_if_whole(list[Start], folder / ENVIRONMENT_FILE, damaged) or []
    prompts = read_if_whole(Prompts, folder / "prompts.json", damaged)
    sweeps = [read_if_whole(Sweep, folder / place, damaged) for place in SWEEP_PLACES]
    return KeptFiles(
        summary=read_if_whole(Summary, folder / "summary.json", damaged),
        starts=[asdict(start) for start in starts],
        sweep=next((found for found in sweeps if found), None),
        corpus=read_if_whole(dict[str, Any], folder / "corpus.json", damaged),
        training_prompts=prompts.train if prompts else [],
        damaged=damaged,
    )


def read_if_whole(kind: type[T], path: Path, damaged: list[str]) -> T | None:
    """The file as a type; None where it is missing, or damaged, which `damaged` then names."""
    if not path.exists():
        return None
    try:
        return as_kind(kind, read_json(path), path.name)
    except ValueError as error:
        damaged.append(f"{error}; left out of this report")
        return None
