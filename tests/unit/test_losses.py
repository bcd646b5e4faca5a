"""The pair objective: values by hand, and what its gradient does."""

import math

import pytest
import torch

from rlloop.algorithms.losses import crpo_loss, crpo_margin


def errors(*values: float) -> list[torch.Tensor]:
    return [torch.tensor([value], requires_grad=index < 2) for index, value in enumerate(values)]


def test_margin_by_hand():
    """-0.5 * 8 * ((0.25 - 0.75) - (0.5 - 0.5)) = 2."""
    assert crpo_margin(*errors(0.25, 0.75, 0.5, 0.5), beta=8.0).item() == 2.0


def test_loss_of_an_unmoved_policy_is_a_coin_toss():
    loss = crpo_loss(*errors(0.3, 0.7, 0.3, 0.7), beta=2000.0, lambda_fm=0.5)
    assert loss.item() == pytest.approx(math.log(2) + 0.5 * 0.3)


def test_gradient_lowers_the_winner_and_raises_the_loser():
    winner, loser, *reference = errors(0.3, 0.7, 0.3, 0.7)
    crpo_loss(winner, loser, *reference, beta=4.0, lambda_fm=0.25).backward()
    assert winner.grad.item() == pytest.approx(0.5 * 4 / 2 + 0.25)
    assert loser.grad.item() == pytest.approx(-0.5 * 4 / 2)


def test_a_hopeless_pair_has_a_finite_loss():
    """sigmoid(-1000) is zero in float32; its logarithm is not taken."""
    assert crpo_loss(*errors(1.0, 0.0, 0.0, 0.0), beta=2000.0, lambda_fm=0.0).item() == pytest.approx(1000.0)
