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

    def update(self, engine: Any, batches: Sequence[Batch], learning_rate: float) -> dict[str, Tensor]:
        """Accumulates the gradients of equal parts of a batch, then steps; the means of loss and metrics over them."""
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate
        values: dict[str, Tensor] = {}
        for number, batch in enumerate(batches):
            engine.set_gradient_accumulation_boundary(number == len(batches) - 1)
            with torch.autocast(engine.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                loss, metrics = loss_and_metrics(self.algorithm, engine, batch, self.reference)
            engine.backward(loss / len(batches))
            for name, value in {"loss": loss, **metrics}.items():
                values[name] = values.get(name, 0.0) + value.detach().float() / len(batches)
        engine.step()
        return values
