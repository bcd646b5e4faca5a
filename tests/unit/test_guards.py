"""What costs a clip its score, and nobody else's; and how several scores become one."""

import numpy as np
import pytest
import soundfile

from rlloop.audio.io import read_audio
from rlloop.rewards.base import Clip, Score
from rlloop.rewards.blend import blend, z_scores
from rlloop.rewards.guards import refuse, score_guarded

RATE = 48_000


def tone(seconds: float, rate: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(np.arange(round(seconds * rate)) * 2 * np.pi * 440 / rate)).astype(np.float32)


def spoiled(change) -> Clip:
    audio = tone(2)
    change(audio)
    return Clip(audio, RATE, "p")


GOOD = Clip(tone(2), RATE, "p")
REFUSED = {
    "0.2 s": (Clip(tone(0.2), RATE, "p"), "too short: 0.20 s, expected at least 1 s"),
    "no sample": (Clip(tone(0), RATE, "p"), "too short"),
    "10 minutes": (Clip(tone(600, 16_000), 16_000, "p"), "too long: 600 s, expected at most 300 s"),
    "stereo": (Clip(np.stack([tone(2), tone(2)]), RATE, "p"), "shape (2, 96000), expected mono"),
    "8 kHz": (Clip(tone(2, 8000), 8000, "p"), "sample rate 8000 Hz, expected at least 16000"),
    "no rate": (Clip(tone(2), 0, "p"), "sample rate 0 Hz"),
    "odd rate": (Clip(tone(2, 44_101), 44_101, "p"), "44101 Hz, expected one that shares a divisor"),
    "integers": (Clip((tone(2) * 30_000).astype(np.int16), RATE, "p"), "int16 samples"),
    "NaN": (spoiled(lambda x: x.fill(np.nan)), "non-finite: 96000 of 96000"),
    "one infinity": (spoiled(lambda x: x.__setitem__(7, np.inf)), "non-finite: 1 of 96000"),
    "silent": (spoiled(lambda x: x.fill(0)), "silent: -200 dBFS, expected at least -60"),
    "constant": (spoiled(lambda x: x.fill(0.5)), "silent"),
    "quiet": (spoiled(lambda x: np.multiply(x, 1e-3, out=x)), "silent: -73 dBFS"),
    "clipped": (spoiled(lambda x: np.clip(x * 9, -1, 1, out=x)), "clipped: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_clip_is_missing_with_its_reason_and_costs_no_other(name):
    bad, reason = REFUSED[name]
    assert reason in refuse(bad)
    scores = score_guarded([GOOD, bad, GOOD], lambda clips: [float(len(clips))] * len(clips))
    assert [score.value for score in scores] == [2.0, None, 2.0] and reason in scores[1].reason


@pytest.mark.parametrize("rate", [16_000, 22_050, 24_000, 32_000, 44_056, 44_100, 48_000, 88_200, 96_000, 192_000])
def test_usual_rates_pass(rate):
    assert refuse(Clip(tone(1.5, rate), rate, "")) is None


@pytest.mark.parametrize("edge", [tone(1), tone(300, 16_000), 1e-3 * np.sqrt(2) * tone(2) / 0.299])
def test_the_limits_themselves_pass(edge):
    assert refuse(Clip(edge, RATE if len(edge) < 4e6 else 16_000, "")) is None


def test_files_are_read_mixed_down_or_refused_before_they_cost_memory(tmp_path):
    soundfile.write(tmp_path / "stereo.wav", np.stack([tone(2, 96_000), 0 * tone(2, 96_000)], 1), 96_000)
    audio, rate = read_audio(tmp_path / "stereo.wav")
    assert rate == 96_000 and np.allclose(audio, tone(2, 96_000) / 2, atol=1e-4)
    assert refuse(Clip(audio, rate, "")) is None
    (tmp_path / "zero.wav").touch()
    (tmp_path / "corrupt.wav").write_bytes((tmp_path / "stereo.wav").read_bytes()[:30] + b"\0" * 99)
    soundfile.write(tmp_path / "long.flac", np.zeros(10 * 60 * 8000), 8000)
    for name, reason in [("zero.wav", "0 bytes"), ("corrupt.wav", ""), ("long.flac", "600 s long, expected at most")]:
        with pytest.raises(ValueError, match=f"{name}: .*{reason}"):
            read_audio(tmp_path / name, max_seconds=300)


def test_a_clip_that_breaks_the_reward_is_found_by_halves():
    clips = [Clip(tone(1) * (0.5 + n / 20), RATE, str(n)) for n in range(7)]
    calls = []

    def values(some):
        calls.append(len(some))
        if any(clip.prompt == "4" for clip in some):
            raise RuntimeError("out of memory\nwith details")
        return [float(clip.prompt) for clip in some]

    scores = score_guarded(clips, values)
    assert [score.value for score in scores] == [0, 1, 2, 3, None, 5, 6]
    assert scores[4].reason == "RuntimeError: out of memory"
    assert calls == [7, 3, 4, 2, 1, 1, 2]


def test_a_reward_that_miscounts_is_an_error():
    with pytest.raises(ValueError, match="returned 1 scores for 2 clips"):
        score_guarded([GOOD, GOOD], lambda clips: [1.0])


def test_a_value_that_is_no_number_is_missing():
    scores = score_guarded([GOOD, GOOD], lambda clips: [float("inf"), Score(None, "why")])
    assert [score.reason for score in scores] == ["the reward itself is inf", "why"]
    assert score_guarded([], lambda clips: pytest.fail("called with nothing")) == []


# Blend


def test_the_blend_by_hand():
    scores = {"a": [1.0, 2.0, 3.0, None], "b": [10.0, 10.0, 40.0, 99.0]}
    za = np.array([-1, 0, 1]) / np.sqrt(2 / 3)  # population deviation, of the three that are there
    zb = (np.array([10, 10, 40, 99]) - 39.75) / np.std([10, 10, 40, 99])
    np.testing.assert_allclose(blend(scores, {"a": 1, "b": 1}), [*(za + zb[:3]), np.nan])
    np.testing.assert_allclose(blend(scores, {"a": 0.5, "b": -2}), [*(0.5 * za - 2 * zb[:3]), np.nan])


def test_scale_and_offset_of_a_score_do_not_change_the_blend():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 50))
    weights = {"a": 1.0, "b": 1.0}
    np.testing.assert_allclose(blend({"a": a, "b": b}, weights), blend({"a": 3 * a - 7, "b": b / 9}, weights))
    np.testing.assert_allclose([z_scores(a).mean(), z_scores(a).std()], [0, 1], atol=1e-12)


