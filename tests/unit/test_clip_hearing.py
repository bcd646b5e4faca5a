"""Clip files heard once each; what cannot be heard costs itself alone."""

import numpy as np
import pytest
import soundfile

from rlloop.config import build
from rlloop.recipes.clip_files import list_clips
from rlloop.recipes.clip_hearing import embed_clips, hear_clips, is_mini
from rlloop.recipes.embedders import Embedder
from rlloop.rewards.base import Clip

RATE = 16_000


class LevelScorer:
    """Scores a clip by its level."""

    names = ["level"]

    def score_clips(self, clips):
        return [{"level": float(np.abs(clip.audio).mean())} for clip in clips], [{} for _ in clips]


def folder_of(path, names=("a", "b", "c", "d"), seconds: float = 1.5):
    """Noise of growing level, one file a name."""
    path.mkdir()
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        wave = 0.05 * (number + 1) * rng.uniform(-1, 1, int(RATE * seconds))
        soundfile.write(path / f"{name}.wav", wave, RATE)
    return path


def test_each_clip_is_heard_once_and_a_broken_one_costs_itself_alone(tmp_path):
    folder = folder_of(tmp_path / "clips")
    (folder / "b.wav").write_bytes(b"RIFF")
    soundfile.write(folder / "c.wav", np.zeros(RATE * 2), RATE)
    heard, done = [], []
    ear = Embedder("ear", "levels", lambda clips: heard.extend(clips) or np.array([[c.audio.max()] for c in clips]))
    lines, embeddings = hear_clips(list_clips(folder), LevelScorer(), [ear], 3, lambda n, bad: done.append((n, bad)))
    assert [line.path for line in lines] == ["a.wav", "b.wav", "c.wav", "d.wav"] and len(heard) == 2
    assert [line.scores["level"] is None for line in lines] == [False, True, False, False]
    assert "not readable as audio" in lines[1].reasons["level"] and "silent" in lines[2].reasons["ear"]
    assert np.isnan(embeddings["ear"][:, 0]).tolist() == [False, True, True, False]
    assert done == [(3, 2), (1, 0)]
    _, deaf = hear_clips(list_clips(folder)[1:3], None, [ear], 3, lambda n, bad: None)
    assert deaf["ear"].shape == (2, 0)


def test_a_file_that_is_too_long_is_not_read_whole(tmp_path):
    """At 8 kHz the guards would refuse the rate first: the reason shows that the length was seen before decoding."""
    soundfile.write(tmp_path / "long.wav", np.zeros(301 * 8_000), 8_000)
    ear = Embedder("ear", "none", lambda clips: np.zeros((len(clips), 1)))
    (line,), _ = hear_clips(list_clips(tmp_path), None, [ear], 1, lambda n, bad: None)
    assert line.reasons == {"ear": "301 s long, expected at most 300 s"}


def test_a_clip_that_breaks_the_ear_costs_itself_alone():
    rng = np.random.default_rng(0)
    clips = [Clip(rng.uniform(-0.1, 0.1, RATE * 2), RATE, name) for name in ("a", "b", "bad", "c", "d")]

    def embed(given):
        if any(clip.prompt == "bad" for clip in given):
            raise RuntimeError("too strange")
        return np.array([[ord(clip.prompt)] for clip in given])

    found = embed_clips(clips, Embedder("ear", "fragile", embed))
    assert [row if isinstance(row, str) else int(row[0]) for row in found] == [
        97, 98, "RuntimeError: too strange", 99, 100,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("generator", "judges", "expected"),
    [
        ("mini", None, True),
        ("mini", [], True),
        ("tests.fakes:tiny_generator", None, False),
        ("tests.fakes:tiny_generator", ["frechet_mini"], True),
    ],
)
def test_the_shipped_reference_is_for_the_mini_generator_or_who_asks(generator, judges, expected):
    given = {"generator": {"target": generator}, "evaluation": {"alarm": {"judges": judges}}}
    assert is_mini(build(given)) is expected
