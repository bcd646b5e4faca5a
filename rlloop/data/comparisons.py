"""Compared pairs of clips that already have rewards, for the calibration of systems."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlloop.data.columns import numbers, read_table, targets, texts


@dataclass(frozen=True, eq=False)
class Comparisons:
    """N pairs: rewards [N], `target` [N] (1 where a won, 0 where b won, 0.5 for a tie), and who made a and b."""

    reward_a: np.ndarray
    reward_b: np.ndarray
    target: np.ndarray
    system_a: list[str]
    system_b: list[str]


def read_comparisons(path: Path) -> Comparisons:
    """Reads JSON lines or Parquet with `reward_a`, `reward_b`, `system_a`, `system_b` and `winner`.

    Raises:
        ValueError: not there, a field is missing, or a row lacks a winner, a system or a reward.
    """
    table = read_table(path)
    systems = {name: texts(table, name) for name in ("system_a", "system_b")}
    for name, values in systems.items():
        if "" in values:
            raise ValueError(f"{path}: {name} of row {values.index('')} is empty; expected the name of a system")
    rewards = {name: numbers(path, table, name) for name in ("reward_a", "reward_b")}
    target = targets(path, texts(table, "winner")).numpy().astype(np.float64)
    return Comparisons(**rewards, target=target, **systems)
