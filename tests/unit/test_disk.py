"""Room on the disk: what is kept free by default, what is said, what is counted."""

import numpy as np

from rlloop.config import build
from rlloop.loop import checkpoints
from rlloop.recipes.disk import folder_bytes, free_bytes, full_disk, kept_free
from tests.unit.test_checkpoints import write

SPARE = 64 * 2**20


def test_one_more_checkpoint_is_kept_free_unless_told_otherwise(tmp_path):
    """Weights, master weights, two moments and a copy a track: four times the weights, six times with two tracks."""
    assert kept_free(tmp_path, build({})) == SPARE
    path = checkpoints.folder(tmp_path, 0)
    checkpoints.write_arrays(path / checkpoints.WEIGHTS, {"w": np.zeros(1000, np.float32)})
    weights = (path / checkpoints.WEIGHTS).stat().st_size
    assert kept_free(tmp_path, build({})) == SPARE + 4 * weights
    assert kept_free(tmp_path, build({"trainer": {"ema_sigmas": [0.05, 0.1]}})) == SPARE + 6 * weights
    assert kept_free(tmp_path, build({"limits": {"min_free_disk": "2MiB"}})) == 2 * 2**20


def test_a_full_disk_says_how_much_to_free(tmp_path):
    line = full_disk(tmp_path, 2**20, 5 * 2**20)
    assert "1 MiB are free" in line and "keeps 5 MiB" in line and "free 4 MiB or more there" in line


def test_files_are_counted_and_what_is_not_there_is_nothing(tmp_path):
    write(tmp_path, 0)
    write(tmp_path, 1, 5)
    files = [path for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()]
    assert folder_bytes(tmp_path / "checkpoints", "*/*") == sum(path.stat().st_size for path in files) > 0
    assert folder_bytes(tmp_path / "nowhere") == 0 and free_bytes(tmp_path) > 0
