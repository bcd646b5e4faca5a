"""`rlloop score` as a user runs it: bad files among good ones, and a second start after a stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.ray


def score(clips: Path, out: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rlloop.commands.main", "score", str(clips), "--out", str(out)]
    return subprocess.run(
        [*command, "--rewards", "tests.fakes:Loudness", "--batch", "4", "--actors", "1"],
        cwd=REPOSITORY, env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def test_bad_files_cost_themselves_and_a_stopped_job_goes_on(tmp_path):
    clips, out = tmp_path / "clips", tmp_path / "scores.jsonl"
    clips.mkdir()
    for n in range(9):
        wave = 0.05 * n + 0.1 * np.sin(np.arange(32_000) / 10)  # its mean is its place
        soundfile.write(clips / f"{n}.wav", wave.astype(np.float32), 16_000)
    (clips / "3b.wav").write_bytes(b"RIFF and then nothing")
    (clips / "9.flac").touch()
    done = score(clips, out)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["path"] for line in lines] == [*(f"{n}.wav" for n in range(4)), "3b.wav", *(f"{n}.wav" for n in range(4, 9)), "9.flac"]  # fmt: skip  # noqa: E501
    for line in lines:
        if line["path"] in ("3b.wav", "9.flac"):
            assert line["scores"] == {"Loudness": None} and "not readable as audio" in line["reasons"]["Loudness"]
        else:
            expected = 0.05 * int(line["path"][0])
            assert line["scores"]["Loudness"] == pytest.approx(expected, abs=1e-3) and not line["reasons"]
    assert "11 clips" in done.stdout and "1 without a score" in done.stderr

    whole = out.read_text()
    marked = [json.dumps({**line, "scores": {"Loudness": 7.0}, "reasons": {}}) for line in lines[:4]]
    out.write_text("\n".join(marked) + "\n" + json.dumps(lines[4])[:20])  # as a kill leaves it
    again = score(clips, out)
    assert again.returncode == 0 and "4 of them before" in again.stdout, again.stderr
    after = out.read_text().splitlines()
    assert [json.loads(line)["scores"]["Loudness"] for line in after[:4]] == [7.0] * 4  # not computed again
    assert after[4:] == whole.splitlines()[4:]
