"""Which parts of a recording are taken, how they sound, and the split: hand-computed numbers."""

import random

import numpy as np
import pytest

from rlloop.recipes.segments import choose_split, cut_segments, kaiser_best, level_peak, segment_starts


@pytest.mark.parametrize(
    ("seconds", "starts"),
    [
        (5, [0]),
        (19.5, [0]),
        (20, [0, 10]),
        (25, [0, 15]),
        (34, [0, 12, 24]),
        (100, [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]),
        (600, [n * 590 / 9 for n in range(10)]),
    ],
)
def test_starts_of_ten_second_segments(seconds, starts):
    """(L - segment) // (num - 1) samples apart, at 100 Hz, where 10 s are 1000 samples."""
    assert segment_starts(int(seconds * 100), 1000) == [
        n * int(starts[1] * 100) if n else 0 for n, _ in enumerate(starts)
    ]


def test_the_last_segment_ends_where_the_recording_does():
    assert segment_starts(3401, 1000) == [0, 1200, 2400]  # 2401 // 2 = 1200, so the last sample is left
    assert segment_starts(3400, 1000)[-1] + 1000 == 3400


def test_the_peak_of_the_whole_file_is_levelled_before_it_is_cut():
    audio = np.full(24_000, 0.1, np.float32)  # 12 s at 2 kHz
    audio[23_999] = -0.4
    found = cut_segments(audio, 2000, 2000, 20_000)
    assert found.shape == (1, 20_000) and found.dtype == np.float32
    np.testing.assert_allclose(found, 0.1 * 0.95 / 0.4, rtol=1e-6)


def test_a_short_recording_is_padded_with_zeros():
    found = cut_segments(np.full(12_000, 0.5, np.float32), 2000, 2000, 20_000)
    np.testing.assert_allclose(found[0, :12_000], 0.95, rtol=1e-6)
    assert found.shape == (1, 20_000) and not found[0, 12_000:].any()


def test_segments_are_cut_at_the_recording_s_rate_and_brought_to_the_wanted_one():
    rate, seconds = 44_100, 25
    times = np.arange(rate * seconds) / rate
    found = cut_segments(np.sin(2 * np.pi * 440 * times), rate, 16_000, 160_000)
    assert found.shape == (2, 160_000)
    expected = 0.95 * np.sin(2 * np.pi * 440 * (15 + np.arange(160_000) / 16_000))
    np.testing.assert_allclose(found[1, 200:-200], expected[200:-200], atol=2e-4)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(44_100, 16_000), (16_000, 44_100)])
def test_the_filter_is_kaiser_best(from_hz, to_hz):
    """Output samples as sums over the window that is written out here: 64 zeros, roll-off and beta as published."""
    x = np.random.default_rng(0).standard_normal(6000)
    scale = min(1.0, to_hz / from_hz) * 0.9475937167399596
    for j in (1003, 1500):
        u = scale * (np.arange(6000) - j * from_hz / to_hz)
        window = np.i0(14.769656459379492 * np.sqrt(np.clip(1 - (u / 64) ** 2, 0, None))) / np.i0(14.769656459379492)
        expected = np.sum(x * scale * np.sinc(u) * np.where(np.abs(u) < 64, window, 0.0))
        assert kaiser_best(x, from_hz, to_hz)[j] == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (np.zeros(30_000), "silent"),
        (np.full(30_000, 9e-7), "silent"),
        (np.ones(9_999), "too short: 5.00 s"),
        (np.where(np.arange(30_000) == 5, np.nan, 0.1), "1 of 30000 samples are not finite"),
    ],
)
def test_what_is_no_recording_is_refused(audio, words):
    with pytest.raises(ValueError, match=words):
        cut_segments(audio.astype(np.float32), 2000, 2000, 20_000)
    assert level_peak(np.array([0.0, 1.1e-6])).max() == pytest.approx(0.95)


def test_rates_without_a_common_divisor_are_refused():
    with pytest.raises(ValueError, match="44101 Hz cannot be resampled to 16000 Hz"):
        kaiser_best(np.ones(10), 44_101, 16_000)


def test_the_split_is_python_s_shuffle_with_seed_42():
    ids = [f"t{n}" for n in range(230)]
    expected = list(ids)
    random.seed(42)
    random.shuffle(expected)
    assert choose_split(ids, "test") == expected[:100]
    assert choose_split(ids, "validation") == expected[100:200]
    assert choose_split(ids, "train") == expected[200:] and len(choose_split(ids, "train")) == 30
    assert choose_split(ids, "all") == ids


@pytest.mark.parametrize(("count", "split", "needed"), [(200, "train", 201), (199, "validation", 200), (99, "test", 100)])  # fmt: skip  # noqa: E501
def test_too_few_for_a_split_names_both_numbers(count, split, needed):
    with pytest.raises(ValueError, match=f"{count} captions have audio, the split '{split}' needs at least {needed}"):
        choose_split([str(n) for n in range(count)], split)
    assert choose_split([str(n) for n in range(needed)], split)
    with pytest.raises(ValueError, match="split 'dev' is none of train"):
        choose_split([], "dev")
