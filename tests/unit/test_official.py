"""An official stack of tiny sizes: checkpoints in published layouts, loaded by a configuration, sampled, decoded."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rlloop.config import Config, Sampler, build, load
from rlloop.data.features import FeatureFolder, FeatureSpec
from rlloop.models.bigvgan import BigVGAN, BigVGANSpec
from rlloop.models.fluxaudio import FluxAudio, FluxAudioSpec
from rlloop.models.mel import MelSettings
from rlloop.models.official import (
    FLUXAUDIO_L_44K,
    FLUXAUDIO_S_16K,
    FLUXAUDIO_S_44K,
    MODES,
    Mode,
    official_generator,
)
from rlloop.models.policy import GeneratorSpec, SamplingSettings, build_autoencoder
from rlloop.preflight import check_features, check_targets
from rlloop.recipes.build import build_generator, place_generator
from rlloop.recipes.sampler import Sampler as SamplerRole
from rlloop.recipes.sampler import network_arrays
from tests.golden.cases import fill, published

PROMPTS = ["good a calm piano", "good loud drums", "noise"]
NETWORK = FluxAudioSpec(
    num_heads=2, head_dim=8, depth=3, fused_depth=1, mlp_ratio=24.0, latent_dim=4, latent_seq_len=10, text_dim=6,
    text_c_dim=5, text_seq_len=7, io_kernel=3, score_variant="v1",
)  # fmt: skip
TINY = Mode(
    "tiny",
    GeneratorSpec(
        NETWORK,
        MelSettings(16_000, 64, 16, 6, 0.0, 8_000.0, "e"),
        8,
        autoencoder_multipliers=(1, 1),
        clip_seconds=0.025,
    ),
    BigVGANSpec(6, (4, 4), (8, 8), "clamp", initial_channels=8, block_kernels=(3,), dilations=(1, 3)),
)
SAMPLING = {
    "num_steps": 3, "guidance": 4.0, "score": 5.0, "prompt_prefix": "good ", "negative_prompt": "noise",
}  # fmt: skip


def write_stack(folder: Path, mode: Mode = TINY) -> dict[str, str]:
    """The files of a stack and its prompt features; their paths as options."""
    network = fill(FluxAudio(mode.spec.network))
    torch.save(network.state_dict(), folder / "network.pth")
    torch.save(fill(build_autoencoder(mode.spec)).state_dict(), folder / "vae.pth")
    torch.save({"generator": fill(BigVGAN(mode.vocoder)).state_dict()}, folder / "vocoder.pt")
    n = np.random.default_rng(0)
    text = n.standard_normal((len(PROMPTS), 7, 6), dtype=np.float32)
    text_c = n.standard_normal((len(PROMPTS), 5), dtype=np.float32)
    FeatureFolder(folder / "features", FeatureSpec("t5", "clap")).write(PROMPTS, text, text_c)
    files = {"network": "network.pth", "autoencoder": "vae.pth", "vocoder": "vocoder.pt", "prompts": "features"}
    return {name: str(folder / file) for name, file in files.items()}


@pytest.fixture
def options(tmp_path) -> dict[str, str]:
    return write_stack(tmp_path)


def config(options: dict, **sections) -> Config:
    return build({"generator": {"target": "fluxaudio", "options": {"mode": TINY, **options}}, **sections})


def test_a_configuration_builds_samples_and_decodes(options):
    generator = build_generator(config(options, sampling=SAMPLING))
    settings = SamplingSettings(**SAMPLING)
    latents = generator.sample_latents(["a calm piano", "loud drums"], [1, 2], settings)
    audio = generator.decode(latents)
    assert latents.shape == (2, 10, 4) and generator.sample_rate_hz == 16_000
    assert audio.shape == (2, 400) and not audio[:, 320:].any() and audio[:, :320].any(dim=1).all()
    assert (audio - generator.decode(latents[1:])).abs()[1].max() < 1e-4
    with pytest.raises(ValueError, match="no features of the prompt 'good a choir'"):
        generator.sample_latents(["a choir"], [1], settings)


def test_a_sampler_takes_float32_weights_into_its_bfloat16_copy(options):
    """The trained network is float32 whatever the sampler's copy is."""
    settings = config(options, sampling=SAMPLING)
    placed = settings.model_copy(update={"generator": settings.generator.model_copy(update={"dtype": "bfloat16"})})
    arrays = network_arrays(build_generator(placed).network)
    assert {array.dtype for array in arrays.values()} == {np.dtype("float32")}
    found = {}
    for name, chosen in (("float32", settings), ("bfloat16", placed)):
        sampler = SamplerRole(chosen, Sampler(threads=torch.get_num_threads()))
        sampler.load(arrays, version=3)
        found[name] = sampler.sample(["a calm piano"], [1], chosen.sampling)
    assert sampler.generator.network.fused_blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    exact, rough = (found[name].latents.astype(np.float32) for name in ("float32", "bfloat16"))
    assert 0 < np.abs(exact - rough).max() < 0.1 * np.abs(exact).max()
    assert found["bfloat16"].audio.dtype == np.float32 and found["bfloat16"].latents.dtype == np.float16


