"""`rlloop generate` on actors: the bytes of one process, and the same command goes on after a stop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.ray
PROMPTS = ["a calm piano piece", "Fast drums", "slow strings", "a bass line"]


def generate(out: Path, *arguments: str) -> subprocess.CompletedProcess:
    asked = ["--seed", "7", "--steps", "3", "--rewards", "tunejury_mini", "--best-of", "2", "--postprocess", "loudness"]
    command = [sys.executable, "-m", "rlloop.commands.main", "generate", *PROMPTS, *asked, "--out", str(out)]
    return subprocess.run(
        [*command, *arguments],
        cwd=REPOSITORY, env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def test_actors_make_the_bytes_of_one_process_and_only_what_is_missing(tmp_path):
    alone, pooled = generate(tmp_path / "alone"), tmp_path / "pooled"
    assert alone.returncode == 0, alone.stderr
    expected = {path.name: path.read_bytes() for path in (tmp_path / "alone").iterdir()}
    assert len(expected) == 5
    pooled.mkdir()
    kept = "a-calm-piano-piece-s7.wav"  # what a job leaves that was killed while it wrote the second
    (pooled / kept).write_bytes(expected[kept])
    (pooled / "slow-strings-s9.wav.part").write_bytes(b"RIFF")
    time_before = (pooled / kept).stat().st_mtime_ns
    done = generate(pooled, "--actors", "2", "--cpus", "0.5")
    assert done.returncode == 0, done.stderr
    assert "4 clips in" in done.stdout and "1 of them before" in done.stdout
    assert {path.name: path.read_bytes() for path in pooled.iterdir()} == expected
    assert (pooled / kept).stat().st_mtime_ns == time_before
