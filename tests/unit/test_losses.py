"""The objectives: values by hand, and what their gradients do."""

import math

import pytest
import torch

from rlloop.algorithms.losses import crpo_loss, crpo_margin, nft_loss


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


def nft(v, advantage, *, t=0.5, target=1.0, v_old=0.0, beta=0.2, adv_clip=1.0, kl=0.0):
    """One example of one number."""
    cube = [torch.as_tensor(x, dtype=torch.float32).reshape(1, 1, -1) for x in (v, v_old, target)]
    return nft_loss(*cube, torch.tensor([t]), torch.tensor([advantage]), beta=beta, adv_clip=adv_clip, kl=kl)


@pytest.mark.parametrize(
    ("advantage", "expected"),
    [
        (1.0, 0.45 / 0.2),  # v+ = 0.1, off by 0.5 * 0.9; its square over its magnitude is the magnitude
        (-1.0, 0.55 / 0.2),  # v- = -0.1
        (0.5, (0.75 * 0.45 + 0.25 * 0.55) / 0.2),
        (3.0, 0.45 / 0.2),  # beyond the clip
    ],
)
def test_nft_by_hand(advantage, expected):
    assert nft(0.5, advantage).item() == pytest.approx(expected)
    assert nft(0.5, advantage, kl=0.1).item() == pytest.approx(expected + 0.1 * 0.25)


def test_nft_takes_a_clips_error_over_its_mean_magnitude():
    """Off by 0.5 * ((1, 3) - (0.1, 0)) = (0.45, 1.5): mean square 1.22625 over mean magnitude 0.975."""
    assert nft([0.5, 0.0], 1.0, target=[1.0, 3.0], v_old=[0.0, 0.0]).item() == pytest.approx(1.22625 / 0.975 / 0.2)


def test_nft_of_a_wider_clip_by_hand():
    """A clip of 5 makes an advantage of 1 count 0.6 good, and scales the loss by 5."""
    assert nft(0.5, 1.0, adv_clip=5.0).item() == pytest.approx(5 * (0.6 * 0.45 + 0.4 * 0.55) / 0.2)


def test_nft_is_the_error_of_the_clips_that_the_velocities_imply():
    """x_t - t u against x1, written out."""
    x1, x0, v, v_old = torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(0)).double()
    t, advantage = torch.tensor([0.2, 0.5, 0.9]).double(), torch.tensor([1.0, -1.0, 0.3]).double()
    time, good, terms = t[:, None, None], advantage / 2 + 0.5, []
    x_t = (1 - time) * x1 + time * x0
    for weight, implied in ((good, 0.2 * v + 0.8 * v_old), (1 - good, 1.2 * v_old - 0.2 * v)):
        off = x_t - time * implied - x1
        terms.append(weight * off.square().mean((1, 2)) / off.abs().mean((1, 2)))
    expected = sum(terms).mean() / 0.2 + 1e-4 * (v - v_old).square().mean()
    found = nft_loss(v, v_old, x0 - x1, t, advantage, beta=0.2, adv_clip=1.0, kl=1e-4)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize(("advantage", "slope"), [(1.0, -1.0), (-1.0, 1.0), (0.0, 0.0)])
def test_nft_pulls_good_clips_nearer_and_pushes_bad_ones_off(advantage, slope):
    """d/dv of one number: -2 t for a good clip, 2 t for a bad one, whatever beta."""
    v = torch.tensor(0.0, requires_grad=True)
    nft(v, advantage).backward()
    assert v.grad.item() == pytest.approx(slope)


def test_nft_at_the_target_is_zero_and_has_a_finite_gradient():
    v = torch.tensor(1.0, requires_grad=True)
    loss = nft(v, 1.0, v_old=1.0)
    loss.backward()
    assert loss.item() == 0.0 and v.grad.item() == 0.0
