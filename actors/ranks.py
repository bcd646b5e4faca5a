"""What the ranks of a trainer tell each other: every answer reaches all of them, so no rank ever waits alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This worker's place among the workers. With one worker nothing is sent."""

    rank: int
    world: int

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @contextmanager
    def _waiting(self, whom: str) -> Iterator[None]:
        """Names who waited when a collective fails or meets the deadline of the process group."""
        began = time.monotonic()
        try:
            yield
        except RuntimeError as error:  # gloo's and NCCL's are
            text = " ".join(str(error).split())[:200]
            waited = f"trainer rank {self.rank} waits for {whom} since {time.monotonic() - began:.0f} s"
            raise RuntimeError(f"{waited}: {text}") from error

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value on every rank."""
        box = [value]
        if self.world > 1:
            with self._waiting("rank 0"):
                dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        if self.world > 1:
            with self._waiting("all ranks at a barrier"):
                dist.barrier()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value on every rank."""
        values = [value]
        if self.world > 1:
            values = [None] * self.world
            with self._waiting("every rank's answer"):
                dist.all_gather_object(values, value)
        return values

    def first_of(self, problem: str) -> str:
        """The first rank's problem that is not '', on every rank; a barrier."""
        return next(filter(None, self.gather(problem)), "")

    def means(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Mean of each named scalar over the ranks."""
        if not values:
            return {}
        stacked = torch.stack([value.detach().float() for value in values.values()])
        if self.world > 1:
            with self._waiting("every rank's means"):
                dist.all_reduce(stacked)
        return dict(zip(values, (stacked / self.world).tolist(), strict=True))
