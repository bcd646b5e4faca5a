"""Algorithms as the loop sees them: options, what they select, and losses of batches with hand-made networks."""

import math

import pytest
import torch

from rlloop.algorithms.base import Algorithm, Batch, Candidate, Example, load_algorithm, loss_and_metrics
from rlloop.algorithms.nft import NFT
from rlloop.config import Selection

LENGTH, WIDTH = 2, 1
SCORES = {(0, 0): 3.0, (0, 1): 1.0, (0, 2): 2.0, (1, 0): 5.0, (1, 1): 9.0}
CANDIDATES = [Candidate(ticket, clip, score) for (ticket, clip), score in SCORES.items()]


class Mine(Algorithm):
    """A user's algorithm: two methods, no option, no reference."""

    def select(self, candidates, settings, threshold):
        return [Example(c.ticket, c.clip) for c in candidates]

    def loss(self, predict, batch):
        return predict(batch.latents, batch.t, batch.conditions, batch.score).mean()


class Half(Algorithm):
    """Forgot its loss."""

    def select(self, candidates, settings, threshold):
        return []


class Network:
    """One velocity for everything; keeps what it was asked."""

    def __init__(self, velocity=0.0):
        self.velocity, self.asked = torch.tensor(velocity, requires_grad=True), []

    def __call__(self, x_t, t, conditions, score):
        self.asked.append((x_t, t, conditions, score))
        return self.velocity.expand_as(x_t)


def filled(*values):
    return torch.tensor(values)[:, None, None].expand(-1, LENGTH, WIDTH)


def pair(score=(0.5,), loser_score=(-0.5,)):
    """One pair: x0 = 1, winner 0, loser 2, so their targets are 1 and -1."""
    return Batch(
        filled(0.0), filled(1.0), torch.tensor([0.25]), {"text": torch.tensor([7.0])}, torch.tensor(score),
        filled(2.0), torch.tensor(loser_score),
    )  # fmt: skip


def scored(advantage):
    """One example whose target is 1."""
    half = torch.tensor([0.5])
    return Batch(filled(0.0), filled(1.0), half, {}, half, advantage=torch.tensor([advantage]))


@pytest.mark.parametrize(
    ("name", "pairs", "advantages", "reference", "tickets"),
    [
        ("sft", False, False, False, False),
        ("expert_iteration", False, False, False, True),
        ("crpo", True, False, True, True),
        ("nft", False, True, True, True),
        ("cross_load", False, False, False, False),
        ("tests.unit.test_algorithms:Mine", False, False, False, True),
    ],
)
def test_what_each_asks_of_the_loop(name, pairs, advantages, reference, tickets):
    found = load_algorithm(name)
    assert (found.takes_pairs, found.uses_advantages) == (pairs, advantages)
    assert (found.needs_reference, found.needs_tickets) == (reference, tickets)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("crpo", {"beta": 0}, "'crpo': beta is 0, expected a finite number above 0"),
        ("crpo", {"beta": -2000.0}, "beta is -2000.0, expected"),
        ("crpo", {"beta": math.inf}, "beta is inf, expected"),
        ("crpo", {"beta": True}, "beta is True, expected"),
        ("crpo", {"lambda_fm": -0.1}, "lambda_fm is -0.1, expected a finite number of at least 0"),
        ("crpo", {"betta": 1.0}, r"has the options \['beta', 'lambda_fm'\], found \['betta'\]"),
        ("nft", {"mode": "both"}, "mode is 'both', expected one of binary, reward"),
        ("nft", {"beta": "much"}, "beta is 'much', expected"),
        ("nft", {"reward_temp": 0.0}, "reward_temp is 0.0, expected"),
        ("nft", {"adv_clip": None}, "adv_clip is None, expected"),
        ("nft", {"kl": -1}, "kl is -1, expected"),
        ("sft", {"beta": 1.0}, r"has the options \[\], found \['beta'\]"),
        ("nothing", {}, "'nothing' is none of"),
        ("no.such:Thing", {}, "cannot be imported"),
        ("collections:OrderedDict", {}, "expected a class that inherits rlloop.algorithms.base.Algorithm"),
        ("rlloop.algorithms.base:load_algorithm", {}, "expected a class that inherits"),
        ("tests.unit.test_algorithms:Half", {}, "abstract method.* loss"),
    ],
)
def test_what_is_refused_in_one_line(name, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_algorithm(name, options)
    assert "\n" not in str(caught.value)


def test_options_reach_the_algorithm_and_numbers_may_be_text():
    assert load_algorithm("crpo", {"beta": "2e3"}).beta == 2000.0  # YAML reads 2e3 as text
    assert load_algorithm("nft", {"mode": "reward", "kl": 0}).kl == 0.0


def test_a_loss_without_metrics_or_reference_is_as_good():
    loss, metrics = loss_and_metrics(Mine(), Network(3.0), pair(), Network())
    assert loss.item() == 3.0 and metrics == {}


def test_a_metric_that_would_stand_in_for_the_loss_is_refused():
    class Shadowing(Mine):
        def loss(self, predict, batch):
            loss = super().loss(predict, batch)
            return loss, {"loss": loss}

    with pytest.raises(ValueError, match="Shadowing gives a metric named 'loss'; give it another name"):
        loss_and_metrics(Shadowing(), Network(3.0), pair())


@pytest.mark.parametrize("name", ["sft", "expert_iteration"])
def test_flow_matching_by_hand(name):
    """Targets 1 and -1 against 0.5: (0.25 + 2.25) / 2."""
    batch = Batch(filled(0.0, 2.0), filled(1.0, 1.0), torch.tensor([0.25, 0.5]), {}, torch.tensor([0.5, math.nan]))
    network = Network(0.5)
    loss, _ = loss_and_metrics(load_algorithm(name), network, batch)
    assert loss.item() == pytest.approx(1.25)
    x_t, t, _, score = network.asked[0]
    assert x_t[:, 0, 0].tolist() == pytest.approx([0.25, 1.5])  # (1 - t) x1 + t x0
    assert torch.equal(t, batch.t) and score[0] == 0.5 and score[1].isnan()


def test_crpo_by_hand():
    """Errors 0.25 and 2.25, of the reference 1 and 1: margin -beta / 2 (-2 - 0) = beta."""
    crpo = load_algorithm("crpo", {"beta": 1.5, "lambda_fm": 0.5})
    loss, metrics = loss_and_metrics(crpo, Network(0.5), pair(), Network())
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1.5)) + 0.5 * 0.25)
    found = {name: value.item() for name, value in metrics.items()}
    assert found == {"implicit_accuracy": 1.0, "margin": 1.5, "winner_error": 0.25, "loser_error": 2.25}


