"""Averages of a run's weights: written from what the run stored, with a line that says of what."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from rlloop.config import build
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
