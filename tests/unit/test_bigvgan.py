"""BigVGAN against the reference implementation on drawn weights (reference.md section 5.3) and plain filters."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from rlloop.models.bigvgan import (
    BIGVGAN_16K,
    BIGVGAN_44K,
    AntiAliasedSnake,
    BigVGAN,
    BigVGANSpec,
    half_band_filter,
    load_bigvgan,
)
from tests.golden.cases import arrays, drawn_inputs, fill, published

PUBLISHED = {"bigvgan_16k": BIGVGAN_16K, "bigvgan_v2_44k": BIGVGAN_44K}
SMALL = BigVGANSpec(5, (4, 2), (8, 4), "tanh", initial_channels=16)
SMALL_CLAMPED = replace(SMALL, bound="clamp")


def small(spec: BigVGANSpec = SMALL) -> BigVGAN:
    return fill(BigVGAN(spec))


def mel(batch: int = 1, frames: int = 9) -> torch.Tensor:
    return torch.randn(batch, 5, frames, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", PUBLISHED)
def test_agrees_with_the_reference_before_and_after_folding(name):
    vocoder, expected = fill(BigVGAN(PUBLISHED[name])), arrays(name)["waveform"][:, 0]
    with torch.inference_mode():
        waveform = vocoder(drawn_inputs(name)["mel"])
        folded = vocoder.fold_weight_norm()(drawn_inputs(name)["mel"])
    assert waveform.shape == expected.shape
    assert (waveform - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (folded - waveform).abs().max() < 1e-6


@pytest.mark.parametrize("name", PUBLISHED)
def test_state_dict_has_the_published_names_and_shapes(name):
    with torch.device("meta"):
        state = BigVGAN(PUBLISHED[name]).state_dict()
    assert {key: str(tuple(value.shape)) for key, value in state.items()} == published(name)


def test_filter():
    """Half the weight on even, half on odd samples keeps a constant; the response halves at half the band."""
    taps = half_band_filter()
    assert torch.allclose(taps, taps.flip(0), atol=1e-7)
    assert taps[::2].sum() == pytest.approx(0.5, abs=1e-6)
    turns = torch.exp(-1j * torch.pi * torch.arange(12) / 2)
    assert (taps * turns).sum().abs() == pytest.approx(0.5, abs=5e-3)


def plain_activation(x: torch.Tensor, layer: AntiAliasedSnake) -> torch.Tensor:
    """Zero-stuffing, filter, snake, filter, every second sample: the definition, sample by sample."""
    taps, (channels, length) = half_band_filter(), x.shape[1:]
    padded = F.pad(x, (10, 10), mode="replicate")
    stuffed = torch.stack([2 * padded, torch.zeros_like(padded)], dim=-1).flatten(-2)
    kernel = taps.flip(0).expand(channels, 1, 12)
    u = F.conv1d(F.pad(stuffed, (11, 0)), kernel, groups=channels)[..., 25 : 25 + 2 * length]
    alpha, beta = layer.act.alpha[:, None], layer.act.beta[:, None]
    u = u + (u * alpha.exp()).sin() ** 2 / (beta.exp() + 1e-9)
    return F.conv1d(F.pad(u, (5, 6), mode="replicate"), kernel.flip(-1), groups=channels)[..., ::2]


@pytest.mark.parametrize("shape", [(2, 6, 50), (1, 3, 1), (1, 2, 200_000)])  # the last does not fit a block
def test_activation_is_its_definition(shape):
    layer = fill(AntiAliasedSnake(shape[1]))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(layer(x), plain_activation(x, layer), atol=1e-5)


def test_activation_of_a_constant():
    """Filters of sum 1 pass a constant: x + sin^2(x) at alpha = beta = 0."""
    y = AntiAliasedSnake(1)(torch.full((1, 1, 20), 0.7))
    assert torch.allclose(y, 0.7 + torch.tensor(0.7).sin() ** 2, atol=1e-6)


def test_shapes_and_hop():
    assert (BIGVGAN_16K.hop, BIGVGAN_44K.hop, SMALL.hop) == (256, 512, 8)
    assert small()(mel(2)).shape == (2, 72)


def test_a_clip_alone_and_in_a_batch():
    vocoder, three = small(), mel(3)
    with torch.inference_mode():
        assert torch.allclose(vocoder(three)[1:2], vocoder(three[1:2]), atol=1e-6)


def test_bounds():
    loud = 1e3 * mel()
    assert small(SMALL_CLAMPED)(loud).abs().max() == 1
    assert "conv_post.bias" not in small(SMALL_CLAMPED).state_dict()
    assert "conv_post.bias" in small().state_dict()


def test_gradients_reach_the_mel():
    x = mel().requires_grad_()
    small()(x).square().sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().max() > 0


def legacy(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for new, old in names.items():
        state = {key.replace(new, old): value for key, value in state.items()}
    return state


@pytest.mark.parametrize("form", ["generator", "legacy", "flat"])
def test_loads_published_layouts(form, tmp_path):
    vocoder, path = small(), tmp_path / "vocoder.pt"
    state = vocoder.state_dict()
    if form == "flat":
        save_file(state, path)
    else:
        torch.save({"generator": legacy(state) if form == "legacy" else dict(state)}, path)
    loaded = load_bigvgan(path, SMALL)
    with torch.inference_mode():
        assert torch.allclose(loaded(mel()), vocoder(mel()), atol=1e-6)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


def test_legacy_names_load_through_torch_too():
    vocoder, other = small(), BigVGAN(SMALL).eval()
    other.load_state_dict(legacy(vocoder.state_dict()))
    assert torch.equal(other(mel()), vocoder(mel()))


def broken(state: dict[str, torch.Tensor], key: str, change: str) -> dict[str, torch.Tensor]:
    value = state.pop(key)
    if change == "shape":
        state[key] = value[:-1]
    elif change == "nan":
        state[key] = torch.full_like(value, torch.nan)
    elif change == "shift":
        state[key] = value + 0.1
    return state


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("conv_pre.bias", "missing"),
        ("ups.1.0.parametrizations.weight.original1", "shape"),
        ("resblocks.0.activations.0.act.alpha", "nan"),
        ("activation_post.upsample.filter", "shift"),
    ],
)
def test_wrong_checkpoints_are_refused_by_the_first_key(key, change, tmp_path):
    path = tmp_path / "vocoder.pt"
    torch.save({"generator": broken(dict(small().state_dict()), key, change)}, path)
    with pytest.raises(ValueError) as error:
        load_bigvgan(path, SMALL)
    assert str(path) in str(error.value) and key in str(error.value) and "\n" not in str(error.value)


def test_a_checkpoint_without_a_generator_is_refused(tmp_path):
    path = tmp_path / "vocoder.pt"
    torch.save({"discriminator": {}}, path)
    with pytest.raises(ValueError, match="expected a BigVGAN state dict under 'generator'"):
        load_bigvgan(path, SMALL)
