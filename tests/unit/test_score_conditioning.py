"""The five score variants, both Fourier choices and the null score (reference.md section 4)."""

import math
from dataclasses import replace

import pytest
import torch

from rlloop.models.fluxaudio import FluxAudio, FluxAudioSpec, with_variant
from rlloop.models.policy import ASSETS, MINI
from rlloop.models.score_conditioning import VARIANTS, ScoreEmbedder, fourier_features, score_variant
from rlloop.weights import load_safetensors
from tests.golden.cases import fill

SMALL = FluxAudioSpec(
    num_heads=2, head_dim=8, depth=3, fused_depth=1, latent_dim=4, latent_seq_len=10, text_dim=6, text_c_dim=5,
    text_seq_len=7, io_kernel=3, score_variant="v1",
)  # fmt: skip
ADDITIVE, TOKENS = ("v1", "v2", "v4"), ("v3", "v5")
CHOICES = {
    "timestep": {},
    "gaussian": {"score_fourier": "gaussian", "score_features": 32, "score_width": 24},
    "zeros": {"score_null": "zeros"},
    "sentinel": {"score_null": -10.0},
}


def network_of(variant, **settings) -> FluxAudio:
    return fill(FluxAudio(replace(SMALL, score_variant=variant, **settings)))


def call(network, score=None, size=3, rows=slice(None), dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(size, 10, 4, generator=generator), torch.rand(size, generator=generator)
    text, text_c = torch.randn(size, 7, 6, generator=generator), torch.randn(size, 5, generator=generator)
    cond = {"text": text[rows].to(dtype), "text_c": text_c[rows].to(dtype)}
    with torch.no_grad():
        return network(x[rows].to(dtype), t[rows], cond, score)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_score_moves_the_velocity_and_nan_is_no_score(variant, choice):
    network = network_of(variant, **CHOICES[choice])
    low, high = call(network, torch.zeros(3)), call(network, torch.tensor([0.0, 2.0, 0.0]))
    assert torch.allclose(low[0], high[0], atol=1e-6)
    assert (low[1] - high[1]).abs().max() > 1e-3
    none = call(network)
    assert torch.equal(none, call(network, torch.full((3,), torch.nan)))
    assert torch.equal(none, call(network, network.get_empty_score(3)))
    assert (none - low).abs().max() > 1e-3
    mixed = call(network, torch.tensor([torch.nan, 2.0, torch.nan]))
    assert torch.allclose(mixed[0], none[0], atol=1e-6) and torch.allclose(mixed[1], high[1], atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_clip_does_not_depend_on_its_batch(variant):
    network, score = network_of(variant), torch.tensor([0.3, torch.nan, -2.0])
    together = call(network, score)
    for row in range(3):
        rows = slice(row, row + 1)
        alone = call(network, score[rows], rows=rows)
        assert (alone - together[rows]).abs().max() < 1e-5 * together.abs().max()
    assert call(network, score[:0], rows=slice(0)).shape == (0, 10, 4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_at_its_initialisation_a_score_changes_nothing(variant):
    """The base weights are drawn, so that the output is not zero; the score path is as it is built."""
    start = FluxAudio(replace(SMALL, score_variant=variant))
    network = network_of(variant)
    network.score_embed.load_state_dict(start.score_embed.state_dict())
    outputs = [call(network, torch.full((3,), s)) for s in (torch.nan, 0.0, 5.0)]
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[1], outputs[2])
    assert outputs[0].abs().max() > 0.1
    if variant in ADDITIVE:
        assert torch.equal(outputs[0], call(fill(FluxAudio(replace(SMALL, score_variant=None)))))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_score_path_learns_from_its_initialisation(variant):
    network = network_of(variant)
    start = FluxAudio(replace(SMALL, score_variant=variant))
    network.score_embed.load_state_dict(start.score_embed.state_dict())
    x, cond = torch.randn(2, 10, 4), {"text": torch.randn(2, 7, 6), "text_c": torch.randn(2, 5)}
    network(x, torch.rand(2), cond, torch.tensor([1.0, torch.nan])).square().sum().backward()
    for name in ("mlp.2.weight", "mlp.2.bias", "null"):
        assert network.score_embed.get_parameter(name).grad.abs().max() > 0, name


@pytest.mark.parametrize(("variant", "audio", "text"), [("v2", 10, 7), ("v3", 11, 7), ("v5", 10, 8)])
def test_a_prepended_token_has_a_position_of_its_own(variant, audio, text):
    """Tokens and rotary tables that reach the blocks are one longer, and the output is as long as the input."""
    network, seen = network_of(variant), []
    network.joint_blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args))
    assert call(network, torch.ones(3)).shape == (3, 10, 4)
    ((x, tokens, _, table, text_table),) = seen
    assert (x.shape[1], tokens.shape[1], table.shape[1], text_table.shape[1]) == (audio, text, audio, text)


def test_v4_says_that_it_is_a_guess():
    assert "GUESS" in VARIANTS["v4"].__doc__


