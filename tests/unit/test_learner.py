"""Updates through the real DeepSpeed engine: AdamW by hand (reference.md section 7), accumulation, autocast."""

from __future__ import annotations

import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from actors.engine import build_engine
from actors.learner import Learner, ahead
from actors.sharded_state import reshard
from rlloop.algorithms.base import Algorithm, Batch
from rlloop.config import load
from tests.ray.runs import FAKE


@pytest.fixture(scope="module", autouse=True)
def process_group(tmp_path_factory):
    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
    yield
    del os.environ["LOCAL_RANK"]
    dist.destroy_process_group()


class Scale(nn.Module):
    """x_t times a weight a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.seen: list[torch.dtype] = []

    def forward(self, x_t, t, conditions, score):
        self.seen.append(torch.nn.functional.linear(x_t, torch.diag(self.weight)).dtype)
        return x_t * self.weight


class Linear(Algorithm):
    """The gradient of each weight is the mean of its channel of the latents: known by hand."""

    def select(self, candidates, settings, threshold):
        return []

    def loss(self, predict, batch, reference=None):
        v = predict(batch.latents, batch.t, batch.conditions, batch.score)
        return v.mean(dim=(0, 1)).sum(), {"mean_t": batch.t.mean()}


def batch(values: torch.Tensor) -> Batch:
    n = len(values)
    return Batch(values[:, None], torch.zeros(n, 1, 2), torch.full((n,), 0.5), {}, torch.zeros(n))


def engine_of(*overrides: str):
    config = load(FAKE, list(overrides))
    network = Scale()
    return build_engine(network, config)[0], network, Learner(Linear(), None, None, config.trainer.precision)


def adamw(weight, gradients, rates, betas=(0.9, 0.95), eps=1e-6, decay=1e-6, clip=1.0):
    """AdamW with decoupled decay and bias correction, after clipping the global norm; plain numbers."""
    m, v = [0.0, 0.0], [0.0, 0.0]
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        norm = math.sqrt(sum(g * g for g in gradient))
        gradient = [g * min(1.0, clip / (norm + 1e-6)) for g in gradient]
        for n, g in enumerate(gradient):
            weight[n] *= 1 - rate * decay
            m[n] = betas[0] * m[n] + (1 - betas[0]) * g
            v[n] = betas[1] * v[n] + (1 - betas[1]) * g * g
            step_size = rate / (1 - betas[0] ** step)
            weight[n] -= step_size * m[n] / (math.sqrt(v[n] / (1 - betas[1] ** step)) + eps)
    return weight


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_updates_are_those_of_adamw_by_hand(zero_stage):
    engine, network, learner = engine_of("trainer.adam_eps=1e-6", f"trainer.zero_stage={zero_stage}")
    gradients, rates = [(0.3, -0.4), (0.1, 0.2), (30.0, 40.0)], [0.1, 0.05, 0.025]  # the last is clipped to (0.6, 0.8)
    for gradient, rate in zip(gradients, rates, strict=True):
        values = learner.update(engine, [batch(torch.tensor([gradient]))], rate, 1)
    assert network.weight.tolist() == pytest.approx(adamw([1.0, -2.0], gradients, rates), abs=2e-6)
    assert float(engine.get_global_grad_norm()) == pytest.approx(50.0, rel=1e-5)
    assert values["mean_t"] == 0.5


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_parts_of_a_batch_give_the_update_of_the_whole(zero_stage):
    whole, network, learner = engine_of(f"trainer.zero_stage={zero_stage}")
    parts, other, _ = engine_of(f"trainer.zero_stage={zero_stage}")
    draws = torch.Generator().manual_seed(0)
    for _ in range(5):
        values = torch.randn(8, 2, generator=draws)
        one = learner.update(whole, [batch(values)], 0.1, len(values))
        four = learner.update(parts, [batch(part) for part in values.chunk(4)], 0.1, len(values))
        assert float(one["loss"]) == pytest.approx(float(four["loss"]), abs=1e-6)
    assert torch.allclose(network.weight, other.weight, atol=1e-6)
    assert not torch.allclose(network.weight, torch.tensor([1.0, -2.0]), atol=0.1)


def test_unequal_slices_of_three_ranks_average_to_the_update_of_the_whole():
    """Eight examples on three ranks, 2, 3 and 3: the mean over ranks of the gradients is that of the whole batch."""
    values = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    gradients = []
    for part in (values[:2], values[2:5], values[5:]):
        engine, network, learner = engine_of("trainer.clip_grad_norm=100")
        kept = []
        network.weight.register_hook(lambda gradient, kept=kept: kept.append(gradient.clone()))
        learner.update(engine, [batch(part)], 0.1, 8 / 3)
        gradients.append(kept[0])
    assert torch.allclose(torch.stack(gradients).mean(dim=0), values.mean(dim=0), atol=1e-6)


def test_optimizer_state_is_cut_anew_for_another_number_of_ranks():
    """Two ranks of 3, padded from 5, become one of 5 or three of 2, padded to 6; and one becomes two again."""
    parts = [{"0.master": np.arange(3.0), "0.exp_avg": np.arange(3.0) * 10, "0.step": np.array([7.0])}]
    parts.append(
        {"0.master": np.array([3.0, 4.0, 0.0]), "0.exp_avg": np.array([30.0, 40.0, 0.0]), "0.step": np.array([7.0])}
    )
    (one,) = (reshard(parts, partitions(5), rank) for rank in range(1))
    assert one["0.master"].tolist() == [0, 1, 2, 3, 4] and one["0.exp_avg"].tolist() == [0, 10, 20, 30, 40]
    assert one["0.step"] == [7.0] and "0.exp_avg_sq" not in one
    three = [reshard(parts, partitions(2), rank)["0.master"].tolist() for rank in range(3)]
    assert three == [[0, 1], [2, 3], [4, 0]]
    assert [reshard([one], partitions(3), rank)["0.master"].tolist() for rank in range(2)] == [[0, 1, 2], [3, 4, 0]]


def partitions(size: int):
    """What `reshard` sees of an engine whose rank has `size` numbers."""
    return SimpleNamespace(optimizer=SimpleNamespace(single_partition_of_fp32_groups=[torch.zeros(size)]))


def test_batches_come_in_order_and_one_ahead():
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number * number

    found = []
    for number, value in ahead(make, range(3, 7)):
        found.append((number, value))
        assert len(made) <= len(found) + 1
    assert found == [(3, 9), (4, 16), (5, 25), (6, 36)] and made == [3, 4, 5, 6]
    assert list(ahead(make, range(0))) == []
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda n: 1 // (n - 1), range(3)))


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_bfloat16_is_of_the_forward_pass_also_where_deepspeed_sees_an_autocast_around_it(zero_stage, monkeypatch):
    """DeepSpeed asks torch about CUDA alone; answered for the device in use, it sees what it would see on a GPU."""
    engine, network, learner = engine_of("trainer.precision=bfloat16", f"trainer.zero_stage={zero_stage}")
    asked = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *device: asked(*(device or ("cpu",))))
    learner.update(engine, [batch(torch.ones(1, 2)), batch(torch.ones(1, 2))], 0.1, 2)
    assert network.seen == [torch.bfloat16] * 2 and network.weight.dtype == torch.float32
    assert all(one.dtype == torch.float32 for one in engine.optimizer.single_partition_of_fp32_groups)


def test_bfloat16_is_of_the_forward_pass_and_weights_stay_float32():
    engine, network, learner = engine_of("trainer.precision=bfloat16")
    learner.update(engine, [batch(torch.ones(2, 2))], 0.1, 2)
    assert network.seen == [torch.bfloat16] and network.weight.dtype == torch.float32
    plain, other, exact = engine_of()
    exact.update(plain, [batch(torch.ones(2, 2))], 0.1, 2)
    assert other.seen == [torch.float32]
