"""Frechet distance between two sets of embeddings, each taken for a Gaussian (reference.md section 11.1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file


@dataclass(frozen=True, eq=False)
class FrechetStatistics:
    """Mean [D], covariance [D, D] (ddof 1), both float64, and the number of embeddings that they are of.

    `source` says in words what they were computed from; it travels in the file.
    """

    mean: np.ndarray
    cov: np.ndarray
    count: int
    source: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, embeddings: np.ndarray, source: Mapping[str, str] | None = None) -> FrechetStatistics:
        """Statistics of embeddings [n, D]; n may be below D.

        Raises:
            ValueError: fewer than two embeddings, another number of dimensions, or values that are not finite.
        """
        x = np.asarray(embeddings, dtype=np.float64)
        if x.ndim != 2 or len(x) < 2:
            raise ValueError(f"a covariance needs embeddings [n >= 2, D]; found the shape {list(x.shape)}")
        if not np.isfinite(x).all():
            bad = int((~np.isfinite(x)).any(axis=1).sum())
            raise ValueError(f"{bad} of {len(x)} embeddings are not finite; leave those clips out")
        return cls(x.mean(axis=0), np.atleast_2d(np.cov(x, rowvar=False)), len(x), source or {})

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def checksum(self) -> str:
        """sha256 over mean, covariance and count."""
        parts = (np.ascontiguousarray(part, dtype="<f8").tobytes() for part in (self.mean, self.cov))
        return hashlib.sha256(b"".join((*parts, str(self.count).encode()))).hexdigest()

    def distance(self, other: FrechetStatistics) -> float:
        """|mean difference|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2); no term is added to the diagonals.

        The trace of (S1 S2)^1/2 is the sum of the singular values of A^T B with S1 = A A^T and S2 = B B^T: real and
        steady also where a covariance has not its full rank (n <= D), where a general matrix root is neither.

        Raises:
            ValueError: the embeddings have different widths.
        """
        if self.dim != other.dim:
            raise ValueError(
                f"Frechet distance: embeddings of {self.dim} and {other.dim} dimensions; both need one model"
            )
        shared = np.linalg.svd(factor(self.cov).T @ factor(other.cov), compute_uv=False).sum()
        shift = self.mean - other.mean
        return float(shift @ shift + np.trace(self.cov) + np.trace(other.cov) - 2 * shared)

    def save(self, path: Path) -> None:
        """Writes a safetensors file with the checksum and the source among its metadata; whole or not at all."""
        metadata = {"count": str(self.count), "checksum": self.checksum, "source": json.dumps(dict(self.source))}
        partial = path.with_name(path.name + ".partial")
        save_file({"mean": self.mean, "cov": self.cov}, partial, metadata)
        partial.chmod(0o644)  # safetensors makes it private to its owner
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> FrechetStatistics:
        """Reads what `save` wrote.

        Raises:
            ValueError: the file is missing or damaged, or its numbers are not those of its checksum.
        """
        if not path.is_file():
            raise ValueError(f"{path} is missing: reference statistics (mean, cov) are expected there")
        try:
            with safe_open(path, framework="np") as file:
                found = {name: file.get_tensor(name) for name in ("mean", "cov")}
                metadata = file.metadata() or {}
            statistics = cls(
                found["mean"], found["cov"], int(metadata["count"]), json.loads(metadata.get("source", "{}"))
            )
        except (SafetensorError, KeyError, OSError, ValueError) as error:
            raise ValueError(f"{path} holds no reference statistics: {' '.join(str(error).split())}") from error
        if statistics.checksum != metadata.get("checksum"):
            raise ValueError(f"{path}: the numbers do not have the file's checksum; compute it again")
        return statistics


def factor(cov: np.ndarray) -> np.ndarray:
    """A [D, rank] with A A^T = cov [D, D]; eigenvalues that are rounding alone are left out."""
    values, vectors = np.linalg.eigh(cov)
    real = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, real] * np.sqrt(values[real])


def frechet_distance(gen: np.ndarray, ref: np.ndarray) -> float:
    """Frechet distance between embeddings [n, D] and [m, D], as FAD uses it.

    It depends strongly on n, above all below D: compare two systems at one n alone (`distance_gain` refuses the rest).

    Raises:
        ValueError: fewer than two embeddings on a side, different widths, or values that are not finite.
    """
    return FrechetStatistics.of(gen).distance(FrechetStatistics.of(ref))
