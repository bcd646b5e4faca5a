"""`rlloop data prepare` as a user runs it: good and bad recordings, killed on the way, and taken up again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rlloop.data.corpus import open_corpus
from rlloop.recipes.corpus_parts import part_folder, write_part

REPOSITORY = Path(__file__).parents[2]
RATE = 16_000
pytestmark = pytest.mark.ray


def make_recordings(folder: Path) -> None:
    """Four good ones with six segments, and what goes wrong."""
    seconds = {"a": 6, "b": 11, "c": 6, "d": 10, "short": 3}
    for n, (name, length) in enumerate(seconds.items()):
        wave = 0.3 * np.sin(2 * np.pi * (200 + 50 * n) * np.arange(length * RATE) / RATE)
        soundfile.write(folder / f"{name}.wav", wave.astype(np.float32), RATE)
    (folder / "broken.wav").write_bytes(b"RIFF and then nothing")
    names = ["broken", *seconds, "gone"]
    (folder / "captions.tsv").write_text("path\tcaption\n" + "".join(f"{name}.wav\tdrums\n" for name in names))


def prepare(audio: Path, out: Path, reward: str) -> subprocess.Popen:
    options = [f"--out={out}", "--split=all", f"--rewards={reward}", "--batch=1", "--actors=1", "--cpus=0.5"]
    return subprocess.Popen(
        [sys.executable, "-m", "rlloop.commands.main", "data", "prepare", str(audio), "generator.text_encoder=words",
         f"--captions={audio / 'captions.tsv'}", *options],
        cwd=REPOSITORY, env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def mark(out: Path, key: str) -> None:
    """Gives the rows of a part the score 7, which no recording has."""
    place = part_folder(out, key)
    part = open_corpus(place)
    rows = [replace(row, scores={"SlowLoudness": 7.0}) for row in part]
    shutil.rmtree(place)
    write_part(out, key, rows, part.spec)


def test_a_killed_job_goes_on_and_bad_recordings_are_listed(tmp_path):
    audio, out = tmp_path / "audio", tmp_path / "corpus"
    audio.mkdir()
    make_recordings(audio)
    first = prepare(audio, out, "tests.fakes:SlowLoudness")
    deadline = time.monotonic() + 200
    while not (part_folder(out, "a") / "corpus.json").is_file():
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)  # the command, and with it the Ray that it started
    first.communicate()
    assert not (out / "corpus.json").exists()
    mark(out, "a")

    again = prepare(audio, out, "tests.fakes:SlowLoudness")
    said, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert "6 rows of 4 of 7 recordings" in said and "of them before" in said and "3 listed in" in said, said
    corpus = open_corpus(out)
    assert [row.id for row in corpus] == ["a_0", "b_0", "b_1", "c_0", "d_0", "d_1"]
    assert corpus.latent_shape == (156, 32) and corpus.score_names == ("SlowLoudness",)
    for row in corpus:
        assert row.std is not None and row.prompt == "drums"
        # a is not done again
        assert row.scores["SlowLoudness"] == pytest.approx(7.0 if row.id == "a_0" else 0.0, abs=0.01)
    listed = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert {line["id"]: line["reason"].split()[0] for line in listed} == {"broken": "not", "short": "too", "gone": "no"}
