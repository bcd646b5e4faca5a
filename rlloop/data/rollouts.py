"""Rollouts on disk: one Parquet file a ticket, written before its commit is acknowledged."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True)
class ScoredTicket:
    """What the scorer pool hands to the buffer.

    latents: [C, L, D] float16.   scores, reasons: one mapping a clip.   failure: why there is none of it, or ''.
    slot: that the ticket was leased to.
    """

    ticket: int
    policy_version: int
    prompt: str = ""
    seeds: Sequence[int] = ()
    latents: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.float16))
    scores: Sequence[Mapping[str, float | None]] = ()
    reasons: Sequence[Mapping[str, str]] = ()
    worker_seconds: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""
    slot: int = -1


@dataclass(frozen=True)
class Row:
    """One example as the trainer reads it. latents: [L, D] float16, normalised; score: its label, None where missing.

    advantage: how much better than expected, where the algorithm says so (algorithms.base.Example).
    seed, policy_version, scores: how it came about and all that it was given, for who listens to it.
    """

    ticket: int
    clip: int
    role: str
    prompt: str
    latents: np.ndarray
    score: float | None
    advantage: float = 0.0
    seed: int = 0
    policy_version: int = 0
    scores: Mapping[str, float | None] = field(default_factory=dict)


def rollout_path(run_dir: Path, ticket: int) -> Path:
    """Files of 1000 tickets share a folder."""
    return run_dir / "rollouts" / f"{ticket // 1000:05d}" / f"{ticket:08d}.parquet"


def write_rollouts(path: Path, scored: ScoredTicket) -> int:
    """Writes a ticket's clips, synced to disk; returns bytes.

    Raises:
        OSError: they cannot be written; nothing of them is left.
    """
    count = len(scored.seeds)
    table = pa.table(
        {
            "ticket": pa.array([scored.ticket] * count, pa.int64()),
            "clip": pa.array(range(count), pa.int32()),
            "seed": pa.array(list(scored.seeds), pa.int64()),
            "policy_version": pa.array([scored.policy_version] * count, pa.int32()),
            "prompt": [scored.prompt] * count,
            "latents": pa.array([np.ascontiguousarray(x).tobytes() for x in scored.latents], pa.binary()),
            "shape": pa.array([list(x.shape) for x in scored.latents], pa.list_(pa.int32())),
            "scores": pa.array([list(s.items()) for s in scored.scores], pa.map_(pa.string(), pa.float64())),
        }
    )
    try:
        try:
            _write_synced(path, table)
        except FileNotFoundError:  # the folder's last old file went at this very moment, and the folder with it
            _write_synced(path, table)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path.stat().st_size


def _write_synced(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, write_page_checksum=True)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read_selected(
    run_dir: Path, examples: Sequence[tuple[int, int, str]], advantages: Sequence[float], label: str
) -> list[Row]:
    """Rows of a selection, in its order.

    Args:
        examples: (ticket, clip, role), as records.Selected has them.
        advantages: one an example, or none.
        label: as `read_rows`.
    """
    by_ticket: dict[int, dict[int, str]] = {}
    for ticket, clip, role in examples:
        by_ticket.setdefault(ticket, {})[clip] = role
    found = {
        (row.ticket, row.clip): row
        for ticket, clips in by_ticket.items()
        for row in read_rows(rollout_path(run_dir, ticket), clips, label)
    }
    rows = [found[ticket, clip] for ticket, clip, _ in examples]
    return [replace(row, advantage=a) for row, a in zip(rows, advantages, strict=True)] if advantages else rows


def read_rows(path: Path, clips: Mapping[int, str], label: str) -> list[Row]:
    """Reads chosen clips of one ticket.

    Args:
        clips: clip index -> role.
        label: name of the score that becomes the row's label.
    Raises:
        ValueError: the file lacks a clip.
    """
    rows = []
    try:
        for record in pq.read_table(path, page_checksum_verification=True).to_pylist():
            if record["clip"] in clips:
                latents = np.frombuffer(record["latents"], np.float16).reshape(record["shape"])
                scores, role = dict(record["scores"]), clips[record["clip"]]
                of = {"seed": record["seed"], "policy_version": record["policy_version"], "scores": scores}
                key = record["ticket"], record["clip"]
                rows.append(Row(*key, role, record["prompt"], latents, scores.get(label), **of))
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:160]
        raise ValueError(f"{path}: is no readable rollout file ({said}); restore it from a backup") from None
    if len(rows) != len(clips):
        raise ValueError(f"{path}: holds {len(rows)} of the clips {sorted(clips)}")
    return rows
