"""Runs golden cases: outputs of a reference implementation on drawn weights, against ours in float32 on the CPU."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlloop.recipes.golden_case import DEFAULT_TOLERANCE, Case, Tolerance, one_of, read_arrays
from rlloop.recipes.golden_kinds import KINDS


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    `difference` and `bound` are those of the array nearest to its bound, as shares of its largest magnitude unless the
    tolerance is absolute; None where it could not be compared. `remarks` say why it failed, and what was left out.
    """

    name: str
    seconds: float = 0.0
    array: str = ""
    difference: float | None = None
    bound: float | None = None
    has_passed: bool = False
    remarks: tuple[str, ...] = ()


def run_cases(folder: Path, index: Mapping[str, Any]) -> Iterator[Outcome]:
    """Runs the cases of `index` one by one. What goes wrong inside a case is its outcome."""
    for name, entry in index.items():
        began = time.perf_counter()
        try:
            found = compare(name, folder / f"{name}.npz", entry)
        except Exception as error:  # whatever a stranger's entry or file causes; the other cases still count
            what = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            found = Outcome(name, remarks=(what + " ".join(str(error).split()),))
        yield replace(found, seconds=time.perf_counter() - began)


def compare(name: str, path: Path, entry: Any) -> Outcome:
    """Computes a case and holds it against its npz.

    Raises:
        ValueError: the entry or the npz is not what its kind needs.
    """
    if not isinstance(entry, Mapping):
        raise ValueError(f"its entry is {entry!r}, expected an object")
    compute = one_of("kind", KINDS, entry.get("kind"))
    tolerance = Tolerance.parse(entry.get("tolerance") or DEFAULT_TOLERANCE)
    case = Case(entry, read_arrays(path))
    if not str(case.setting("dtype", default="float32")).endswith("float32"):
        raise ValueError(f"dtype {entry['dtype']!r} is not supported, cases are computed in float32")
    with torch.inference_mode():
        found = {key: np.asarray(value) for key, value in compute(case).items()}
    expected = case.expected()
    if not found:
        raise ValueError("its inputs give nothing to compare")
    if found.keys() != expected.keys():
        raise ValueError(f"{path.name} holds {', '.join(expected) or 'nothing'}; expected are {', '.join(found)}")
    shares = {key: difference(key, found[key], expected[key], tolerance) for key in found}
    worst = max(shares, key=lambda key: shares[key] if np.isfinite(shares[key]) else np.inf)
    unused = case.unused()
    return Outcome(
        name,
        array=worst,
        difference=shares[worst],
        bound=tolerance.bound,
        has_passed=all(share <= tolerance.bound for share in shares.values()),
        remarks=(f"not known, left out: {', '.join(unused)}",) if unused else (),
    )


def difference(name: str, found: np.ndarray, expected: np.ndarray, tolerance: Tolerance) -> float:
    """Largest absolute difference of two arrays, over the expected one's largest magnitude unless that is not asked.

    Raises:
        ValueError: shapes that differ in more than dimensions of 1, or an expected array that is not finite.
    """
    drop = [tuple(size for size in array.shape if size != 1) for array in (found, expected)]
    if drop[0] != drop[1]:
        raise ValueError(f"{name} has the shape {list(found.shape)}, the npz has {list(expected.shape)}")
    expected = expected.astype(np.float64)
    if not expected.size or not np.isfinite(expected).all():
        raise ValueError(f"{name} of the npz is empty or not finite")
    largest = float(np.abs(found.reshape(expected.shape).astype(np.float64) - expected).max())
    if tolerance.is_absolute or largest == 0:
        return largest
    scale = float(np.abs(expected).max())
    return largest / scale if scale else float("inf")
