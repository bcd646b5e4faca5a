"""The generator on a small FluxAudio: seeds, guidance, batches, arithmetic, and weight files that are wrong."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rlloop.config import Sampling
from rlloop.models.fluxaudio import FluxAudio, FluxAudioSpec
from rlloop.models.mel import MelSettings
from rlloop.models.policy import (
    ASSETS,
    FluxAudioGenerator,
    GeneratorSpec,
    SamplingSettings,
    build_autoencoder,
    mini_generator,
)
from rlloop.models.vocoder import FilterbankInverse, MelInversion
from rlloop.recipes.sampler import load_arrays, network_arrays, take_arrays
from rlloop.weights import load_safetensors
from tests.golden.cases import fill

SPEC = GeneratorSpec(
    FluxAudioSpec(
        num_heads=2, head_dim=8, depth=3, fused_depth=1, latent_dim=4, latent_seq_len=10, text_dim=6, text_c_dim=5,
        text_seq_len=7, io_kernel=3, score_variant="v1",
    ),
    MelSettings(16_000, 256, 64, 20, 0.0, 8_000.0, "10"),
    autoencoder_width=8,
    autoencoder_multipliers=(1, 1),
)  # fmt: skip
PROMPTS, SEEDS = ["a calm piano", "loud drums", "a choir"], [3, 4, 2**40]
SHORT = SamplingSettings(num_steps=3)


def encode(prompts: list[str]) -> dict[str, torch.Tensor]:
    """Features that depend on the prompt's own characters only."""
    rows = [torch.Generator().manual_seed(sum(map(ord, prompt))) for prompt in prompts]
    return {
        "text": torch.stack([torch.randn(7, 6, generator=g) for g in rows]),
        "text_c": torch.stack([torch.randn(5, generator=g) for g in rows]),
    }


def make(spec: GeneratorSpec = SPEC, **settings) -> FluxAudioGenerator:
    network, autoencoder = fill(FluxAudio(spec.network)), fill(build_autoencoder(spec))
    vocode = MelInversion(spec.mel, FilterbankInverse(spec.mel))
    return FluxAudioGenerator(spec, network, autoencoder, vocode, encode, **settings)


@pytest.fixture(scope="module")
def generator() -> FluxAudioGenerator:
    return make()


def halved(network: FluxAudio) -> FluxAudio:
    """Another network with the same latent statistics: half the velocity."""
    other = FluxAudio(network.spec)
    other.load_state_dict(network.state_dict())
    for parameter in other.final_layer.conv.parameters():
        parameter.data *= 0.5
    return other


def test_shapes(generator):
    latents = generator.sample_latents(PROMPTS, SEEDS, SHORT)
    assert latents.shape == (3, *generator.latent_shape) and latents.dtype == torch.float32
    audio = generator.decode(latents)
    assert audio.shape == (3, 2 * 10 * 64) and audio.abs().max() <= 1


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_clip_does_not_depend_on_its_batch(generator, solver):
    settings = SamplingSettings(solver=solver, num_steps=3)
    together = generator.sample_latents(PROMPTS, SEEDS, settings)
    alone = generator.sample_latents(PROMPTS[1:2], SEEDS[1:2], settings)
    assert (together[1:2] - alone).abs().max() < 1e-4 * together.abs().max()
    assert torch.equal(generator.decode(together)[1:2], generator.decode(together[1:2]))


def test_seed_prompt_score_and_negative_prompt_matter(generator):
    base = generator.sample_latents(["a"], [1], SHORT)
    assert torch.equal(base, generator.sample_latents(["a"], [1], SHORT))
    others = [
        generator.sample_latents(["a"], [2], SHORT),
        generator.sample_latents(["b"], [1], SHORT),
        generator.sample_latents(["a"], [1], SamplingSettings(num_steps=3, score=None)),
        generator.sample_latents(["a"], [1], SamplingSettings(num_steps=3, negative_prompt="noise")),
        generator.sample_latents(["a"], [1], SamplingSettings(num_steps=3, guidance=1.0)),
    ]
    assert all((base - other).abs().max() > 1e-3 for other in others)


