"""Training draws depend on (seed, stage, step, index) alone."""

import numpy as np
import pytest
import torch

from rlloop.algorithms.base import Batch
from rlloop.algorithms.draws import draw_example, posterior_noise
from rlloop.algorithms.expert_iteration import ExpertIteration


def draw(index=0, step=0, rows=None, weights=None, **drops):
    rows, weights = rows or {"current": 5}, weights or {"current": 1.0}
    text, score, mode = drops.get("text", 0.1), drops.get("score", 0.1), drops.get("mode", "independent")
    weights_are = drops.get("weights_are", "shares")
    return draw_example((1, 0, step, index), rows, weights, (3, 2), text, score, mode, weights_are)


def test_a_draw_repeats_and_differs_between_indices_and_steps():
    assert torch.equal(draw().noise, draw().noise) and draw().t == draw().t
    assert not torch.equal(draw().noise, draw(index=1).noise)
    assert not torch.equal(draw().noise, draw(step=1).noise)


def test_distributions_and_mixture():
    draws = [
        draw(index=n, rows={"current": 5, "previous": 2}, weights={"current": 3.0, "previous": 1.0})
        for n in range(4000)
    ]
    t = np.array([d.t for d in draws])
    assert np.median(t) == pytest.approx(0.5, abs=0.03)  # logit-normal(0, 1)
    assert np.mean(t > 1 / (1 + np.exp(-1))) == pytest.approx(0.1587, abs=0.03)
    assert np.mean([d.drops_text for d in draws]) == pytest.approx(0.1, abs=0.02)
    assert np.mean([d.source == "previous" for d in draws]) == pytest.approx(0.25, abs=0.03)
    assert {d.row for d in draws if d.source == "previous"} == {0, 1}
    assert float(torch.cat([d.noise for d in draws]).std()) == pytest.approx(1.0, abs=0.02)


def test_an_empty_source_is_left_out_and_no_source_is_an_error():
    assert draw(rows={"current": 5, "previous": 0}, weights={"current": 1, "previous": 9}).source == "current"
    with pytest.raises(ValueError, match="no source of the mixture"):
        draw(rows={"current": 0})


def test_the_loss_of_a_perfect_and_of_a_zero_prediction():
    latents, noise = torch.ones(2, 3, 2), torch.full((2, 3, 2), 3.0)
    batch = Batch(latents, noise, torch.tensor([0.2, 0.7]), {}, torch.tensor([0.5, float("nan")]))
    assert ExpertIteration().loss(lambda x, t, c, s: noise - latents, batch).item() == 0.0
    assert ExpertIteration().loss(lambda x, t, c, s: torch.zeros_like(x), batch).item() == pytest.approx(4.0)


def test_modes_of_the_score_drop():
    both = {mode: [draw(n, step, score=0.3, text=0.3, mode=mode) for step in range(200) for n in range(4)]
            for mode in ("independent", "tied", "batch")}  # fmt: skip
    for found in both.values():
        assert [d.drops_text for d in found] == [d.drops_text for d in both["tied"]]
        assert np.mean([d.drops_score for d in found]) == pytest.approx(0.3, abs=0.1)
        assert torch.equal(found[3].noise, both["tied"][3].noise) and found[3].t == both["tied"][3].t
    assert all(d.drops_text == d.drops_score for d in both["tied"])
    together = [d.drops_text and d.drops_score for d in both["independent"]]
    assert np.mean(together) == pytest.approx(0.09, abs=0.04)
    steps = np.array([d.drops_score for d in both["batch"]]).reshape(200, 4)
    assert np.array_equal(steps.all(axis=1), steps.any(axis=1)) and 0.2 < steps[:, 0].mean() < 0.4


def test_tied_drops_are_nested_where_the_rates_differ():
    found = [draw(n, text=0.5, score=0.2, mode="tied") for n in range(300)]
    assert all(d.drops_text for d in found if d.drops_score)
    assert np.mean([d.drops_score for d in found]) == pytest.approx(0.2, abs=0.07)


def test_an_unknown_mode_is_an_error():
    with pytest.raises(ValueError, match="score_drop_mode 'never' is not one of independent, tied, batch"):
        draw(mode="never")


def test_what_is_drawn_in_which_order():
    """Runs of before are repeated by it: source, row, time, the two drops, noise, from one stream."""
    rng = np.random.default_rng(np.random.SeedSequence([3, 1, 0, 4, 2]))
    source = rng.choice(2, p=[0.25, 0.75])
    row, normal, text, score = rng.integers(5), rng.standard_normal(), rng.random(), rng.random()
    found = draw(2, 4, rows={"a": 5, "b": 5}, weights={"a": 1.0, "b": 3.0}, text=0.5, score=0.5)
    assert (found.source, found.row) == ("ab"[source], row) and found.t == pytest.approx(1 / (1 + np.exp(-normal)))
    assert (found.drops_text, found.drops_score) == (text < 0.5, score < 0.5)
    assert np.array_equal(found.noise.numpy(), rng.standard_normal((3, 2), dtype=np.float32))


def test_posterior_noise_is_of_the_same_key_and_in_a_stream_of_its_own():
    found = torch.stack([posterior_noise((1, 0, 0, n), (3, 2)) for n in range(2000)])
    noise = torch.stack([draw(n).noise for n in range(2000)])
    assert found.shape == (2000, 3, 2) and found.dtype == torch.float32
    assert torch.equal(found[7], posterior_noise((1, 0, 0, 7), (3, 2)))
    ahead = posterior_noise((1, 0, 0, 7), (20, 20)).flatten().tolist()
    assert not set(ahead) & set(draw(7).noise.flatten().tolist())  # not the same stream, read from another place
    assert float(found.mean()) == pytest.approx(0, abs=0.04) and float(found.std()) == pytest.approx(1, abs=0.03)
    assert float(torch.corrcoef(torch.stack([found.flatten(), noise.flatten()]))[0, 1]) == pytest.approx(0, abs=0.04)


@pytest.mark.parametrize(("meaning", "share"), [("shares", 5 / 6), ("copies", 5 * 64 / (5 * 64 + 1280))])
def test_weights_are_shares_or_copies(meaning, share):
    """64 experts, each listed 5 times beside 1280 clips of a corpus, are a fifth; as shares 5 to 1 is 5 of 6."""
    rows, weights = {"corpus": 1280, "current": 64}, {"corpus": 1.0, "current": 5.0}
    found = [draw(n, rows=rows, weights=weights, weights_are=meaning) for n in range(2000)]
    assert np.mean([d.source == "current" for d in found]) == pytest.approx(share, abs=0.03)
    assert torch.equal(found[3].noise, draw(3).noise)


def test_copies_of_no_rows_are_left_out_and_another_meaning_is_an_error():
    rows, weights = {"current": 5, "previous": 0}, {"current": 1.0, "previous": 9.0}
    assert draw(rows=rows, weights=weights, weights_are="copies").source == "current"
    with pytest.raises(ValueError, match="weights_are 'counts' is not one of shares, copies"):
        draw(weights_are="counts")
