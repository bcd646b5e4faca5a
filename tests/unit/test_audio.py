"""Audio in and out, and loudness: identities and one number worked out by hand."""

import numpy as np
import pytest

from rlloop.audio.io import read_audio, resample, write_audio
from rlloop.audio.loudness import fix_loudness, measure_lufs

RATE = 16_000


def sine(frequency_hz: float, seconds: float, rate: int = RATE, peak: float = 0.5) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * frequency_hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def test_written_audio_comes_back(tmp_path):
    audio = sine(440, 0.5)
    write_audio(tmp_path / "a.wav", audio, RATE)
    back, rate = read_audio(tmp_path / "a.wav")
    assert rate == RATE and back.dtype == np.float32
    assert np.abs(back - audio).max() < 1 / 32768 + 1e-6


def test_stereo_becomes_the_mean(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "s.wav", np.stack([sine(440, 0.1), -sine(440, 0.1)], axis=1), RATE)
    assert np.abs(read_audio(tmp_path / "s.wav")[0]).max() < 1e-4


def test_reading_at_another_rate(tmp_path):
    write_audio(tmp_path / "a.flac", sine(440, 1.0, 44_100), 44_100)
    audio, rate = read_audio(tmp_path / "a.flac", RATE)
    assert rate == RATE and len(audio) == RATE
    assert np.abs(audio[1000:-1000] - sine(440, 1.0)[1000:-1000]).max() < 5e-3


def test_resampling_keeps_a_tone():
    audio = resample(sine(1000, 1.0, 44_100), 44_100, RATE)
    assert np.abs(audio[800:-800] - sine(1000, 1.0)[800:-800]).max() < 5e-3


def test_bad_files_are_one_clear_line(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "broken.ogg").write_bytes(b"OggS but no more")
    write_audio(tmp_path / "none.wav", np.zeros(0, np.float32), RATE)
    for name in ("empty.wav", "broken.ogg", "none.wav", "missing.wav"):
        with pytest.raises(ValueError, match=name) as error:
            read_audio(tmp_path / name)
        assert "\n" not in str(error.value)
        assert "expected" in str(error.value)


def test_loudness_of_a_full_scale_kilohertz_sine():
    # BS.1770: a full-scale 997 Hz sine in one channel reads -3.01 LUFS.
    assert measure_lufs(sine(997, 3.0, 48_000, peak=1.0), 48_000) == pytest.approx(-3.01, abs=0.05)


@pytest.mark.parametrize("gain", [0.01, 1.0, 3.0])
def test_loudness_is_fixed_whatever_the_level(gain):
    audio = np.random.default_rng(0).standard_normal(5 * RATE).astype(np.float32) * 0.1
    fixed = fix_loudness(audio * gain, RATE)
    assert measure_lufs(fixed, RATE) == pytest.approx(-18.0, abs=0.01)
    assert np.allclose(fixed, fix_loudness(audio, RATE), atol=1e-3)


def test_silence_is_left_as_it_is():
    quiet = np.full(RATE, 1e-6, np.float32)
    assert np.array_equal(fix_loudness(quiet, RATE), quiet)
    assert measure_lufs(np.zeros(100, np.float32), RATE) == -np.inf