def test_variant_and_crossover_are_options(options, tmp_path):
    """v1 and v2 share their keys, so one file serves both; with itself as second network nothing changes."""
    settings = SamplingSettings(**SAMPLING)
    v1, v2, both = (
        official_generator(**options, mode=TINY, device="cpu", **more).sample_latents(["loud drums"], [1], chosen)
        for more, chosen in (
            ({"variant": "v1"}, settings),
            ({"variant": "v2"}, settings),
            ({"variant": "v2", "crossover": options["network"]}, replace(settings, crossover_t=0.5)),
        )
    )
    assert (v1 - v2).abs().max() > 1e-3 and torch.equal(v2, both)


def test_a_network_without_score_says_so(options, tmp_path):
    plain = fill(FluxAudio(replace(NETWORK, score_variant=None)))
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    generator = official_generator(**{**options, "network": str(tmp_path / "plain.pth")}, mode=TINY, device="cpu")
    with pytest.raises(ValueError, match="score is 5.0, but the network takes none; set it to null"):
        generator.sample_latents(["loud drums"], [1], SamplingSettings(**SAMPLING))
    assert generator.sample_latents(["good loud drums"], [1], SamplingSettings(num_steps=1, score=None)).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocodr": "x"}, "options.vocodr is unknown; 'fluxaudio' takes network, autoencoder, vocoder, prompts, mode"),
        ({"vocoder": None}, "options.vocoder is missing; 'fluxaudio' takes network"),
        ({"dtype": "bfloat16"}, "options.dtype is a setting of the sampler's copy alone: set generator.dtype"),
        ({"mode": "48k"}, "mode '48k' is not one of 16k, 44k"),
        ({"network": "fluxaudio_m"}, "fluxaudio_m is neither an existing path nor a known name"),
        ({"prompts": "nowhere"}, "no prompt features there"),
    ],
)
def test_wrong_options_are_one_line(options, change, message):
    wanted = {key: value for key, value in {**options, **change}.items() if value is not None}
    with pytest.raises(ValueError) as caught:
        build_generator(config(wanted))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_options_are_checked_before_anything_starts(options):
    check_targets(config(options))
    with pytest.raises(ValueError, match="options.autoencoder is missing"):
        check_targets(config({key: value for key, value in options.items() if key != "autoencoder"}))


