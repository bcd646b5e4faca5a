"""Log-mels against those of the reference implementation (tests/golden/mel_sub1_0.npz, reference.md section 5.1)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rlloop.models.mel import MEL_16K, MEL_44K, LogMel, mel_filterbank
from rlloop.models.vocoder import FilterbankInverse, MagnitudeNet, MelInversion, peak_phases

GOLDEN = Path(__file__).parents[1] / "golden" / "mel_sub1_0.npz"


@pytest.mark.parametrize(("settings", "name", "stride"), [(MEL_44K, "mel_44k", 1), (MEL_16K, "mel_16k", 3)])
def test_log_mel_agrees_with_the_reference(settings, name, stride):
    golden = np.load(GOLDEN)
    waveform = torch.from_numpy(golden["waveform"].astype(np.float32) / 32768)[None, ::stride]
    expected = torch.from_numpy(golden[name])
    mel = LogMel(settings)(waveform)
    assert mel.shape == expected.shape
    assert (mel - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(("num_samples", "num_frames"), [(80_000, 312), (160_000, 625), (159_744, 624)])
def test_number_of_frames(num_samples, num_frames):
    assert MEL_16K.num_frames(num_samples) == num_frames
    assert LogMel(MEL_16K)(torch.zeros(1, num_samples)).shape == (1, 80, num_frames)


def test_filters_have_unit_area():
    spacing_hz = MEL_44K.sample_rate_hz / MEL_44K.n_fft
    area = mel_filterbank(MEL_44K).sum(dim=1) * spacing_hz
    assert (area[40:] - 1).abs().max() < 0.05  # narrower ones are too coarsely sampled for the sum to be an integral


def tones() -> torch.Tensor:
    t = torch.arange(16_000) / 16_000
    chord = [0.1 * torch.sin(2 * torch.pi * f * t) for f in (220.0, 330.0, 440.0, 1250.0)]
    return torch.stack(chord).sum(0)[None]


def vocoder() -> MelInversion:
    return MelInversion(MEL_16K, FilterbankInverse(MEL_16K))


def test_vocoder_gives_the_mel_back():
    mel = LogMel(MEL_16K)(tones())
    waveform = vocoder()(mel)
    again = LogMel(MEL_16K)(waveform)
    assert waveform.shape == (1, mel.shape[-1] * 256)
    assert ((10.0**again - 10.0**mel).norm() / (10.0**mel).norm()) < 0.25


def test_vocoder_repeats_itself_and_ignores_its_neighbours():
    mel = LogMel(MEL_16K)(torch.cat([tones(), 0.3 * tones().flip(1)]))
    invert = vocoder()
    together = invert(mel)
    assert torch.equal(invert(mel), together)
    assert (invert(mel[1:]) - together[1:]).abs().max() < 1e-4


def test_peak_phases_advance_with_the_tone():
    """A steady peak on bin 32 of 1024 advances by 2 pi 32 * 256 / 1024 a frame: whole turns."""
    magnitude = torch.full((1, 513, 6), 1e-3)
    magnitude[:, 31:34] = torch.tensor([0.5, 1.0, 0.5])[None, :, None]
    phase = peak_phases(magnitude, 1024, 256)[0, 32]
    assert torch.allclose(phase.diff(), torch.full((5,), 2 * torch.pi * 32 * 256 / 1024), atol=1e-4)


def test_untrained_magnitude_net_is_the_inverse():
    mel = LogMel(MEL_16K)(tones())
    plain = FilterbankInverse(MEL_16K, num_updates=0)(mel)
    assert torch.allclose(MagnitudeNet(MEL_16K, 8)(mel), plain.clamp(min=1e-4), rtol=1e-4)