def test_without_guidance_the_conditional_branch_alone_counts(generator):
    """Weight 1 runs both branches, weight below 1 only one; they agree."""
    both = generator.sample_latents(PROMPTS, SEEDS, SamplingSettings(num_steps=3, guidance=1.0))
    one = generator.sample_latents(PROMPTS, SEEDS, SamplingSettings(num_steps=3, guidance=0.0))
    assert (both - one).abs().max() < 1e-4 * one.abs().max()


def test_sampling_calls_the_network_that_is_trained(generator):
    """One Euler step from noise x0 is x0 - v(x0, 1)."""
    x0 = torch.randn(10, 4, generator=torch.Generator().manual_seed(SEEDS[0]))[None]
    with torch.no_grad():
        v = generator.network(x0, torch.ones(1), generator.encode_prompts(PROMPTS[:1]), torch.tensor([0.7]))
    settings = SamplingSettings(num_steps=1, guidance=0.0, score=0.7)
    assert torch.allclose(generator.sample_latents(PROMPTS[:1], SEEDS[:1], settings), x0 - v, atol=1e-4)


def test_null_conditions_have_the_shapes_of_prompt_features(generator):
    null, real = generator.null_conditions(2), generator.encode_prompts(PROMPTS[:2])
    assert {key: value.shape for key, value in null.items()} == {key: value.shape for key, value in real.items()}
    assert torch.equal(null["text"][1], generator.network.empty_string_feat)


def test_network_can_be_trained_after_sampling(generator):
    generator.sample_latents(["a"], [1], SHORT)
    v = generator.network(torch.zeros(1, 10, 4), torch.ones(1), generator.null_conditions(1), torch.tensor([torch.nan]))
    v.square().sum().backward()
    for name, p in generator.network.named_parameters():
        # the last block's attention to text drops nothing; only what is stored and not learned has no gradient
        assert (p.grad is not None) == p.requires_grad, name
    generator.network.zero_grad()


@pytest.mark.parametrize(
    ("settings", "message"),
    [(SamplingSettings(solver="rk4"), "'rk4' is not one of euler, heun"), (SamplingSettings(num_steps=0), "num_steps")],
)
def test_bad_settings(generator, settings, message):
    with pytest.raises(ValueError, match=message):
        generator.sample_latents(["a"], [1], settings)


def test_as_many_seeds_as_prompts(generator):
    with pytest.raises(ValueError, match="1 prompts and 2 seeds"):
        generator.sample_latents(["a"], [1, 2], SHORT)


def test_shipped_stack():
    mini = mini_generator()
    latents = mini.sample_latents([""], [7], SamplingSettings(num_steps=2))
    audio = mini.decode(latents)
    assert latents.shape == (1, 156, 32) and audio.shape == (1, 79_872) and mini.sample_rate_hz == 16_000
    assert 0.01 < audio.square().mean().sqrt() < 0.5
    assert sum(file.stat().st_size for file in ASSETS.iterdir()) < 20e6


def test_the_configuration_has_the_same_settings_with_the_same_defaults():
    assert SamplingSettings(**Sampling().model_dump()) == SamplingSettings()
    assert [field.name for field in fields(SamplingSettings)] == list(Sampling.model_fields)


def test_guidance_modes_reduce_to_the_constant_one(generator):
    """A full interval and an annealing to the same weight are constant guidance; an interval out of reach is none."""
    base = SamplingSettings(num_steps=4, guidance=2.0)
    expected = generator.sample_latents(PROMPTS, SEEDS, base)
    for same in (replace(base, guidance_interval=(0.0, 1.0)), replace(base, guidance_end=2.0)):
        assert torch.equal(generator.sample_latents(PROMPTS, SEEDS, same), expected)
    none = generator.sample_latents(PROMPTS, SEEDS, replace(base, guidance=0.0))
    out_of_reach = replace(base, guidance_interval=(0.1, 0.2))  # four steps ask at 1, 0.75, 0.5 and 0.25
    assert torch.equal(generator.sample_latents(PROMPTS, SEEDS, out_of_reach), none)
    for other in (replace(base, guidance_interval=(0.4, 1.0)), replace(base, guidance_end=0.0)):
        latents = generator.sample_latents(PROMPTS, SEEDS, other)
        assert (latents - expected).abs().max() > 1e-3 and (latents - none).abs().max() > 1e-3


