"""The trainer's points on their way to the curves: what a report is answered, and the copy in each checkpoint.

The buffer holds them in memory only. So the trainer sends again what a restarted buffer lacks, and the driver takes
what no report brought from the last checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from rlloop.loop.files import read_as
from rlloop.loop.journal import write_durably
from rlloop.loop.snapshot import TrainPoint

POINTS = "points.json"


@dataclass(frozen=True)
class Heard:
    """The buffer's answer to a report: whether to stop, and why, and the newest step whose point it has."""

    stop_reason: str
    newest_step: int


def write_points(checkpoint: Path, points: Iterable[TrainPoint]) -> None:
    """Writes those of a checkpoint, to disk: its marker vouches for them."""
    write_durably(checkpoint / POINTS, json.dumps([asdict(point) for point in points]).encode())


def read_points(checkpoint: Path) -> list[TrainPoint]:
    """Those of a checkpoint; none where it has none, as version 0.

    Raises:
        ValueError: the file holds something else; one line.
    """
    path = checkpoint / POINTS
    return read_as(list[TrainPoint], path) if path.exists() else []
