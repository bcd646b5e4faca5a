"""The training clock of the mini recipes: warm-up, decay, and going on after a kill."""

import pytest
import torch
from torch import nn

from rlloop.recipes.mini_clips import TARGET_RMS, list_clips, set_level
from rlloop.recipes.mini_training import Schedule, train

SCHEDULE = Schedule(minutes=0.002, peak_lr=1e-2, final_lr=1e-3, warmup_steps=10)


def test_learning_rate_warms_up_and_decays():
    assert SCHEDULE.learning_rate(0, 0.0) == pytest.approx(1e-3)
    assert SCHEDULE.learning_rate(9, 0.0) == pytest.approx(1e-2)
    assert SCHEDULE.learning_rate(500, 0.06) == pytest.approx((1e-2 + 1e-3) / 2)
    assert SCHEDULE.learning_rate(500, 99.0) == pytest.approx(1e-3)


def test_a_training_goes_on_where_it_stopped(tmp_path):
    steps = []

    def run(minutes: float) -> None:
        torch.manual_seed(0)
        model = nn.Linear(2, 1)

        def loss_of(step: int, generator: torch.Generator) -> torch.Tensor:
            steps.append(step)
            return model(torch.randn(4, 2, generator=generator)).square().mean()

        optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
        train(model, loss_of, optimizer, Schedule(minutes, 1e-2, 1e-3), tmp_path / "work" / "linear.pt")

    run(0.002)
    done = len(steps)
    run(0.002)  # the minutes are spent: not one step more
    assert len(steps) == done
    run(0.004)
    assert len(steps) > done and steps == list(range(len(steps)))


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path):
    model = nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    with pytest.raises(ValueError, match="loss nan at step 0"):
        train(model, lambda step, _: model.weight.sum() * torch.nan, optimizer, SCHEDULE, tmp_path / "nan.pt")


def test_level_is_common_and_silence_stays():
    loud = set_level(0.01 * torch.sin(torch.arange(1000) / 5))
    assert loud.square().mean().sqrt() == pytest.approx(TARGET_RMS, rel=1e-3)
    assert torch.equal(set_level(torch.zeros(2, 10)), torch.zeros(2, 10))


def test_clips_are_split_by_prompt(tmp_path):
    (tmp_path / "clips.jsonl").write_text('{"id": 59, "path": "a"}\n{"id": 60, "path": "b"}\n')
    assert [row["path"] for row in list_clips(tmp_path, is_held_out=False)] == ["a"]
    assert [row["path"] for row in list_clips(tmp_path, is_held_out=True)] == ["b"]
    with pytest.raises(ValueError, match="is missing"):
        list_clips(tmp_path / "nowhere", is_held_out=True)
