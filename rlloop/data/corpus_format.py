"""What a corpus on disk holds, row by row: the rows and what is common to them, and how they lie in Parquet.

Who opens and writes corpora imports rlloop.data.corpus, which describes the folder.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CORPUS_FILE = "corpus.json"
SPEC_KEY = b"rlloop.corpus"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("mean", pa.binary()),
        ("std", pa.binary()),
        ("shape", pa.list_(pa.int32())),
        ("text", pa.binary()),
        ("text_c", pa.binary()),
        ("text_shape", pa.list_(pa.int32())),
        ("scores", pa.map_(pa.string(), pa.float64())),
    ]
)


@dataclass(frozen=True, eq=False)
class CorpusRow:
    """One clip.

    mean, std: [L, D] float32, the autoencoder's posterior, not normalised; std None where only a sample is known.
    features: "text" [M, T] and "text_c" [C] float32; None where the generator encodes the prompt itself.
    scores: every score of the corpus; None where it is missing.
    """

    id: str
    prompt: str
    mean: np.ndarray
    std: np.ndarray | None = None
    features: dict[str, np.ndarray] | None = None
    scores: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class CorpusSpec:
    """What holds for every row.

    latent_shape: (L, D).   latent_identity: which autoencoder made the latents; "" where nobody noted it.
    score_names: scores that a row may have.   feature_shapes: "text" (M, T) and "text_c" (C,), or nothing.
    """

    latent_shape: tuple[int, int]
    latent_identity: str
    score_names: tuple[str, ...] = ()
    feature_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def to_json(self) -> dict:
        shapes = {name: list(shape) for name, shape in sorted(self.feature_shapes.items())}
        return {
            "latent_shape": list(self.latent_shape),
            "latent_identity": self.latent_identity,
            "score_names": list(self.score_names),
            "feature_shapes": shapes,
        }

    @classmethod
    def from_json(cls, found: Mapping) -> CorpusSpec:
        length, width = (int(size) for size in found["latent_shape"])
        shapes = {str(name): tuple(int(size) for size in shape) for name, shape in found["feature_shapes"].items()}
        if min(length, width, *(size for shape in shapes.values() for size in shape)) < 1:
            raise ValueError(f"latent_shape {[length, width]} and feature_shapes {shapes} hold sizes below 1")
        return cls((length, width), str(found["latent_identity"]), tuple(map(str, found["score_names"])), shapes)


class Corpus(ABC):
    """Rows in shards, a shard in groups of `group_rows` (its last may be smaller); a group is what is read at once."""

    folder: Path
    table: Path  # the file that lists the rows
    spec: CorpusSpec
    shard_rows: np.ndarray  # [S] int64
    group_rows: int

    def __len__(self) -> int:
        return int(self.shard_rows.sum())

    def __iter__(self) -> Iterator[CorpusRow]:
        """All rows in the order in which they are stored, a group in memory at a time."""
        for shard, rows in enumerate(self.shard_rows):
            for group in range(-(-int(rows) // self.group_rows)):
                yield from self.read_group(shard, group)

    @property
    def latent_shape(self) -> tuple[int, int]:
        return self.spec.latent_shape

    @property
    def score_names(self) -> tuple[str, ...]:
        return self.spec.score_names

    @abstractmethod
    def read_group(self, shard: int, group: int) -> Sequence[CorpusRow]:
        """Rows [group * group_rows, ...) of a shard; may be called from any thread.

        Raises:
            ValueError: its file is missing, damaged or foreign; one line.
        """


def encode(row: CorpusRow, spec: CorpusSpec) -> dict:
    """A row as its columns hold it; a score that is None or NaN is left out.

    Raises:
        ValueError: it does not fit the specification, or holds values that float16 lacks.
    """
    if unknown := sorted(set(row.scores) - set(spec.score_names)):
        raise ValueError(
            f"row {row.id!r} has the score {unknown[0]}; the corpus has {', '.join(spec.score_names) or 'none'}"
        )
    scores = {name: float(value) for name, value in row.scores.items() if value is not None and value == value}
    for name, value in scores.items():
        if math.isinf(value):
            raise ValueError(f"row {row.id!r}: {name} is {value}; expected a number, or None where it is missing")
    features = row.features or {}
    if set(features) != set(spec.feature_shapes):
        raise ValueError(f"row {row.id!r} has features {sorted(features)}; expected {sorted(spec.feature_shapes)}")
    text = {name: _half(row.id, name, value, spec.feature_shapes[name]) for name, value in features.items()}
    return {
        "id": row.id,
        "prompt": row.prompt,
        "mean": _half(row.id, "mean", row.mean, spec.latent_shape),
        "std": None if row.std is None else _half(row.id, "std", row.std, spec.latent_shape),
        "shape": list(spec.latent_shape),
        **text,
        "text_shape": list(spec.feature_shapes["text"]) if text else None,
        "scores": list(scores.items()),
    }


def decode(cells: Mapping[str, pa.Scalar], spec: CorpusSpec) -> CorpusRow:
    """A row from its columns.

    Raises:
        ValueError: it does not fit the specification.
    """
    mean, std = (_array(cells[name], spec.latent_shape) for name in ("mean", "std"))
    if mean is None or not cells["id"].is_valid:
        raise ValueError("id or mean is null")
    found = {name: _array(cells[name], shape) for name, shape in spec.feature_shapes.items()}
    features = {name: value for name, value in found.items() if value is not None}
    if len(features) != len(found):
        raise ValueError(f"features are {sorted(features)}, expected {sorted(found)}")
    scores: dict[str, float | None] = dict.fromkeys(spec.score_names)
    scores |= {name: value for name, value in cells["scores"].as_py() or () if name in scores and value == value}
    return CorpusRow(cells["id"].as_py(), cells["prompt"].as_py() or "", mean, std, features or None, scores)


def _half(row: str, name: str, value: np.ndarray, shape: Sequence[int]) -> bytes:
    """float16 bytes of an array of a shape."""
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"row {row!r}: {name} is {list(value.shape)}; the corpus has {list(shape)}")
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(value, dtype="<f2")
    if not np.isfinite(half).all():
        raise ValueError(f"row {row!r}: {name} is not finite in float16 (largest is {np.abs(value).max():g}); drop it")
    return half.tobytes()


def _array(cell: pa.BinaryScalar, shape: Sequence[int]) -> np.ndarray | None:
    """float16 bytes as float32 of a shape; None for null."""
    if not cell.is_valid:
        return None
    return np.frombuffer(cell.as_buffer(), "<f2").reshape(shape).astype(np.float32)


def check_shard(path: Path, file: pq.ParquetFile, spec: CorpusSpec) -> None:
    """Compares what a shard's writer noted in it."""
    try:
        found = dict(json.loads((file.metadata.metadata or {})[SPEC_KEY]))
    except (KeyError, ValueError, TypeError):
        raise ValueError(f"{path} is no shard of a corpus; move it out of the folder") from None
    if not file.schema_arrow.equals(SCHEMA):
        columns = ", ".join(f"{field.name} {field.type}" for field in file.schema_arrow)
        raise ValueError(f"{path} has the columns {columns}; expected those of a corpus: prepare it again")
    for name, value in spec.to_json().items():
        if found.get(name) != value:
            raise ValueError(
                f"{path}: {name} is {found.get(name)}, the corpus has {value}; a corpus holds rows of one kind: use "
                "another folder"
            )


def damaged(path: Path, error: BaseException) -> ValueError:
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    return ValueError(f"{path} is damaged ({reason}); copy it again, or remove it and prepare the corpus again")
