"""The path, the solvers and guidance: identities and integrals known in closed form."""

import math

import pytest
import torch

from rlloop.flow.guidance import annealed, constant, crossover, interval, joint_guidance, scheduled_guidance
from rlloop.flow.path import interpolate, sample_time, velocity_error, velocity_target
from rlloop.flow.solver import euler, heun


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 5, 2, generator=generator), torch.randn(3, 5, 2, generator=generator)


def test_path_begins_at_data_and_ends_at_noise():
    x1, x0 = pair()
    assert torch.equal(interpolate(x1, x0, torch.zeros(3)), x1)
    assert torch.equal(interpolate(x1, x0, torch.ones(3)), x0)


def test_velocity_is_the_slope_of_the_path():
    x1, x0 = pair()
    slope = (interpolate(x1, x0, torch.full((3,), 0.75)) - interpolate(x1, x0, torch.full((3,), 0.25))) / 0.5
    assert torch.allclose(slope, velocity_target(x1, x0), atol=1e-6)


def test_velocity_error_is_a_mean_per_clip():
    x1, x0 = pair()
    wrong = velocity_target(x1, x0) + torch.tensor([0.0, 1.0, 2.0])[:, None, None]
    assert torch.allclose(velocity_error(wrong, x1, x0), torch.tensor([0.0, 1.0, 4.0]), atol=1e-6)


def test_times_are_logit_normal():
    t = sample_time(20_000, torch.Generator().manual_seed(1), mean=0.5, std=2.0)
    logits = torch.logit(t.double())
    assert 0 < t.min() and t.max() < 1
    assert abs(logits.mean() - 0.5) < 0.05 and abs(logits.std() - 2.0) < 0.05


@pytest.mark.parametrize("solver", [euler, heun])
def test_true_velocity_leads_from_noise_to_data_in_any_number_of_steps(solver):
    x1, x0 = pair()
    for num_steps in (1, 7):
        assert torch.allclose(solver(lambda x, t: velocity_target(x1, x0), x0, num_steps), x1, atol=1e-5)


def test_orders_of_the_solvers():
    """dx/dt = x from t = 1 to 0 divides by e: halving the step halves Euler's error and quarters Heun's."""
    start = torch.ones(1, 1, 1, dtype=torch.float64)
    for solver, ratio in ((euler, 2), (heun, 4)):
        errors = [abs(solver(lambda x, t: x, start, n).item() - math.exp(-1)) for n in (20, 40)]
        assert abs(errors[0] / errors[1] - ratio) < 0.1 * ratio


def test_a_solver_needs_a_step():
    with pytest.raises(ValueError, match="num_steps is 0"):
        euler(lambda x, t: x, torch.zeros(1, 1, 1), 0)


def test_guidance_runs_both_branches_as_one_batch():
    calls = []

    def network(x, t):
        calls.append(len(x))
        return torch.cat([torch.full_like(x[:2], 3.0), torch.full_like(x[2:], 1.0)])

    v = joint_guidance(network, 4.0)(torch.zeros(2, 3, 1), torch.ones(2))
    assert calls == [4]
    assert torch.equal(v, torch.full((2, 3, 1), 4.0 * 3 - 3.0 * 1))


def mark(value: float, calls: list):
    """A velocity that is `value` everywhere and notes its batch size."""

    def velocity(x, t):
        calls.append(len(x))
        return torch.full_like(x, value)

    return velocity


def test_schedules_are_hand_computed():
    assert [constant(4.0)(t) for t in (1.0, 0.3, 0.0)] == [4.0, 4.0, 4.0]
    assert [annealed(4.0, 2.0)(t) for t in (1.0, 0.5, 0.0)] == [4.0, 3.0, 2.0]
    limited = interval(annealed(4.0, 2.0), 0.25, 0.5)
    assert [limited(t) for t in (1.0, 0.51, 0.5, 0.25, 0.2, 0.0)] == [0.0, 0.0, 3.0, 2.5, 0.0, 0.0]


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (0.7, 0.2), (-0.1, 0.5), (0.5, 1.1)])
def test_an_interval_that_is_none(low, high):
    with pytest.raises(ValueError, match="expected 0 <= low < high <= 1"):
        interval(constant(4.0), low, high)


def test_the_negative_branch_is_not_computed_outside_the_interval():
    """Ten Euler steps evaluate t = 1, 0.9 ... 0.1; the bounds 0.6 and 0.3 belong to the interval, in float32 too."""
    alone, both = [], []
    velocity = scheduled_guidance(mark(1.0, alone), mark(1.0, both), interval(constant(4.0), 0.3, 0.6))
    euler(velocity, torch.zeros(2, 3, 1), 10)
    assert alone == [2] * 6 and both == [4] * 4


def test_heun_asks_at_its_own_times():
    """Two steps evaluate t = 1 and 0.5, then 0.5 and 0: guided above 0.6 means one of four evaluations."""
    alone, both = [], []
    heun(
        scheduled_guidance(mark(1.0, alone), mark(1.0, both), interval(constant(4.0), 0.6, 1.0)),
        torch.zeros(1, 1, 1),
        2,
    )
    assert len(alone) == 3 and len(both) == 1


def test_annealed_guidance_weighs_each_step():
    """Velocity w * 1 + (1 - w) * 0 = w, so ten Euler steps subtract the mean weight at t = 1 ... 0.1."""

    def both(x, t):
        return torch.cat([torch.ones_like(x[:1]), torch.zeros_like(x[1:])])

    end = euler(scheduled_guidance(mark(1.0, []), both, annealed(4.0, 2.0)), torch.zeros(1, 1, 1), 10)
    assert end.item() == pytest.approx(-(2.0 + 2.0 * 0.55), abs=1e-5)


def test_crossover_hands_over_at_its_time():
    first, second = [], []
    end = euler(crossover(mark(1.0, first), mark(3.0, second), 0.4), torch.zeros(1, 1, 1), 10)
    assert len(first) == 6 and len(second) == 4  # t = 1 ... 0.5, then 0.4 ... 0.1
    assert end.item() == pytest.approx(-(0.6 * 1 + 0.4 * 3), abs=1e-5)
