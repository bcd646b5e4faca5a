"""Averages of the weights over training, of a width chosen afterwards (EDM2, arXiv:2312.02696; reference.md section 7).

Two or more tracks with different widths are kept while training and stored now and then. A weighted sum of what was
stored then gives the average of any width at any step. The profile of a track at step t weighs the weights of an
earlier step s by s^gamma; its relative width sigma is the deviation of s under that profile, over t.

Own code, because the libraries for it store and read snapshots by pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Arrays = Mapping[str, np.ndarray]
LARGEST_SIGMA = 12**-0.5  # gamma 0, all steps alike
LARGEST_ERROR = 0.05  # here the weights of a synthesis still sum to 1 within about 2 %; no network survives much more


@dataclass(frozen=True)
class Snapshot:
    """One stored track: its step, its width, and how to read it, so that one at a time is in memory."""

    step: int
    sigma: float
    load: Callable[[], Arrays]


class Synthesis(NamedTuple):
    """How stored profiles make the wanted one. weights: [n]; error: relative L2 distance between the two profiles."""

    weights: np.ndarray
    error: float


class PostHocEma:
    """Tracks of the weights, one a sigma. Life: empty -> copied by the first update -> averaged by every other.

    Args:
        sigmas: relative widths, each once; published are 0.05 and 0.1.
    Raises:
        ValueError: no sigma, one twice, or one out of (0, 0.2887).
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        if not sigmas or len(set(sigmas)) < len(sigmas):
            raise ValueError(f"EMA sigmas are {list(sigmas)}, expected one or more, all different")
        self.gammas = {float(sigma): gamma_of(sigma) for sigma in sigmas}
        self.step = 0
        self._tracks: dict[float, dict[str, Tensor]] = {}

    def update(self, arrays: Mapping[str, np.ndarray | Tensor], step: int) -> None:
        """Takes in the weights after update `step`, counted from 1 since the average began; the first call copies.

        Called every update, or every few: then the weights count for all updates since the call before.

        Args:
            arrays: name -> weights, of any floating type; others (counters) are not averaged, the last ones are kept.
        Raises:
            ValueError: the step is not after the one before, or the names are others.
        """
        if step <= self.step:
            raise ValueError(f"EMA update at step {step}, expected one after {self.step}")
        values = {name: torch.as_tensor(value).detach() for name, value in arrays.items()}
        for sigma, gamma in self.gammas.items():
            track = self._tracks.get(sigma)
            if track is None:
                self._tracks[sigma] = {name: _copied(value) for name, value in values.items()}
            else:
                self._tracks[sigma] = _moved(track, values, beta(gamma, step, step - self.step))
        self.step = step

    def snapshots(self) -> list[tuple[float, dict[str, np.ndarray]]]:
        """(sigma, arrays) of every track as it is now, on the CPU, to be stored under `self.step`."""
        return [(sigma, {n: v.cpu().numpy().copy() for n, v in track.items()}) for sigma, track in self._tracks.items()]

    def state(self) -> dict[str, np.ndarray]:
        """All of it as arrays for a checkpoint: 'step', and 'SIGMA:NAME' for every track."""
        tracks = {f"{sigma}:{name}": value for sigma, found in self.snapshots() for name, value in found.items()}
        return {"step": np.array([self.step], dtype=np.int64), **tracks}

    def load(self, state: Arrays) -> None:
        """Inverse of `state`.

        Raises:
            ValueError: no step, or tracks of other sigmas.
        """
        found = {float(key.partition(":")[0]) for key in state if ":" in key}
        if "step" not in state or found != (set(self.gammas) if state["step"][0] else set()):
            raise ValueError(f"EMA state has the sigmas {sorted(found)}, expected 'step' and {sorted(self.gammas)}")
        tracks: dict[float, dict[str, Tensor]] = {}
        for key, value in state.items():
            sigma, colon, name = key.partition(":")
            if colon:
                tracks.setdefault(float(sigma), {})[name] = torch.from_numpy(np.array(value))
        self._tracks, self.step = tracks, int(state["step"][0])


def gamma_of(sigma: float) -> float:
    """Exponent of the profile of relative width sigma: sigma^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).

    Raises:
        ValueError: sigma is not in (0, 0.2887), where the exponent is positive.
    """
    if not 0 < sigma < LARGEST_SIGMA:
        raise ValueError(f"EMA sigma is {sigma}, expected a number in (0, {LARGEST_SIGMA:.4f})")
    return float(np.roots([1.0, 7.0, 16.0 - sigma**-2, 12.0 - sigma**-2]).real.max())  # any others are negative


def beta(gamma: float, step: int, elapsed: int) -> float:
    """Weight of the track itself in the update at `step`, `elapsed` updates after the one before.

    One step of the profile keeps (1 - 1/n)^(1 + gamma). With the step-size correction of reference.md section 7 this is
    the geometric mean of that at n = step + 1 and n = step + 1 + elapsed, once for every update that is stood for.
    """
    ends = (1 - 1 / (step + 1)) * (1 - 1 / (step + 1 + elapsed))
    return ends ** ((1 + gamma) * elapsed / 2)


