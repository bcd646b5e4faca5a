"""Published layouts in and out: what is mapped, what is refused, and that an export gives back every bit."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from rlloop.models.checkpoint import export_state, load_network
from rlloop.models.fluxaudio import FLUXAUDIO_S_44K, FluxAudio, FluxAudioSpec
from rlloop.models.latent_statistics import published_statistics
from rlloop.models.policy import ASSETS, MINI, mini_generator
from rlloop.models.score_conditioning import timestep_frequencies
from rlloop.models.score_path import find_score_path
from tests.golden.cases import fill

TINY = FluxAudioSpec(
    num_heads=2, head_dim=8, depth=3, fused_depth=1, latent_dim=20, latent_seq_len=312, text_dim=6, text_c_dim=6,
    text_seq_len=7, score_variant="v2", score_width=16,
)  # fmt: skip
LARGER = replace(TINY, num_heads=4, score_width=32)
NAMES = {  # ours -> as somebody else might call it
    "score_embed.mlp.0.weight": "reward_encoder.fc_in.weight",
    "score_embed.mlp.0.bias": "reward_encoder.fc_in.bias",
    "score_embed.mlp.2.weight": "reward_encoder.fc_out.weight",
    "score_embed.mlp.2.bias": "reward_encoder.fc_out.bias",
    "score_embed.projector.0.weight": "token.proj.0.weight",
    "score_embed.projector.0.bias": "token.proj.0.bias",
    "score_embed.projector.2.weight": "token.proj.2.weight",
    "score_embed.projector.2.bias": "token.proj.2.bias",
    "score_embed.null": "null_token",
    "score_embed.fourier.B": "rff",
}


def state_of(spec: FluxAudioSpec = TINY, **changes) -> dict[str, torch.Tensor]:
    """Drawn weights of a network under the names of somebody else; changes are by key, None removes one."""
    state = {NAMES.get(key, key): value for key, value in fill(FluxAudio(spec)).state_dict().items()}
    return {key: value for key, value in {**state, **changes}.items() if value is not None}


def load(tmp_path, state, **arguments):
    torch.save(state, tmp_path / "network.pth")
    return load_network(tmp_path / "network.pth", **arguments)


def refused(tmp_path, state, **arguments) -> str:
    with pytest.raises(ValueError) as caught:
        load(tmp_path, state, **arguments)
    text = str(caught.value)
    assert str(tmp_path / "network.pth") in text and "\n" not in text
    return text


def velocity(network: FluxAudio) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x, text, text_c = (torch.randn(shape, generator=generator) for shape in ((2, 9, 20), (2, 7, 6), (2, 6)))
    with torch.no_grad():
        return network(x, torch.tensor([0.2, 0.8]), {"text": text, "text_c": text_c}, torch.tensor([1.5, torch.nan]))


LAYOUTS = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "module": lambda s: {f"module.{key}": value for key, value in s.items()},
    "compiled in a wrapper": lambda s: {"state_dict": {f"module._orig_mod.{k}": v for k, v in s.items()}},
    "ema": lambda s: {
        "_extra_state": {"initted": torch.tensor(True), "step": torch.tensor(7)},
        **{f"ema_model.{key}": value for key, value in s.items()},
    },
    "training checkpoint": lambda s: {
        "it": 5000,
        "weights": s,
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        "scheduler": {"last_epoch": 3},
        "ema": {f"ema_models.0.ema_model.{key}": torch.zeros_like(value) for key, value in s.items()},
    },
    "old": lambda s: {
        **s,
        "t_embed.freqs": torch.zeros(128),
        "latent_rot": torch.zeros(1, 312, 4, 2, 2),
        "text_rot": torch.zeros(1, 7, 4, 2, 2),
        "empty_string_feat": s["empty_string_feat"][None],
        "empty_string_feat_c": s["empty_string_feat_c"][None],
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spec", [None, TINY], ids=["derived", "given"])
def test_layouts(layout, spec, tmp_path):
    state = state_of()
    network, report = load(tmp_path, LAYOUTS[layout](state), spec=spec)
    assert network.spec == report.spec == TINY
    assert torch.equal(velocity(network), velocity(fill(FluxAudio(TINY))))
    assert report.mapped == {theirs: ours for ours, theirs in zip(network.state_dict(), state, strict=True)}
    exported = export_state(network, report)
    expected = LAYOUTS["old"](state) if layout == "old" else state
    assert exported.keys() == state.keys()
    assert all(torch.equal(exported[key], expected[key]) for key in exported)
    assert report.missing == {}
    recomputed = ("t_embed.freqs", "latent_rot", "text_rot")
    assert report.extra == {"old": recomputed, "ema": ("_extra_state",)}.get(layout, ())


def test_trained_and_frozen_parameters_are_copies_of_the_file(tmp_path):
    network, _ = load(tmp_path, state_of())
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"latent_mean", "latent_std", "empty_string_feat", "empty_string_feat_c"}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    again, _ = load_network(tmp_path / "network.pth")
    assert torch.equal(again.latent_std.flatten(), state_of()["latent_std"].flatten())


def test_the_missing_pooled_feature_of_old_files_is_the_mean(tmp_path):
    state = state_of(empty_string_feat_c=None)
    network, report = load(tmp_path, state)
    assert torch.allclose(network.empty_string_feat_c, state["empty_string_feat"].mean(dim=0), atol=1e-7)
    assert list(report.missing) == ["empty_string_feat_c"] and "mean" in "\n".join(report.describe())
    other = state_of(replace(TINY, text_c_dim=5), empty_string_feat_c=None)
    assert "empty_string_feat_c is missing" in refused(tmp_path, other)


PATHS = {
    "v1": {"score_variant": "v1"},
    "v3": {"score_variant": "v3"},
    "v5": {"score_variant": "v5"},
    "zeros": {"score_null": "zeros"},
    "gaussian": {"score_fourier": "gaussian", "score_features": 128, "score_width": 24},
    "wide": {"score_features": 512, "score_width": 64},
    "square": {"score_features": 16, "score_width": 16},
}


@pytest.mark.parametrize("choice", PATHS)
def test_score_paths_are_found_by_shape(choice, tmp_path):
    """The projector and the frequencies too, under names that say nothing; and all of it goes back."""
    spec = replace(TINY, **PATHS[choice])
    state = state_of(spec)
    network, report = load(tmp_path, state, variant=spec.score_variant)
    assert network.spec == spec
    assert torch.equal(velocity(network), velocity(fill(FluxAudio(spec))))
    exported = export_state(network, report)
    assert exported.keys() == state.keys() and all(torch.equal(exported[key], state[key]) for key in state)
    assert list(report.missing) == (["score_embed.null"] if choice == "zeros" else [])
    assert "  reward_encoder.fc_in.weight -> score_embed.mlp.0.weight" in report.describe()


def test_our_own_names_map_to_themselves(tmp_path):
    spec = replace(TINY, score_variant="v3", score_fourier="gaussian")
    state = fill(FluxAudio(spec)).state_dict()
    network, report = load(tmp_path, state, variant="v3")
    assert report.mapped == {key: key for key in state} and network.spec == spec


def test_shapes_of_the_file_return_in_the_export(tmp_path):
    spec = replace(TINY, score_fourier="gaussian")
    state = state_of(spec)
    state |= {"null_token": state["null_token"][None], "rff": state["rff"][:, None]}
    network, report = load(tmp_path, state)
    assert network.score_embed.null.shape == (16,) and network.score_embed.fourier.B.shape == (128,)
    exported = export_state(network, report)
    assert all(torch.equal(exported[key], state[key]) for key in state)


def test_stored_fixed_frequencies_are_the_timestep_embedding(tmp_path):
    state = state_of(**{"reward_encoder.freqs": timestep_frequencies(256)})
    network, report = load(tmp_path, state)
    assert network.spec == TINY and report.extra == ()
    assert torch.equal(export_state(network, report)["reward_encoder.freqs"], timestep_frequencies(256))


def test_a_null_of_one_number_is_a_score(tmp_path):
    state = state_of(null_token=torch.tensor(-99.0))
    network, report = load(tmp_path, state)
    assert network.spec.score_null == -99.0
    embed = network.score_embed
    assert torch.equal(embed(torch.tensor([torch.nan])), embed(torch.tensor([-99.0])))
    assert torch.equal(export_state(network, report)["null_token"], torch.tensor(-99.0))
    asked, _ = load(tmp_path, state_of(null_token=None), spec=replace(TINY, score_null=-5.0))
    assert asked.spec.score_null == -5.0


def test_names_decide_where_shapes_do_not():
    """H = D: both biases and the null vector are [16]; and neither order of keys nor numbering from zero matters."""
    shapes = {"z.b2": (16,), "z.w10": (16, 16), "z.w2": (16, 16), "z.b10": (16,), "z.nil": (16,)}
    found = find_score_path({key: torch.zeros(shape) for key, shape in shapes.items()}, 16)
    assert found.names == {
        "z.w2": "score_embed.mlp.0.weight",
        "z.b2": "score_embed.mlp.0.bias",
        "z.w10": "score_embed.mlp.2.weight",
        "z.b10": "score_embed.mlp.2.bias",
        "z.nil": "score_embed.null",
    }


def test_unrelated_tensors_are_listed_as_extra(tmp_path):
    unrelated = {
        "ranker.weight": torch.zeros(3, 5),
        "num_updates": torch.tensor(4),
        "null_score_prob": torch.tensor(0.1),
    }
    network, report = load(tmp_path, state_of(**unrelated))
    assert report.extra == tuple(unrelated) and network.spec == TINY
    assert "extra, unused: ranker.weight" in report.describe()


def test_without_a_score_path(tmp_path):
    bare = replace(TINY, score_variant=None)
    network, report = load(tmp_path, state_of(bare))
    assert network.spec.score_variant is None and not hasattr(network, "score_embed")
    assert "no score path is found, but score variant v1" in refused(tmp_path, state_of(bare), variant="v1")
    assert "no score path is found, but score variant v2" in refused(tmp_path, state_of(bare), spec=TINY)


INCOMPLETE = {
    "a layer short": (
        {"reward_encoder.fc_out.weight": None, "reward_encoder.fc_out.bias": None},
        "reward_encoder.fc_in",
    ),
    "no first layer": ({"reward_encoder.fc_in.weight": None}, "reward_encoder.fc_out.weight"),
    "no bias": ({"reward_encoder.fc_in.bias": None, "null_token": None}, "fc_out"),
    "a norm": ({"reward_encoder.norm.weight": torch.ones(16)}, "reward_encoder.norm.weight of shape"),
    "a scale": ({"score_scale": torch.tensor(0.1)}, "score_scale of shape"),
    "a third layer": ({"reward_encoder.fc_more.weight": torch.ones(16, 16)}, "reward_encoder.fc_more.weight"),
    "a gate": ({"score_gate.weight": torch.ones(3, 5)}, "score_gate.weight of shape"),
    "not a number": ({"null_token": torch.full((16,), torch.nan)}, "null_token holds values that are not finite"),
}


@pytest.mark.parametrize("case", INCOMPLETE)
def test_a_score_path_that_would_stay_unloaded_is_refused(case, tmp_path):
    changes, named = INCOMPLETE[case]
    assert named in refused(tmp_path, state_of(**changes))


def test_a_score_path_must_fit_the_variant(tmp_path):
    token = state_of(replace(TINY, score_variant="v5"))
    assert "would stay unloaded; pass variant v3 or v5" in refused(tmp_path, token)
    assert "with a projector, which is not v2; pass variant v3 or v5" in refused(tmp_path, token, variant="v2")
    assert "without a projector, which is not v3; pass variant v1 or v2 or v4" in refused(
        tmp_path, state_of(), variant="v3"
    )
    bare = replace(TINY, score_variant=None)
    assert "would stay unloaded; pass variant v1, v2 or v4" in refused(tmp_path, state_of(), spec=bare)
    gaussian = replace(TINY, score_fourier="gaussian")
    assert "no Gaussian Fourier frequencies" in refused(tmp_path, state_of(), spec=gaussian)


def test_an_embedding_that_does_not_depend_on_the_score(tmp_path):
    zero = {"reward_encoder.fc_out.weight": torch.zeros(16, 16)}
    _, report = load(tmp_path, state_of(**zero))
    assert any("not trained" in line for line in report.warnings)
    dead = {"reward_encoder.fc_in.weight": torch.zeros(16, 256)}
    assert "the same embedding" in refused(tmp_path, state_of(**dead))


WRONG_FILES = {
    "autoencoder": ({"data_mean": torch.zeros(1, 80, 1)}, "data_mean shows the mel autoencoder"),
    "vocoder": ({"generator": {"conv_pre.bias": torch.zeros(3)}}, "generator shows a vocoder"),
    "tunejury": ({"net.0.weight": torch.zeros(3, 5)}, "net.0.weight shows a TuneJury head"),
    "old tunejury": ({"state_dict": {"score.0.weight": torch.zeros(3, 5)}}, "score.0.weight shows a TuneJury head"),
    "clap": ({"state_dict": {"module.audio_branch.x": torch.zeros(1)}}, "audio_branch.x shows a CLAP model"),
    "meanaudio": (
        state_of(**{"r_embed.mlp.0.weight": torch.zeros(16, 256)}),
        "r_embed.mlp.0.weight shows a MeanAudio network",
    ),
    "ema bundle": ({"ema_models.0.ema_model.x": torch.zeros(1)}, "EMA part of a training checkpoint"),
    "something": ({"x": torch.zeros(1)}, "audio_input_proj.0.weight is missing"),
    "nothing": ({}, "its first key is nothing"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_other_files_are_named(name, tmp_path):
    content, message = WRONG_FILES[name]
    assert message in refused(tmp_path, content)


def test_wrong_sizes(tmp_path):
    line = refused(tmp_path, state_of(LARGER), spec=TINY)
    assert "audio_input_proj.0.weight has shape (32, 20, 7), expected (16, 20, 7)" in line
    assert "looks like a network at 16 kHz (width 32" in line and "expected a network at 16 kHz (width 16" in line
    line = refused(tmp_path, state_of(), spec=replace(TINY, latent_dim=40, latent_seq_len=430))
    assert "latent_mean has shape (1, 1, 20), expected (1, 1, 40)" in line and "expected a network at 44.1 kHz" in line
    line = refused(tmp_path, state_of(replace(TINY, fused_depth=0)), spec=TINY)
    assert "joint_blocks.1.text_block" in line and "(width 16, 3 joint and 0 fused" in line
    one_less = {f"final_layer.conv.{kind}": None for kind in ("weight", "bias")}
    assert "final_layer.conv.weight is missing" in refused(tmp_path, state_of(**one_less))
    odd = {"joint_blocks.0.extra": torch.zeros(2)}
    assert "joint_blocks.0.extra of shape (2,)" in refused(tmp_path, state_of(**odd))


def test_damaged_files(tmp_path):
    bad = state_of()
    bad["fused_blocks.0.linear1.weight"][0, 0, 0] = torch.inf
    assert "fused_blocks.0.linear1.weight holds values that are not finite" in refused(tmp_path, bad)
    torch.save(state_of(), tmp_path / "network.pth")
    content = (tmp_path / "network.pth").read_bytes()
    (tmp_path / "network.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="network.pth is truncated"):
        load_network(tmp_path / "network.pth")
    with pytest.raises(ValueError, match="nowhere.pth is missing"):
        load_network(tmp_path / "nowhere.pth")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("latent_std", 0.0, "latent_std has 0 for a channel, expected positive"),
        ("latent_std", -1.0, "latent_std has -1 for a channel"),
        ("latent_std", torch.nan, "latent_std holds values that are not finite"),
        ("latent_mean", 1e6, "latent_mean reaches 1e"),
    ],
)
def test_statistics_that_cannot_be_right(key, value, message, tmp_path):
    state = state_of()
    state[key][..., 3] = value
    assert message in refused(tmp_path, state)


def test_statistics_that_are_not_the_published_ones_are_told(tmp_path):
    _, report = load(tmp_path, state_of())
    assert [line.split()[0] for line in report.warnings] == ["latent_mean", "latent_std"]
    assert "published one of 16 kHz" in report.warnings[0]
    _, report = load(tmp_path, state_of(**published_statistics(20)))
    assert report.warnings == ()
    with pytest.raises(ValueError, match="have 32 channels"):
        published_statistics(32)


def test_the_shipped_network(tmp_path):
    """float16, of no published rate: its length must be given, or come from its specification."""
    path = ASSETS / "fluxaudio.safetensors"
    with pytest.raises(ValueError, match="pass latent_seq_len"):
        load_network(path)
    network, report = load_network(path, variant="v1", latent_seq_len=156)
    assert replace(network.spec, score_width=None) == MINI.network and report.missing == {}
    shipped = mini_generator("words").network.state_dict()
    assert all(torch.equal(value, shipped[key]) for key, value in network.state_dict().items())
    again, _ = load_network(path, MINI.network)
    assert again.spec == network.spec


def test_official_size(tmp_path):
    """All 198 keys and a score path in safetensors; no weight is drawn, so it is quick."""
    scored = replace(FLUXAUDIO_S_44K, score_variant="v2", score_width=448)
    with torch.device("meta"):
        shapes = FluxAudio(scored).state_dict()
    ramp = torch.linspace(-0.1, 0.1, 997)
    state = {
        NAMES.get(key, key): ramp.repeat(-(-value.numel() // 997))[: value.numel()].reshape(value.shape)
        for key, value in shapes.items()
    } | published_statistics(40)
    save_file(state, tmp_path / "network.safetensors")
    network, report = load_network(tmp_path / "network.safetensors")
    assert network.spec == scored and report.extra == () and report.warnings == ()
    assert len(report.mapped) == 198 + 5
    extra = sum(p.numel() for p in network.score_embed.parameters())
    assert extra == 316_288 + 448
    exported = export_state(network, report)
    assert all(torch.equal(exported[key], value) for key, value in state.items())
