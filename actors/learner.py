"""One optimizer update: the algorithm's loss over the forward passes of a batch, through the DeepSpeed engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlloop.algorithms.base import Algorithm, Batch, loss_and_metrics
from rlloop.recipes.batches import GenerationData


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
