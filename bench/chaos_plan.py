"""Which role is killed next and when: values drawn from the seed and the number of the kill, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

FIRST_WITHIN_S = 40.0  # of a run: its start-up is part of it
AFTER_RECOVERY_S = 7.0  # about two generations of bench/chaos.yaml, so that every phase of one is met
AT_ONCE_S = 8.0  # while the last victim's place is still empty, or its replacement starts
REPLACEMENT_S = 3.0


@dataclass(frozen=True)
class Pause:
    """When the next kill comes: `seconds` after ...

    start: the run's first command. recovered: everything killed so far works again. killed: the last kill.
    replaced: the last victim's replacement has a process, which is then the victim.
    """

    after: Literal["start", "recovered", "killed", "replaced"]
    seconds: float


def next_pause(seed: int, number: int, is_first: bool) -> Pause:
    """The pause before kill `number`; `is_first` of its run."""
    rng = np.random.default_rng([seed, number, 1])
    if is_first:
        return Pause("start", rng.uniform(0, FIRST_WITHIN_S))
    kind = rng.choice(["recovered", "killed", "replaced"], p=[0.7, 0.18, 0.12])
    longest = {"recovered": AFTER_RECOVERY_S, "killed": AT_ONCE_S, "replaced": REPLACEMENT_S}[kind]
    return Pause(str(kind), rng.uniform(0, longest))


def order_of_roles(seed: int, number: int, counts: Mapping[str, int], weights: Mapping[str, float]) -> Sequence[str]:
    """Roles by how much they lack: fewest kills for their weight first, drawn among equals."""
    rng = np.random.default_rng([seed, number, 2])
    drawn = [str(role) for role in rng.permutation(sorted(weights))]
    return sorted(drawn, key=lambda role: counts.get(role, 0) / weights[role])