def test_missing_stays_missing_and_a_constant_prefers_none():
    assert np.isnan(blend({"a": [1.0, np.inf, None]}, {"a": 1.0})).tolist() == [False, True, True]
    assert blend({"a": [1.0, 2.0]}, {"a": -3.0}).tolist() == [-1.0, -2.0]
    constant = {"a": [0.1] * 3 + [None], "b": [1.0, 2.0, 3.0, 4.0]}
    found = blend(constant, {"a": 1.0, "b": 1.0})
    assert np.isnan(found[3]) and np.allclose(found[:3], z_scores(np.array(constant["b"]))[:3])
    assert np.isnan(blend({"a": [None, None], "b": [1.0, 2.0]}, {"a": 1.0, "b": 1.0})).all()
    assert blend({"a": [], "b": []}, {"a": 1.0, "b": 1.0}).shape == (0,)


@pytest.mark.parametrize(
    ("weights", "message"),
    [({}, "expected some of the scores"), ({"c": 1.0}, r"\['a', 'b'\]"), ({"a": 1.0, "b": 1.0}, "'a': 2, 'b': 1")],
)
def test_a_blend_of_what_is_not_there_gets_one_line(weights, message):
    with pytest.raises(ValueError, match=message):
        blend({"a": [1.0, 2.0], "b": [1.0]}, weights)