def inner_products(
    steps: np.ndarray, gammas: np.ndarray, other_steps: np.ndarray, other_gammas: np.ndarray
) -> np.ndarray:
    """Integrals of products of profiles p(s) = (gamma + 1) s^gamma / t^(gamma + 1), 0 <= s <= t, in closed form.

    Args:
        steps, gammas: [n]. other_steps, other_gammas: [m].
    Returns:
        [n, m] float64.
    """
    t, u = np.asarray(steps, np.float64)[:, None], np.asarray(other_steps, np.float64)[None, :]
    a, b = np.asarray(gammas, np.float64)[:, None], np.asarray(other_gammas, np.float64)[None, :]
    of_later = np.where(t > u, a, b)
    ratio = np.minimum(t, u) / np.maximum(t, u)
    return (a + 1) * (b + 1) / (a + b + 1) / np.maximum(t, u) * ratio**of_later


def synthesis(snapshots: Sequence[tuple[int, float]], sigma: float, step: int) -> Synthesis:
    """Weights with which stored profiles (step, sigma) come nearest to the one of `sigma` at `step`, by least squares.

    Raises:
        ValueError: no snapshots, one twice, or a step below 1.
    """
    if not snapshots or len(set(snapshots)) < len(snapshots) or min(step, *(at for at, _ in snapshots)) < 1:
        raise ValueError(f"EMA at step {step} of {len(snapshots)} snapshots; expected steps from 1 and none twice")
    steps, gammas = np.array([at for at, _ in snapshots]), np.array([gamma_of(width) for _, width in snapshots])
    wanted = np.array([step]), np.array([gamma_of(sigma)])
    norms = np.sqrt(np.diag(inner_products(steps, gammas, steps, gammas)))
    norm = float(np.sqrt(inner_products(*wanted, *wanted)[0, 0]))
    products = inner_products(steps, gammas, steps, gammas) / np.outer(norms, norms)
    with_wanted = inner_products(steps, gammas, *wanted)[:, 0] / (norms * norm)
    solution = np.linalg.solve(products, with_wanted)
    error = float(np.sqrt(max(0.0, 1.0 - 2 * solution @ with_wanted + solution @ products @ solution)))
    return Synthesis(solution * norm / norms, error)


def synthesise(snapshots: Sequence[Snapshot], sigma: float, step: int) -> dict[str, np.ndarray]:
    """The average of relative width `sigma` at `step`, from all snapshots; reads one after the other.

    A stored width at a stored step comes out as it was stored, any width at a stored step as nearly as there were many;
    between stored steps a profile's sharp end cannot be made.

    Returns:
        name -> float32; what is no floating type is the newest snapshot's.
    Raises:
        ValueError: as `synthesis`, snapshots with different names, or too few for this width and step.
    """
    ordered = sorted(snapshots, key=lambda snapshot: (snapshot.step, snapshot.sigma))
    weights, error = synthesis([(snapshot.step, snapshot.sigma) for snapshot in ordered], sigma, step)
    if error > LARGEST_ERROR:
        nearest = min((s.step for s in ordered), key=lambda stored: abs(stored - step))
        widths = sorted({s.sigma for s in ordered})
        advice = f"step, as {nearest}" if nearest != step else f"sigma {widths}, or store more often"
        raise ValueError(
            f"EMA of sigma {sigma} at step {step} comes out {error:.2g} off from {len(ordered)} snapshots, expected at "
            f"most {LARGEST_ERROR}; take a stored {advice}"
        )
    total: dict[str, Any] = {}
    for snapshot, weight in zip(ordered, weights, strict=True):
        arrays = snapshot.load()
        if total and arrays.keys() != total.keys():
            odd = min(arrays.keys() ^ total.keys())
            raise ValueError(f"EMA snapshot of step {snapshot.step} differs from the one before in '{odd}'")
        for name, value in arrays.items():
            if _is_averaged(value):
                total[name] = total.get(name, 0.0) + weight * value.astype(np.float64)
            else:
                total[name] = value
    return {name: np.asarray(v, np.float32 if _is_averaged(v) else None) for name, v in total.items()}


def _is_averaged(value: np.ndarray) -> bool:
    return np.issubdtype(value.dtype, np.floating)


def _copied(value: Tensor) -> Tensor:
    return value.to(torch.float32, copy=True) if value.is_floating_point() else value.clone()


def _moved(track: dict[str, Tensor], values: Mapping[str, Tensor], kept: float) -> dict[str, Tensor]:
    """The track after one update, in place where it is averaged."""
    if track.keys() != values.keys():
        raise ValueError(f"EMA: '{min(track.keys() ^ values.keys())}' is in the weights or in the average, not in both")
    averaged = {name: value.float() for name, value in values.items() if value.is_floating_point()}
    moved = {name: track[name].to(value.device) for name, value in averaged.items()}
    if averaged:
        torch._foreach_lerp_(list(moved.values()), list(averaged.values()), 1 - kept)
    return {name: moved[name] if name in moved else value.clone() for name, value in values.items()}
