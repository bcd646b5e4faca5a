"""Training draws depend on (seed, stage, step, index) alone."""

import numpy as np
import pytest
import torch

from rlloop.algorithms.base import Batch
from rlloop.algorithms.draws import draw_example
from rlloop.algorithms.expert_iteration import ExpertIteration


def draw(index=0, step=0, rows=None, weights=None, **drops):
    rows, weights = rows or {"current": 5}, weights or {"current": 1.0}
    text, score, mode = drops.get("text", 0.1), drops.get("score", 0.1), drops.get("mode", "independent")
    return draw_example((1, 0, step, index), rows, weights, (3, 2), text, score, mode)


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