def test_where_each_variant_enters():
    c, x, text, e = torch.zeros(2, 1, 4), torch.zeros(2, 5, 4), torch.zeros(2, 3, 4), torch.ones(2, 4)
    touched = {}
    for name in VARIANTS:
        hooks = score_variant(name)
        after = hooks.condition(c, e), hooks.audio(x, e), hooks.text(text, e)
        touched[name] = [(tuple(a.shape[1:2]), float(a.sum()) / 2) for a in after]
        assert torch.equal(hooks.trim(hooks.audio(x, e)), after[1] if name == "v2" else x)
    assert touched == {
        "v1": [((1,), 4.0), ((5,), 0.0), ((3,), 0.0)],
        "v2": [((1,), 0.0), ((5,), 20.0), ((3,), 0.0)],
        "v3": [((1,), 0.0), ((6,), 4.0), ((3,), 0.0)],
        "v4": [((1,), 0.0), ((5,), 0.0), ((3,), 12.0)],
        "v5": [((1,), 0.0), ((5,), 0.0), ((4,), 4.0)],
    }


def test_cross_loading():
    """v1 weights in a v2 forward pass (section 4.3): the same keys and values, another function, but not at zero."""
    v1 = network_of("v1")
    v2 = with_variant(v1, "v2")
    ours, theirs = v1.state_dict(), v2.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (call(v1, torch.ones(3)) - call(v2, torch.ones(3))).abs().max() > 1e-3
    assert torch.equal(call(v2, torch.ones(3)), call(network_of("v2"), torch.ones(3)))
    v2.score_embed.mlp[2].weight.data.zero_()
    assert v1.score_embed.mlp[2].weight.any(), "a copy"
    for parameter in v1.score_embed.parameters():
        parameter.data.zero_()
    assert torch.equal(call(v1, torch.ones(3)), call(with_variant(v1, "v2"), torch.ones(3)))


def test_cross_loading_keeps_what_is_frozen_and_refuses_other_keys():
    v3 = network_of("v3").eval()
    v5 = with_variant(v3, "v5")
    assert not v5.training and not v5.latent_mean.requires_grad and v5.score_embed.mlp[0].weight.requires_grad
    with pytest.raises(ValueError, match="v3 do not fit v1: only one of the two has score_embed.projector.0.bias"):
        with_variant(v3, "v1")


def test_gaussian_features_and_timestep_features():
    embed = ScoreEmbedder(8, num_features=6, fourier="gaussian")
    embed.fourier.B.copy_(torch.tensor([0.0, 0.25, 1.5]))
    cos, sin = embed.fourier(torch.tensor([1.0])).view(2, 3)
    assert torch.allclose(cos, torch.tensor([1.0, 0.0, -1.0]), atol=1e-6)
    assert torch.allclose(sin, torch.tensor([0.0, 1.0, 0.0]), atol=1e-6)
    fixed = fourier_features(torch.tensor([2.0]), 4)[0]
    assert fixed.tolist() == pytest.approx([math.cos(2), math.cos(0.02), math.sin(2), math.sin(0.02)], abs=1e-6)


def test_the_three_nulls():
    nan, score = torch.tensor([torch.nan]), torch.tensor([-10.0])
    learned, zeros, sentinel = (fill(ScoreEmbedder(8, null=null)) for null in ("learned", "zeros", -10.0))
    assert torch.equal(learned(nan)[0], learned.null)
    assert torch.equal(zeros(nan), torch.zeros(1, 8)) and zeros(score).any()
    assert torch.equal(sentinel(nan), sentinel(score))
    assert zeros.state_dict().keys() == sentinel.state_dict().keys() == learned.state_dict().keys() - {"null"}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_weights_and_autocast(variant, choice):
    network, score = network_of(variant, **CHOICES[choice]), torch.tensor([0.3, torch.nan, 4.0])
    exact = call(network, score)
    with torch.autocast("cpu", torch.bfloat16):
        cast = call(network, score).float()
    low = call(network.to(torch.bfloat16), score, dtype=torch.bfloat16)
    assert low.dtype == torch.bfloat16
    assert (cast - exact).abs().max() < 0.05 * exact.abs().max()
    assert (low.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_frequencies_stay_float32_in_bfloat16():
    embed = ScoreEmbedder(8, fourier="gaussian")
    features = embed.fourier(torch.tensor([5.0]))
    embed.to(torch.bfloat16)
    assert embed.fourier.B.dtype == torch.float32 and torch.equal(embed.fourier(torch.tensor([5.0])), features)


def test_the_shipped_weights_load_bit_for_bit():
    network = FluxAudio(MINI.network)
    stored = load_safetensors(ASSETS / "fluxaudio.safetensors", network.state_dict())
    network.load_state_dict(stored)
    assert {key for key in stored if key.startswith("score")} == {
        f"score_embed.{name}" for name in ("mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias", "null")
    }
    assert all(torch.equal(value, stored[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score_variant": "v9"}, "'v9' is not one of v1, v2, v3, v4, v5"),
        ({"score_fourier": "cosine"}, "score_fourier 'cosine' is not one of timestep, gaussian"),
        ({"score_null": "none"}, "score_null 'none' is not one of learned, zeros, nor a number"),
        ({"score_features": 255}, "score_features 255 is not an even number"),
    ],
)
def test_unknown_choices(settings, message):
    with pytest.raises(ValueError, match=message):
        FluxAudio(replace(SMALL, **settings))
