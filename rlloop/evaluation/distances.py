"""Distances of a set of clips from a reference, and when two of them may be compared.

They belong to a set, not to a prompt, so they have no paired test. Nor is there an interval: resampling clips repeats
some, which narrows the covariance and raises the distance, so a bootstrap over clips is biased.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Distance:
    """A distance with what its value depends on.

    `n` clips of the set, `reference_n` of the reference, whose `reference` is a checksum; lower is nearer. The last
    three are None where an older result did not keep them: such a distance can be shown, not compared.
    """

    name: str
    value: float
    n: int | None
    reference: str | None
    reference_n: int | None


def distance_gain(before: Distance, after: Distance, *, allow_other_n: bool = False) -> float:
    """after - before; negative is better.

    Raises:
        ValueError: they differ in name or reference, or in their number of clips while `allow_other_n` is not set: the
            Frechet distance of a small set is too large by an amount that depends on n (reference.md section 11.1); or
            n or reference of one is unknown.
    """
    if None in (before.n, after.n, before.reference, after.reference):
        raise ValueError(f"{after.name}: an older result did not keep the number of its clips, so nothing is compared")
    if (before.name, before.reference) != (after.name, after.reference):
        raise ValueError(
            f"{before.name} against reference {before.reference[:12]} and {after.name} against {after.reference[:12]} "
            "cannot be compared; use one reference"
        )
    if before.n != after.n and not allow_other_n:
        raise ValueError(
            f"{before.name}: sets of {before.n} and {after.n} clips cannot be compared, its value depends on n; give "
            "sets of one size, or allow it explicitly (--allow-other-n)"
        )
    return after.value - before.value


def mad(gen: np.ndarray, ref: np.ndarray, *, seed: int = 42) -> float:
    """MAUVE Audio Divergence: -ln MAUVE of embeddings [n, D] and [m, D] (reference.md section 11.1), lower is nearer.

    Infinite where MAUVE is 0: the two sets share no cluster.

    Raises:
        ValueError: the optional library is not installed.
    """
    try:
        import mauve
    except ImportError:
        raise ValueError(
            "MAD needs the library mauve-text, which is not installed: pip install 'rlloop[mad]'"
        ) from None
    found = mauve.compute_mauve(
        p_features=np.asarray(ref, np.float32), q_features=np.asarray(gen, np.float32), num_buckets="auto", seed=seed
    )
    return -math.log(found.mauve) if found.mauve > 0 else math.inf
