"""The journal's records: each is one transition of the ledger, as a frozen dataclass that is one JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class EpochBegan:
    """A driver started; actors of earlier epochs must end."""

    epoch: int


@dataclass(frozen=True)
class SegmentBegan:
    """A Ray Data execution started; releases every lease of the segments before."""

    segment: int


@dataclass(frozen=True)
class Leased:
    ticket: int
    version: int
    segment: int
    slot: int


@dataclass(frozen=True)
class Started:
    """A worker began to compute; `attempts` counts this and earlier deaths or failures that the ticket caused.

    `together`: with others of its slot, so should the worker die, nobody knows of which.
    """

    ticket: int
    worker: str
    attempts: int
    together: bool = False


@dataclass(frozen=True)
class Released:
    """A row failed but may be tried again."""

    ticket: int
    attempts: int
    reason: str


@dataclass(frozen=True)
class RolloutRecord:
    """What the ledger keeps of one scored clip; latents and audio are in the rollout's Parquet file."""

    clip: int
    seed: int
    scores: Mapping[str, float | None]
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Buffered:
    """A ticket's rollouts are on disk. `worker_seconds` maps sampler and scorers to their busy time."""

    ticket: int
    version: int
    rollouts: tuple[RolloutRecord, ...]
    num_bytes: int = 0
    worker_seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    ticket: int
    reason: str


@dataclass(frozen=True)
class Selected:
    """Cohort k closed. `examples` are (ticket, clip, role) triples in training order; role is '' or winner/loser.

    `advantages` has one number an example where the algorithm gives any (`Example.advantage`), else it is empty.
    An empty list with `skipped` set publishes k+1 unchanged; with `stopped` set the run ends with that reason.
    """

    generation: int
    examples: tuple[tuple[int, int, str], ...]
    skipped: str = ""
    stopped: str = ""
    advantages: tuple[float, ...] = ()


@dataclass(frozen=True)
class Published:
    version: int


@dataclass(frozen=True)
class Scaled:
    """A pool has so many actors from the next segment on; the current segment ends early."""

    pool: str
    num_actors: int


Record = EpochBegan | SegmentBegan | Leased | Started | Released | Buffered | Failed | Selected | Published | Scaled
_TYPES = {
    cls.__name__: cls
    for cls in (EpochBegan, SegmentBegan, Leased, Started, Released, Buffered, Failed, Selected, Published, Scaled)
}


def to_json(record: Record, time: float) -> dict[str, Any]:
    """One JSON object: the record's fields, its type and the unix time of the transition."""
    return {"type": type(record).__name__, "time": round(time, 3), **asdict(record)}


def from_json(data: dict[str, Any]) -> tuple[Record, float]:
    """Inverse of `to_json`.

    Raises:
        ValueError: a record of an unknown type (a journal of another program or a newer version).
    """
    fields = dict(data)
    name, time = fields.pop("type", None), fields.pop("time", 0.0)
    if name not in _TYPES:
        raise ValueError(f"journal: record type {name!r} is none of {sorted(_TYPES)}")
    try:
        return _from_fields(name, fields), float(time)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"journal: a record {name} has other fields than expected: {error}") from None


def _from_fields(name: str, fields: dict[str, Any]) -> Record:
    if name == "Buffered":
        fields["rollouts"] = tuple(RolloutRecord(**rollout) for rollout in fields["rollouts"])
    if name == "Selected":
        fields["examples"] = tuple((int(t), int(c), str(r)) for t, c, r in fields["examples"])
        fields["advantages"] = tuple(map(float, fields.get("advantages", ())))
    return _TYPES[name](**fields)
