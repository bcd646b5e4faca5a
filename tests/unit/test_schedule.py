"""The learning rate by hand, and against the schedulers that the published runs were made with (reference.md 7)."""

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR, SequentialLR

from rlloop.config import Phase


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 1e-4 / 1001), (499, 1e-4 * 500 / 1001), (999, 1e-4 * 1000 / 1001), (1000, 1e-4),
        (160_000, 1e-4), (160_999, 1e-4), (161_000, 1e-5), (180_999, 1e-5), (181_000, 1e-6), (199_999, 1e-6),
    ],
)  # fmt: skip
def test_the_published_200_k_run_drops_at_161_000_and_181_000(step, rate):
    phase = Phase(updates=200_000, learning_rate=1e-4, warmup=1000, drop_at=[0.8, 0.9])
    assert phase.rate(step) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(("warmup", "last"), [(1, 2e-5), (5, 2e-4), (30, 2e-3)])
def test_it_is_the_published_sequence_of_schedulers(warmup, last):
    """The drops are due 40 and 45 updates after the warm-up, so a longer one moves them past the end of the 50."""
    phase = Phase(updates=50, learning_rate=2e-3, warmup=warmup, drop_at=[0.8, 0.9])
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
    rise = LambdaLR(optimizer, lambda n: min(1.0, (n + 1) / (warmup + 1)))
    drops = MultiStepLR(optimizer, [int(0.8 * 50), int(0.9 * 50)], gamma=0.1)
    scheduler = SequentialLR(optimizer, [rise, drops], milestones=[warmup])
    found = []
    for _ in range(50):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert [phase.rate(step) for step in range(50)] == pytest.approx(found, rel=1e-9)
    assert phase.rate(49) == pytest.approx(last)


def test_without_warmup_and_drops_the_rate_is_the_base_from_the_first_update():
    assert {Phase(updates=30_000, learning_rate=1e-5).rate(step) for step in (0, 1, 29_999)} == {1e-5}


def test_a_linear_fall_by_hand():
    phase = Phase(updates=4, learning_rate=1.0, final_learning_rate=0.5)
    assert [phase.rate(step) for step in range(4)] == pytest.approx([1.0, 0.875, 0.75, 0.625])


def test_another_factor_and_drops_in_any_order():
    phase = Phase(updates=10, learning_rate=1.0, drop_at=[0.6, 0.3], drop_factor=0.5)
    assert [phase.rate(step) for step in (2, 3, 5, 6, 9)] == pytest.approx([1.0, 0.5, 0.5, 0.25, 0.25])