def test_prefix_goes_before_the_prompt_and_not_before_the_negative_one(generator):
    base = SamplingSettings(num_steps=2, negative_prompt="hiss")
    prefixed = generator.sample_latents(["a"], [1], replace(base, prompt_prefix="good "))
    assert torch.equal(prefixed, generator.sample_latents(["good a"], [1], base))


def test_crossover_runs_one_network_then_the_other(generator):
    """Beyond its ends one network does it all; between, the first half is the first network's."""
    second = halved(generator.network)
    both = make(second=second)
    settings = SamplingSettings(num_steps=4, guidance=2.0)
    one = generator.sample_latents(PROMPTS, SEEDS, settings)
    assert torch.equal(both.sample_latents(PROMPTS, SEEDS, settings), one)
    assert torch.equal(both.sample_latents(PROMPTS, SEEDS, replace(settings, crossover_t=0.0)), one)
    alone = make()
    load_arrays(alone.network, network_arrays(second))
    only_second = both.sample_latents(PROMPTS, SEEDS, replace(settings, crossover_t=1.0))
    assert torch.equal(only_second, alone.sample_latents(PROMPTS, SEEDS, settings))
    between = both.sample_latents(PROMPTS, SEEDS, replace(settings, crossover_t=0.5))
    assert all((between - other).abs().max() > 1e-3 for other in (one, only_second))


def test_crossover_needs_a_second_network_of_the_same_latents(generator):
    with pytest.raises(ValueError, match="crossover_t is 0.5, but this generator has one network only"):
        generator.sample_latents(["a"], [1], replace(SHORT, crossover_t=0.5))
    other = halved(generator.network)
    other.latent_std.data += 0.1
    with pytest.raises(ValueError, match="latent_std of the second network"):
        make(second=other)


def test_decoded_clips_are_padded_or_cut_to_their_length(generator):
    latents = generator.sample_latents(PROMPTS, SEEDS, SHORT)
    whole = generator.decode(latents)
    longer, shorter = (make(replace(SPEC, clip_seconds=n / 16_000)).decode(latents) for n in (1300, 1000))
    assert whole.shape[1] == 1280 and longer.shape[1] == 1300 and shorter.shape[1] == 1000
    assert torch.equal(longer[:, :1280], whole) and not longer[:, 1280:].any()
    assert torch.equal(shorter, whole[:, :1000])


def test_decoding_in_batches_changes_no_latent_of_the_mel(generator):
    """The autoencoder agrees across batches; only phase retrieval magnifies the last bits."""
    latents = generator.sample_latents(PROMPTS, SEEDS, SHORT)
    z = generator.network.unnormalise(latents).transpose(1, 2)
    alone = torch.cat([generator.autoencoder.decode(one) for one in z.split(1)])
    assert (generator.autoencoder.decode(z) - alone).abs().max() < 1e-4 * alone.abs().max()
    assert make(decode_batch=2).decode(latents).shape == generator.decode(latents).shape


def test_bfloat16_is_near_and_takes_float32_weights(generator):
    placed = make().place(dtype="bfloat16", device="cpu")
    assert placed.network.fused_blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    kept = (placed.network.fused_blocks[0].attn.q_norm.weight, placed.network.latent_std)
    assert all(value.dtype == torch.float32 for value in kept)
    exact = generator.sample_latents(PROMPTS, SEEDS, SHORT)
    rough = placed.sample_latents(PROMPTS, SEEDS, SHORT)
    assert rough.dtype == torch.float32
    assert 1e-4 < (rough - exact).abs().max() / exact.abs().max() < 0.1
    load_arrays(placed.network, network_arrays(halved(generator.network)))
    assert placed.network.final_layer.conv.weight.dtype == torch.bfloat16
    assert (placed.sample_latents(PROMPTS, SEEDS, SHORT) - rough).abs().max() > 0.1


