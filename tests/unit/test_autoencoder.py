"""The autoencoder against the reference implementation on drawn weights (reference.md section 5.2), and identities."""

import pytest
import torch

from rlloop.models.autoencoder import Autoencoder, MPConv1d, mix, pixel_norm
from tests.golden.cases import arrays, drawn_inputs, fill

SIZES = {"16k": (80, 20, 384), "44k": (128, 40, 512)}


@pytest.mark.parametrize("mode", SIZES)
def test_agrees_with_the_reference(mode):
    case, autoencoder = f"vae_{mode}_0", fill(Autoencoder(*SIZES[mode]))
    inputs, expected = drawn_inputs(case), arrays(case)
    with torch.inference_mode():
        mean, std = autoencoder.encode(inputs["mel"])
        decoded = autoencoder.decode(inputs["z"])
    for name, found in {"mean": mean, "std": std, "decoded": decoded}.items():
        assert found.shape == expected[name].shape
        assert (found - expected[name]).abs().max() < 1e-4 * expected[name].abs().max(), name


def test_saving_and_loading_does_not_normalise_twice():
    first = fill(Autoencoder(8, 4, 16))
    second = Autoencoder(8, 4, 16)
    second.load_state_dict(first.state_dict())
    mel = torch.randn(1, 8, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first.encode(mel)[0], second.encode(mel)[0])


def test_convolution_ignores_the_scale_of_its_weights():
    conv = MPConv1d(6, 5, 3)
    x = torch.randn(2, 6, 9)
    before = conv(x)
    conv.weight.data *= 100
    assert torch.allclose(conv(x), before, atol=1e-3)


def test_magnitudes_are_kept():
    x, y = torch.randn(4, 4096), torch.randn(4, 4096)
    assert torch.allclose(pixel_norm(3 * x).square().mean(1), torch.ones(4), atol=1e-3)
    assert abs(mix(x, y).std() - 1) < 0.05


def test_odd_last_frame_is_dropped():
    mean, _ = Autoencoder(8, 4, 16, (1, 1)).encode(torch.zeros(1, 8, 13))
    assert mean.shape == (1, 4, 6)


def test_one_level_is_refused():
    with pytest.raises(ValueError, match="two levels"):
        Autoencoder(8, 4, 16, (1,))
