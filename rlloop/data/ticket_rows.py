"""A ticket on its way through the pools: one row with the same columns at every stage, whatever became of it.

Rows of several tickets may share a block, so none may lack a column. Arrays travel as the bytes of a safetensors file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from rlloop.data.rollouts import ScoredTicket

Columns = dict[str, np.ndarray]
NO_TICKET = -1


@dataclass(frozen=True)
class TicketRow:
    """Life: granted -> sampled -> judged, by each pool of scorers; failed or empty at any stage.

    Args:
        ticket: NO_TICKET where the row passes empty.
        version: to sample with, then the one it was sampled with.
        slot: that the ticket was leased to.
        failure: why there are no clips, or ''.
        sampler_s: seconds that sampling took.   rate_hz: of the audio.
        judged: what the scorers found, as JSON: scores and reasons a clip, busy seconds a pool.
        arrays: seeds [C] int64, latents [C, L, D] float16 and, until the last scorer, audio [C, T] float32.
    """

    ticket: int = NO_TICKET
    version: int = -1
    slot: int = -1
    failure: str = ""
    prompt: str = ""
    sampler_s: float = 0.0
    rate_hz: int = 0
    judged: str = ""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def has_clips(self) -> bool:
        return self.ticket != NO_TICKET and not self.failure

    def failed(self, reason: str) -> TicketRow:
        return TicketRow(self.ticket, self.version, self.slot, failure=reason)

    def with_scores(self, role: str, scores: list[dict], reasons: list[dict], seconds: float) -> TicketRow:
        """Adds what one pool of scorers found to what those before it did.

        Args:
            scores, reasons: one mapping a clip.   seconds: how long this pool was busy with it.
        """
        before = (
            json.loads(self.judged) if self.judged else {"scores": [{}] * len(scores), "reasons": [{}] * len(scores)}
        )
        judged = {
            "scores": [{**old, **new} for old, new in zip(before["scores"], scores, strict=True)],
            "reasons": [{**old, **new} for old, new in zip(before["reasons"], reasons, strict=True)],
            "seconds": {**before.get("seconds", {}), role: seconds},
        }
        return replace(self, judged=json.dumps(judged))

    def without_audio(self) -> TicketRow:
        return replace(self, arrays={name: value for name, value in self.arrays.items() if name != "audio"})

    def scored(self) -> ScoredTicket:
        """What the buffer takes."""
        if self.failure:
            return ScoredTicket(self.ticket, self.version, failure=self.failure, slot=self.slot)
        judged = json.loads(self.judged)
        return ScoredTicket(
            ticket=self.ticket,
            policy_version=self.version,
            slot=self.slot,
            prompt=self.prompt,
            seeds=[int(seed) for seed in self.arrays["seeds"]],
            latents=np.asarray(self.arrays["latents"], dtype=np.float16),
            scores=judged["scores"],
            reasons=judged["reasons"],
            worker_seconds={"sampler": self.sampler_s, **judged["seconds"]},
        )


EMPTY = TicketRow()


def to_columns(rows: Sequence[TicketRow]) -> Columns:
    """Columns of one block, [rows] each."""
    return {f.name: _column(f.name, [getattr(row, f.name) for row in rows]) for f in fields(TicketRow)}


def _column(name: str, values: list[Any]) -> np.ndarray:
    if name != "arrays":
        return np.asarray(values)
    column = np.empty(len(values), object)  # numpy's own type for bytes drops zeros at the end
    column[:] = [save({key: np.ascontiguousarray(array) for key, array in arrays.items()}) for arrays in values]
    return column


def from_columns(columns: Mapping[str, np.ndarray]) -> list[TicketRow]:
    """Inverse of `to_columns`."""
    return [
        TicketRow(
            ticket=int(columns["ticket"][n]),
            version=int(columns["version"][n]),
            slot=int(columns["slot"][n]),
            failure=str(columns["failure"][n]),
            prompt=str(columns["prompt"][n]),
            sampler_s=float(columns["sampler_s"][n]),
            rate_hz=int(columns["rate_hz"][n]),
            judged=str(columns["judged"][n]),
            arrays=load(bytes(columns["arrays"][n])),
        )
        for n in range(len(columns["ticket"]))
    ]
