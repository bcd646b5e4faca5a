"""FluxAudio against the reference implementation on drawn weights (reference.md section 2), and score conditioning."""

from dataclasses import replace

import pytest
import torch

from rlloop.flow.guidance import joint_guidance
from rlloop.flow.solver import euler
from rlloop.models.fluxaudio import Conditions, FluxAudio, FluxAudioSpec
from rlloop.models.score_conditioning import VARIANTS, score_variant
from tests.golden.cases import FOLDER, arrays, case, drawn_inputs, fill

SPECS = {"16k": FluxAudioSpec(latent_dim=20, latent_seq_len=312), "44k": FluxAudioSpec()}
SMALL = FluxAudioSpec(
    num_heads=2, head_dim=8, depth=3, fused_depth=1, latent_dim=4, latent_seq_len=10, text_dim=6, text_c_dim=5,
    text_seq_len=7, io_kernel=3, score_variant="v1",
)  # fmt: skip


@pytest.fixture(scope="module", params=SPECS)
def golden(request) -> tuple[str, FluxAudio]:
    return request.param, fill(FluxAudio(SPECS[request.param]))


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_state_dict_has_the_published_names_and_shapes(golden):
    mode, network = golden
    rows = (FOLDER / f"statedict_fluxaudio_s_{mode}.tsv").read_text(encoding="utf-8").splitlines()
    assert {key: str(tuple(value.shape)) for key, value in network.state_dict().items()} == dict(
        row.split("\t") for row in rows
    )


def test_velocity(golden):
    mode, network = golden
    inputs, expected = drawn_inputs(f"fluxaudio_s_{mode}_forward"), arrays(f"fluxaudio_s_{mode}_forward")
    with torch.inference_mode():
        assert_close(network(inputs["x"], inputs["t"], inputs), expected["velocity"])
        assert_close(network.normalise(inputs["x"])[:, :4], expected["normalized"])
        assert_close(network.unnormalise(inputs["x"])[:, :4], expected["unnormalized"])


def test_euler_with_guidance(golden):
    mode, network = golden
    name = f"fluxaudio_s_{mode}_euler"
    inputs = drawn_inputs(name)
    with torch.inference_mode():
        cond = network.preprocess_conditions(inputs["text"][:1], inputs["text_c"][:1])
        both = Conditions(*map(torch.cat, zip(cond, network.get_empty_conditions(1), strict=True)))
        velocity = joint_guidance(lambda x, t: network.predict_flow(x, t, both), case(name)["cfg"])
        assert_close(euler(velocity, inputs["x0"], case(name)["steps"]), arrays(name)["latents"])


def call(network: FluxAudio, score: torch.Tensor | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 10, 4, generator=generator)
    features = {"text": torch.randn(2, 7, 6, generator=generator), "text_c": torch.randn(2, 5, generator=generator)}
    return network(x, torch.tensor([0.2, 0.8]), features, score)


def test_untrained_network_predicts_zero():
    assert torch.equal(call(FluxAudio(SMALL), torch.zeros(2)), torch.zeros(2, 10, 4))


def test_everything_but_statistics_and_empty_features_is_trained():
    frozen = {name for name, p in FluxAudio(SMALL).named_parameters() if not p.requires_grad}
    assert frozen == {"latent_mean", "latent_std", "empty_string_feat", "empty_string_feat_c"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_score_moves_the_velocity_and_nan_is_no_score(variant):
    network = fill(FluxAudio(replace(SMALL, score_variant=variant)))
    low, high = call(network, torch.zeros(2)), call(network, torch.tensor([0.0, 2.0]))
    assert torch.allclose(low[0], high[0], atol=1e-6)
    assert (low[1] - high[1]).abs().max() > 1e-3
    assert torch.equal(call(network), call(network, torch.full((2,), torch.nan)))
    assert (call(network) - low).abs().max() > 1e-3


def test_variants_share_their_keys():
    """Weights trained as v1 load into a v2 forward pass (section 4.3)."""
    v1, v2 = (FluxAudio(replace(SMALL, score_variant=variant)) for variant in ("v1", "v2"))
    v2.load_state_dict(fill(v1).state_dict())
    assert (call(v1, torch.ones(2)) - call(v2, torch.ones(2))).abs().max() > 1e-3


def test_score_embedding_starts_at_zero_and_learns():
    embed = FluxAudio(SMALL).score_embed
    e = embed(torch.tensor([torch.nan, 1.0]))
    assert torch.equal(e, torch.zeros(2, 16))
    e.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in embed.parameters())


def test_unknown_variant():
    with pytest.raises(ValueError, match="'v9' is not one of v1, v2"):
        score_variant("v9")


def test_rope_can_be_left_out():
    with_rope = fill(FluxAudio(SMALL))
    without = fill(FluxAudio(replace(SMALL, use_rope=False)))
    assert (call(with_rope) - call(without)).abs().max() > 1e-4


def test_negative_features_replace_the_empty_ones():
    network = fill(FluxAudio(SMALL))
    text, text_c = torch.randn(1, 7, 6), torch.randn(1, 5)
    empty, negative = network.get_empty_conditions(3), network.get_empty_conditions(3, (text, text_c))
    assert empty.text.shape == negative.text.shape == (3, 7, 16)
    assert torch.allclose(negative.pooled[2], network.preprocess_conditions(text, text_c).pooled[0], atol=1e-6)
    assert not torch.allclose(negative.pooled, empty.pooled)