def test_winner_loser_and_reference_share_noise_time_and_text_but_not_the_label():
    policy, reference = Network(), Network()
    load_algorithm("crpo").loss(policy, pair(), reference)
    x_t, t, conditions, score = policy.asked[0]
    assert x_t[:, 0, 0].tolist() == [0.25, 1.75]  # (1 - t) x1 + t x0 at t 0.25, x1 0 and 2, x0 1
    assert t.tolist() == [0.25, 0.25] and conditions["text"].tolist() == [7.0, 7.0] and score.tolist() == [0.5, -0.5]
    for mine, its in zip(policy.asked[0], reference.asked[0], strict=True):
        assert torch.equal(mine["text"], its["text"]) if isinstance(mine, dict) else torch.equal(mine, its)


@pytest.mark.parametrize("name", ["crpo", "nft"])
def test_the_reference_gets_no_gradient_and_steps_lower_the_winners_error(name):
    policy, reference = Network(0.1), Network(0.1)
    algorithm = load_algorithm(name, {"beta": 1.0})
    batch = pair() if algorithm.takes_pairs else scored(1.0)
    errors = []
    for _ in range(5):
        errors.append((policy.velocity.item() - 1.0) ** 2)
        loss, metrics = loss_and_metrics(algorithm, policy, batch, reference)
        (slope,) = torch.autograd.grad(loss, policy.velocity)
        policy.velocity = (policy.velocity - 0.1 * slope).detach().requires_grad_()
        assert not any(value.requires_grad for value in metrics.values())
    assert reference.velocity.grad is None and errors == sorted(errors, reverse=True) and errors[-1] < 0.5


def test_nft_moves_off_a_bad_clip():
    policy = Network(0.0)
    loss, metrics = loss_and_metrics(NFT(), policy, scored(-1.0), Network(0.0))
    assert metrics["reference_distance"] == 0.0
    assert torch.autograd.grad(loss, policy.velocity)[0] > 0  # its target is 1


def test_nft_by_hand_from_a_batch():
    """As in test_losses: 0.45 / 0.2, and the distance 0.25."""
    loss, metrics = loss_and_metrics(load_algorithm("nft", {"kl": 0}), Network(0.5), scored(1.0), Network(0.0))
    assert loss.item() == pytest.approx(2.25) and metrics["reference_distance"].item() == pytest.approx(0.25)


def test_selections():
    settings = Selection(top_fraction=0.1)
    assert load_algorithm("sft").select(CANDIDATES, settings, None) == []
    assert load_algorithm("cross_load").select(CANDIDATES, settings, None) == []
    roles = [(0, 0, "winner"), (0, 1, "loser"), (1, 1, "winner"), (1, 0, "loser")]
    assert load_algorithm("crpo").select(CANDIDATES, settings, None) == [Example(*role) for role in roles]
    binary = [Example(t, c, advantage={"winner": 1.0, "loser": -1.0}[role]) for t, c, role in roles]
    assert load_algorithm("nft").select(CANDIDATES, settings, None) == binary


def test_advantages_by_hand():
    """Scores 3 1 2 and 5 9, mean 4, spread sqrt(8); the prompts' means are 2 and 7."""
    found = load_algorithm("nft", {"mode": "reward", "reward_temp": 1.0}).select(CANDIDATES, Selection(), None)
    assert [(e.ticket, e.clip, e.role) for e in found] == [(c.ticket, c.clip, "") for c in CANDIDATES]
    assert [e.advantage for e in found] == pytest.approx([x / math.sqrt(8) for x in (1, -1, 0, -2, 2)])
    clipped = load_algorithm("nft", {"mode": "reward"}).select(CANDIDATES, Selection(), None)
    assert [e.advantage for e in clipped] == pytest.approx([1, -1, 0, -1, 1])


def test_a_change_of_network_trains_nothing():
    with pytest.raises(ValueError, match="trains nothing"):
        load_algorithm("cross_load").loss(Network(), pair())
