"""One optimizer update: the algorithm's loss over the forward passes of a batch, through the DeepSpeed engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rlloop.algorithms.base import Algorithm, Batch, loss_and_metrics
from rlloop.recipes.batches import GenerationData

T = TypeVar("T")


def ahead(make: Callable[[int], T], numbers: range) -> Iterator[tuple[int, T]]:
    """(n, make(n)) for each number; the next is made in a thread while the caller works with this one."""
    with ThreadPoolExecutor(1, "batches") as maker:
        coming = maker.submit(make, numbers[0]) if numbers else None
        for place, number in enumerate(numbers):
            now, last = coming, place + 1 == len(numbers)
            coming = None if last else maker.submit(make, numbers[place + 1])
            yield number, now.result()


@dataclass(frozen=True)
class Learner:
    """What a generation trains with. `reference` is the frozen network of the stage's start, where one is needed."""

    algorithm: Algorithm
    data: GenerationData
    reference: nn.Module | None
    precision: str

    def update(self, engine: Any, batches: Sequence[Batch], learning_rate: float, share: float) -> dict[str, Tensor]:
        """Accumulates the gradients of the parts of a batch, then steps; answers loss and metrics, averaged likewise.

        Args:
            share: examples of the global batch over the number of ranks. The mean over ranks of what is accumulated
                and answered is the mean over the global batch, also where ranks have unequal parts of it.
        """
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate
        values: dict[str, Tensor] = {}
        for number, batch in enumerate(batches):
            engine.set_gradient_accumulation_boundary(number == len(batches) - 1)
            with torch.autocast(engine.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                loss, metrics = loss_and_metrics(self.algorithm, engine, batch, self.reference)
            parts = share / len(batch.t)  # as many as there are, where all have one size
            engine.backward(loss / parts)
            for name, value in {"loss": loss, **metrics}.items():
                values[name] = values.get(name, 0.0) + value.detach().float() / parts
        engine.step()
        return values
