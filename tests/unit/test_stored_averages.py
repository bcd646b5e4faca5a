"""Averages of a run's weights: written from what the run stored, with a line that says of what."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from torch import nn

from actors.averages import Averages, read_state
from rlloop.config import Trainer, build
from rlloop.loop.checkpoints import write_arrays
from rlloop.recipes.averages import average, snapshot_path

STAGES = [
    {"name": "first"},
    {"name": "over", "tickets": 0, "phases": [], "variant": "v2"},
    {"name": "second"},
]


@pytest.fixture
def run_dir(tmp_path):
    """A run of three stages that stored both widths once in each that trains."""
    (tmp_path / "config.json").write_text(json.dumps(build({"stages": STAGES}).model_dump(mode="json")))
    for stage in ("first", "second"):
        for sigma in (0.05, 0.1):
            write_arrays(snapshot_path(tmp_path, stage, sigma, 60), {"w": np.full(3, sigma, np.float32)})
    return tmp_path


@pytest.mark.parametrize(
    ("stage", "said"), [("first", "of the generator's own score variant"), ("second", "of score variant v2")]
)
def test_a_stored_width_comes_out_and_the_line_names_the_variant_of_the_stages_end(run_dir, stage, said):
    line = average(run_dir, stage, 0.1, None, run_dir / "out.safetensors")
    np.testing.assert_allclose(load_file(str(run_dir / "out.safetensors"))["w"], 0.1, rtol=1e-6)
    assert line.endswith(f"average of width 0.1 at update 60 of {stage}, from 2 stored tracks; {said}")


@pytest.mark.parametrize(
    ("stage", "said"), [("over", "no averages of stage 'over' are stored, there are those of .*first"), ("x", "named")]
)
def test_a_stage_without_averages_is_refused(run_dir, stage, said):
    with pytest.raises(ValueError, match=said):
        average(run_dir, stage, 0.1, None, run_dir / "out.safetensors")


def test_a_damaged_track_is_one_line(run_dir):
    path = snapshot_path(run_dir, "first", 0.1, 60)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="cannot be made from .*first"):
        average(run_dir, "first", 0.1, None, run_dir / "out.safetensors")


def test_a_checkpoint_says_which_stage_its_averages_are_of(tmp_path):
    settings, network = Trainer(ema_sigmas=[0.05, 0.1], ema_every=2), nn.Linear(2, 1)
    averages = Averages(tmp_path, settings)
    averages.begin("sft")
    for step in (1, 2, 3):
        nn.init.constant_(network.weight, step)
        averages.update(network, step)
    averages.save(tmp_path)
    stage, state = read_state(tmp_path)
    again = Averages(tmp_path, settings)
    again.begin(stage, state)
    assert stage == "sft" and again.ema.step == 3
    for one in (averages, again):
        one.update(network, 4)
    for (_, a), (_, b) in zip(averages.ema.snapshots(), again.ema.snapshots(), strict=True):
        assert np.array_equal(a["weight"], b["weight"])
    again.update(network, 5)
    again.finish()  # the last update is stored whatever ema_every is
    stored = sorted(path.name for path in (tmp_path / "ema" / "sft").iterdir())
    assert stored == [f"sigma{s}-step{n:09d}.safetensors" for s in (0.05, 0.1) for n in (2, 4, 5)]
    again.begin("crpo")
    assert again.ema.step == 0