def test_a_network_computes_with_the_arrays_themselves_and_copies_what_is_no_parameter_or_of_another_type(generator):
    arrays = network_arrays(halved(generator.network))
    for array in arrays.values():
        array.flags.writeable = False  # as they come from the object store
    taken, copied, rough = make(), make(), make().place(dtype="bfloat16", device="cpu")
    for network in (taken.network, rough.network):
        take_arrays(network, arrays)
    load_arrays(copied.network, arrays)
    expected = copied.sample_latents(PROMPTS, SEEDS, SHORT)
    assert torch.equal(taken.sample_latents(PROMPTS, SEEDS, SHORT), expected)
    assert (rough.sample_latents(PROMPTS, SEEDS, SHORT) - expected).abs().max() < 0.1 * expected.abs().max()
    parameters = dict(taken.network.named_parameters())
    own = {name: value.detach().numpy() for name, value in taken.network.state_dict().items()}
    assert all(np.shares_memory(array, own[name]) == (name in parameters) for name, array in arrays.items())
    with pytest.raises(ValueError, match="the network expects"):
        take_arrays(taken.network, {name: array[:0] for name, array in arrays.items()})


@pytest.mark.parametrize("load", [load_arrays, take_arrays])
def test_new_weights_reach_a_compiled_network_without_compiling_again(generator, load):
    """What is traced and guarded is the same for every backend; the default one takes a minute to write its code."""
    compiled = make().place(compile=True, device="cpu", backend="eager")
    expected = generator.sample_latents(PROMPTS, SEEDS, SHORT)
    assert (compiled.sample_latents(PROMPTS, SEEDS, SHORT) - expected).abs().max() < 1e-5 * expected.abs().max()
    new = halved(generator.network)
    load(compiled.network, network_arrays(new))
    other = make()
    load_arrays(other.network, network_arrays(new))
    with torch.compiler.set_stance("fail_on_recompile"):
        found = compiled.sample_latents(PROMPTS, SEEDS, SHORT)
        with pytest.raises(RuntimeError, match="recompile"):  # so the line above can fail
            compiled.sample_latents(PROMPTS[:2], SEEDS[:2], SHORT)
    expected = other.sample_latents(PROMPTS, SEEDS, SHORT)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ({"dtype": "float16"}, "dtype 'float16' is not one of float32, bfloat16"),
        ({"device": "tpu"}, "device 'tpu' is not one of auto, cpu, cuda"),
    ],
)
def test_bad_placement(placement, message):
    with pytest.raises(ValueError, match=message):
        make().place(**placement)


EXPECTED = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}


def test_weights_come_back_in_float32(tmp_path):
    save_file({"a": torch.full((2, 3), 0.5).half(), "b": torch.ones(4)}, tmp_path / "w.safetensors")
    loaded = load_safetensors(tmp_path / "w.safetensors", EXPECTED)
    assert torch.equal(loaded["a"], torch.full((2, 3), 0.5)) and loaded["a"].dtype == torch.float32


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": torch.zeros(2, 3)}, r"b is missing"),
        ({"a": torch.zeros(2, 3), "b": torch.zeros(5)}, r"b has shape \(5,\), expected \(4,\)"),
        ({"a": torch.zeros(2, 3), "b": torch.zeros(4), "z": torch.zeros(1)}, r"z of shape \(1,\) is not a tensor"),
        (
            {"a": torch.zeros(2, 3), "b": torch.tensor([0.0, torch.nan, 0.0, 0.0])},
            r"b holds values that are not finite",
        ),
    ],
)
def test_bad_weights_are_one_line_with_file_and_key(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=message) as error:
        load_safetensors(tmp_path / "w.safetensors", EXPECTED)
    assert "w.safetensors" in str(error.value) and "\n" not in str(error.value)


def test_missing_truncated_and_foreign_files(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(ValueError, match="is missing"):
        load_safetensors(path, EXPECTED)
    save_file(EXPECTED, path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_safetensors(path, EXPECTED)
    path.write_bytes(b"PK\x03\x04 a pickle, perhaps")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_safetensors(path, EXPECTED)
