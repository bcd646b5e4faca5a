"""Small readings of a snapshot that several views show: the reward's name, held-out means, formats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

from rlloop.config import Config
from rlloop.loop.snapshot import EvaluationResult

BARS = "▁▂▃▄▅▆▇█"


def score_label(config: Config) -> str:
    """The score that is called the reward."""
    return config.headline_score


def evaluation_labels(config: Config) -> list[str]:
    """Names under which the evaluation's scores are kept."""
    return [reward.name for reward in config.evaluation.scores]


def mean_score(evaluation: EvaluationResult, name: str) -> float | None:
    """Mean over prompts of the mean over seeds; missing values left out; None if nothing is left."""
    prompts = []
    for values in evaluation.scores.get(name, ()):
        present = [value for value in values if is_number(value)]
        if present:
            prompts.append(sum(present) / len(present))
    return sum(prompts) / len(prompts) if prompts else None


def is_number(value: float | None) -> TypeGuard[float]:
    """Whether a score is there and finite."""
    return value is not None and math.isfinite(value)


def sparkline(values: Sequence[float | None]) -> str:
    """One bar a value between the smallest and the largest; a missing one is a blank."""
    present = [value for value in values if is_number(value)]
    if not present:
        return ""
    low, span = min(present), max(present) - min(present)
    top = len(BARS) - 1
    heights = [None if not is_number(v) else round((v - low) / span * top) if span else top // 2 for v in values]
    return "".join(" " if height is None else BARS[height] for height in heights)


def show_seconds(seconds: float | None) -> str:
    """75 as 1:15, 3700 as 1:01:40; a dash when unknown."""
    if not is_number(seconds):
        return "-"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def show_score(value: float | None) -> str:
    return f"{value:+.3f}" if is_number(value) else "-"