def test_prompts_without_features_are_refused_before_a_run(options):
    """Sampling looks up the prefixed prompt, training the prompt itself, and the negative prompt has features too."""
    settings = config(options, sampling=SAMPLING)
    check_features(settings, [], ["noise"])
    with pytest.raises(ValueError, match=r"lacks features of 2 of 4 prompts, the first is 'a calm piano'"):
        check_features(settings, ["a calm piano"], ["noise", "a choir"])


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "network",
            {"network": replace(NETWORK, latent_dim=20)},
            r"this network is of 16k \(20 latent channels\), but",
        ),
        (
            "autoencoder",
            {"mel": replace(TINY.spec.mel, num_mels=80)},
            r"this autoencoder is of 16k \(80 mel bands\), but",
        ),
        ("vocoder", {}, r"this vocoder is of 44k \(128 mel bands\), but"),
    ],
)
def test_parts_of_different_rates_are_refused(options, tmp_path, part, change, message):
    """Both rates and the file in one line."""
    other = Mode("other", replace(TINY.spec, **change), replace(TINY.vocoder, num_mels=128))
    (tmp_path / "other").mkdir()
    wrong = write_stack(tmp_path / "other", other)[part]
    with pytest.raises(ValueError, match=f"{message} mode tiny has") as caught:
        build_generator(config({**options, part: wrong}))
    assert wrong in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "key"),
    [("vae.pth", "decoder.conv_in.weight"), ("vocoder.pt", "conv_post"), ("network.pth", "final_layer")],
)
def test_a_damaged_part_names_its_file_and_key(options, tmp_path, name, key):
    state = torch.load(tmp_path / name)
    inner = state.get("generator", state)
    spoiled = next(k for k in inner if k.startswith(key))
    inner[spoiled] = inner[spoiled] * torch.nan
    torch.save(state, tmp_path / name)
    with pytest.raises(ValueError, match="not finite") as caught:
        build_generator(config(options))
    assert name in str(caught.value) and spoiled in str(caught.value)


def test_published_sizes():
    """Keys and shapes of the parts are the published ones; a clip has ten seconds at either rate."""
    for name, mode in MODES.items():
        with torch.device("meta"):
            parts = {f"fluxaudio_s_{name}": FluxAudio(mode.spec.network), f"vae_{name}": build_autoencoder(mode.spec)}
        for file, module in parts.items():
            assert {key: str(tuple(value.shape)) for key, value in module.state_dict().items()} == published(file)
        frames = 2 * mode.spec.network.latent_seq_len
        assert mode.vocoder.hop == mode.spec.mel.hop and mode.vocoder.num_mels == mode.spec.mel.num_mels
        assert 0 < mode.spec.clip_samples - frames * mode.vocoder.hop < mode.spec.mel.hop * 2
    assert FLUXAUDIO_S_44K.clip_samples == 441_000 and FLUXAUDIO_S_16K.clip_samples == 160_000
    assert FLUXAUDIO_L_44K.network.hidden == 896


class Plain:
    """A generator of someone's own without a place method."""


def test_a_generator_that_cannot_be_placed():
    plain, role = Plain(), Sampler()
    assert place_generator(plain, load("mini"), role) is plain
    with pytest.raises(ValueError, match="generator.compile is True, but 'mini' has no place"):
        place_generator(plain, load("mini", ["generator.compile=true"]), role)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sampling.guidance_interval=[0.5, 0.2]"], "guidance_interval is [0.5, 0.2]; expected 0 <= low < high <= 1"),
        (["sampling.crossover_t=0.5"], "sampling.crossover_t is 0.5, but generator.options has no crossover"),
        (["generator.options={crossover: a.pt}"], "generator.options.crossover is a.pt, but no sampling.crossover_t"),
        (["generator.dtype=float16"], "generator.dtype: Input should be 'float32' or 'bfloat16'"),
    ],
)
def test_settings_that_contradict_each_other_are_one_line(overrides, message):
    with pytest.raises(ValueError) as caught:
        load("mini", overrides)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_where_a_sampler_computes_does_not_make_another_run():
    base = load("mini")
    assert load("mini", ["generator.compile=true", "generator.device=cpu"]).digest() == base.digest()
    assert load("mini", ["generator.dtype=bfloat16"]).digest() != base.digest()
