"""FluxAudio against the reference implementation on drawn weights (reference.md section 2)."""

from dataclasses import replace

import pytest
import torch

from rlloop.flow.guidance import joint_guidance
from rlloop.flow.solver import euler
from rlloop.models.fluxaudio import (
    FLUXAUDIO_L_16K,
    FLUXAUDIO_S_16K,
    FLUXAUDIO_S_44K,
    Conditions,
    FluxAudio,
    FluxAudioSpec,
)
from tests.golden.cases import FOLDER, arrays, case, drawn_inputs, fill

SPECS = {"16k": FLUXAUDIO_S_16K, "44k": FLUXAUDIO_S_44K}
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


def test_published_parameter_counts():
    """Section 2.1; on the meta device, so nothing is allocated."""
    counts = {}
    for name, spec in {"S 16k": FLUXAUDIO_S_16K, "S 44k": FLUXAUDIO_S_44K, "L 16k": FLUXAUDIO_L_16K}.items():
        with torch.device("meta"):
            network = FluxAudio(spec)
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        counts[name] = trained, sum(value.numel() for value in network.state_dict().values())
    assert counts == {
        "S 16k": (120_106_388, 120_185_788),
        "S 44k": (120_231_848, 120_311_288),
        "L 16k": (478_417_684, 478_497_084),
    }


def test_the_time_embedding_has_float32_phases_in_bfloat16():
    embed = FluxAudio(SMALL).t_embed
    t = torch.tensor([0.1234567, 0.9])
    exact = embed(t)
    rounded = embed.to(torch.bfloat16)(t)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().max() < 0.02 * exact.abs().max()


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
