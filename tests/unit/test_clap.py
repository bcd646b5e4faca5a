"""CLAP: the key map of its checkpoints, the front end against transformers', crops, batches, and the reward."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

from rlloop.audio.resample import resample_all
from rlloop.rewards.base import Clip, Reward
from rlloop.rewards.clap import NUM_SAMPLES, ClapEmbedder, ClapScore, clap_score, fit, log_mel, quantise, random_start
from rlloop.weights.clap import MEL_KEY, clap_config, clap_tokenizer, embed_text, is_unneeded, load_clap, to_laion
from tests.tiny_encoders import make_clap_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
RATE = 48_000
UNNEEDED = {
    "audio_branch.spectrogram_extractor.stft.conv_real.weight": (513, 1, 1024),
    "audio_branch.layers.1.blocks.1.attn_mask": (4, 64, 64),
    "audio_branch.layers.0.blocks.0.attn.relative_position_index": (64, 64),
    "audio_branch.tscam_conv.weight": (527, 32, 2, 3),
    "audio_branch.head.bias": (527,),
    "audio_transform.sequential.0.weight": (12, 12),
    "text_branch.embeddings.position_ids": (1, 80),
}


def tiny_config() -> ClapConfig:
    """As small as the classes allow, with two blocks in a stage and several heads."""
    text = {
        "vocab_size": 261, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 80, "layer_norm_eps": 1e-5,
    }  # fmt: skip
    audio = {
        "hidden_size": 32, "patch_embeds_hidden_size": 4, "depths": [1, 2, 1, 1], "num_attention_heads": [1, 2, 2, 4],
    }  # fmt: skip
    return ClapConfig(text_config=text, audio_config=audio, projection_dim=12)


@pytest.fixture(scope="module")
def model() -> ClapModel:
    """Every weight off its initial value: a bias of zero would hide a mistaken key."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ClapModel(tiny_config()).eval()
    with torch.no_grad():
        for value in model.parameters():
            value += 0.3 * torch.randn_like(value)
    model.audio_model.audio_encoder.batch_norm.running_mean += torch.randn(64) - 40
    model.audio_model.audio_encoder.batch_norm.running_var *= 400
    return model


@pytest.fixture(scope="module")
def laion(model) -> dict[str, torch.Tensor]:
    """The state dict that LAION would have saved, without `module.`."""
    return {**to_laion(model.state_dict()), **{key: torch.zeros(shape) for key, shape in UNNEEDED.items()}}


def save(path: Path, state: dict[str, torch.Tensor]) -> Path:
    """As LAION's training does: parallel, beside an optimizer that holds a numpy number."""
    state = {"module." + key: value for key, value in state.items()}
    torch.save({"epoch": 15, "state_dict": state, "optimizer": {"lr": np.float64(1e-4)}}, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, laion) -> Path:
    folder = tmp_path_factory.mktemp("clap")
    save(folder / "clap.pt", laion)
    make_clap_tokenizer(folder / "tokenizer")
    return folder


def embedder(folder: Path, **options) -> ClapEmbedder:
    return ClapEmbedder(folder / "clap.pt", folder / "tokenizer", "cpu", config=tiny_config(), **options)


@pytest.fixture(scope="module")
def ear(folder) -> ClapEmbedder:
    return embedder(folder)


def sound(seconds: float, seed: int, rate: int = RATE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    tones = sum(np.sin(2 * np.pi * hz * t * (1 + t / 50)) for hz in rng.uniform(60, 7000, 4))
    return (0.1 * tones + 0.01 * rng.standard_normal(len(t))).astype(np.float32)


# The checkpoint


def test_the_published_form_has_laions_keys_and_shapes():
    lines = gzip.decompress((GOLDEN / "statedict_laion_clap.tsv.gz").read_bytes()).decode().splitlines()
    theirs = {key: tuple(int(n) for n in shape.split(",") if n) for key, shape in (line.split("\t") for line in lines)}
    with torch.device("meta"):
        ours = to_laion(ClapModel(clap_config()).state_dict())
    assert {key: tuple(value.shape) for key, value in ours.items()} == {
        key: shape for key, shape in theirs.items() if not is_unneeded(key)
    }
    # Fourier basis 2, position indices of 18 blocks, masks of 8 shifted ones, tags 4, second projections 8
    assert sum(is_unneeded(key) for key in theirs) == 40


def test_a_checkpoint_comes_back_as_it_was_written(folder, model):
    loaded = load_clap(folder / "clap.pt", tiny_config())
    assert not loaded.training and not any(value.requires_grad for value in loaded.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_query_key_and_value_are_fused_in_that_order(model, laion):
    attention = model.audio_model.audio_encoder.layers[1].blocks[1].attention.self
    fused = laion["audio_branch.layers.1.blocks.1.attn.qkv.weight"]
    assert torch.equal(fused, torch.cat([attention.query.weight, attention.key.weight, attention.value.weight]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("audio_branch.bn0.running_mean"), "audio_branch.bn0.running_mean is missing"),
        (lambda s: s.update({"audio_branch.patch_embed.mel_conv2d.bias": torch.zeros(4)}), "mel_conv2d.bias of shape"),
        (lambda s: s.update(logit_scale_a=torch.tensor(torch.nan)), "logit_scale_a holds values that are not finite"),
        (lambda s: s.update({"text_projection.0.weight": torch.zeros(12, 17)}), r"has shape \(12, 17\)"),
        (lambda s: s.update({MEL_KEY: s[MEL_KEY] * 0.9}), "melW differs by .* from 64 slaney bands"),
    ],
)
def test_a_wrong_checkpoint_is_refused_by_laions_key(tmp_path, laion, change, message):
    state = dict(laion)
    change(state)
    with pytest.raises(ValueError, match=message) as caught:
        load_clap(save(tmp_path / "wrong.pt", state), tiny_config())
    assert "wrong.pt" in str(caught.value) and "\n" not in str(caught.value)


def test_no_tokenizer_or_a_foreign_one_is_refused(tmp_path, folder):
    with pytest.raises(ValueError, match="expected tokenizer.json"):
        clap_tokenizer(tmp_path)
    small = tiny_config()
    small.text_config.vocab_size = 200
    torch.save(to_laion(ClapModel(small).state_dict()), tmp_path / "small.pt")
    with pytest.raises(ValueError, match="has 261 tokens, .*small.pt knows 200"):
        ClapEmbedder(tmp_path / "small.pt", folder / "tokenizer", "cpu", config=small)


# The front end


@pytest.mark.parametrize("seconds", [0.7, 4.0, 10.0])
def test_the_mel_is_that_of_transformers(seconds):
    wave = sound(seconds, 1)
    wave[: len(wave) // 3] *= 1e-4  # a quiet passage
    extractor = ClapFeatureExtractor(
        truncation="rand_trunc", padding="repeatpad", frequency_min=50, frequency_max=14_000
    )
    expected = extractor(wave, sampling_rate=RATE, return_tensors="pt")["input_features"][0, 0]
    ours = log_mel(fit(torch.from_numpy(wave), 0)[None])[0]
    assert ours.shape == (1001, 64)
    assert (ours - expected).abs().max() < 1e-4


def test_ten_seconds_are_cut_kept_or_repeated():
    ramp = torch.arange(1, NUM_SAMPLES + 1.0)
    assert torch.equal(fit(ramp, 0), ramp)
    assert torch.equal(fit(torch.cat([ramp, ramp[:3]]), 3), torch.cat([ramp[3:], ramp[:3]]))
    part = ramp[:200_000]
    assert torch.equal(fit(part, 0), torch.cat([part, part, torch.zeros(80_000)]))


def test_sixteen_bits_by_hand():
    found = quantise(torch.tensor([0.5, -1.5, 2e-5, -4e-5]))
    assert torch.allclose(found, torch.tensor([16383, -32767, 0, -1]) / 32767, atol=0)


def test_the_crop_depends_on_clip_and_seed_alone_and_reaches_both_ends():
    waves = [sound(0.01, seed) for seed in range(200)]
    starts = [random_start(wave, RATE, 2, 0) for wave in waves]
    assert starts == [random_start(wave, RATE, 2, 0) for wave in waves]
    assert starts != [random_start(wave, RATE, 2, 1) for wave in waves]
    assert min(np.bincount(starts, minlength=3)) > 45  # a third of 200 is 67, with a deviation of 7


def test_centre_is_the_middle_ten_seconds(folder):
    ear = embedder(folder, crop="centre")
    wave = sound(13, 5)
    assert torch.equal(ear.audio([wave], [RATE]), ear.audio([wave[72_000:552_000]], [RATE]))
    assert not torch.allclose(ear.audio([wave], [RATE]), ear.audio([wave[:480_000]], [RATE]), atol=1e-3)


def test_resampling_is_torchaudios_whatever_the_company():
    waves = [sound(0.5, 0, 44_100), sound(0.3, 1, 8000), sound(0.5, 2, 44_100), sound(0.2, 3)]
    rates = [44_100, 8000, 44_100, 48_000]
    for wave, rate, found in zip(waves, rates, resample_all(waves, rates, RATE), strict=True):
        expected = torchaudio.functional.resample(torch.from_numpy(wave), rate, RATE)
        assert torch.allclose(found, expected, atol=1e-6)
    with pytest.raises(ValueError, match="44101 Hz cannot be resampled to 48000 Hz"):
        resample_all([waves[0]], [44_101], RATE)


# Embeddings


def test_a_batch_of_mixed_lengths_gives_each_clip_what_it_gets_alone(folder):
    lengths = [(10, 44_100), (0.4, 48_000), (23, 16_000), (3, 8000), (10, 48_000), (12, 96_000)]
    waves = [sound(seconds, seed, rate) for seed, (seconds, rate) in enumerate(lengths)]
    rates = [rate for _, rate in lengths]
    together = embedder(folder, batch_size=4).audio(waves, rates)
    alone = torch.cat([embedder(folder).audio([w], [rate]) for w, rate in zip(waves, rates, strict=True)])
    assert together.shape == (6, 12)
    assert (together - alone).abs().max() < 1e-5
    assert torch.allclose(together.norm(dim=1), torch.ones(6))
    assert torch.cdist(together, together).fill_diagonal_(9).min() > 0.01  # or the comparison would say nothing


def test_texts_are_cut_at_77_tokens_and_not_before(ear):
    text = "x" * 75  # 77 with the two special tokens
    same = ear.text([text, text + " and more", text[:-1] + "y", "", text])
    assert torch.equal(same[0], same[4]) and torch.allclose(same[0], same[1], atol=1e-6)
    assert (same[0] - same[2]).norm() > 1e-3
    assert torch.allclose(ear.text([""])[0], same[3], atol=1e-6)
    assert ear.text([]).shape == (0, 12)


def test_text_is_what_the_model_says(ear, model):
    prompts = ["slow waltz", "jazz " * 40]
    assert torch.allclose(ear.text(prompts), embed_text(model, ear.tokenizer, prompts), atol=1e-6)


# The reward


def test_the_score_is_the_cosine_and_a_clip_without_prompt_has_none(ear):
    reward = ClapScore(ear)
    assert isinstance(reward, Reward)
    waves = [sound(2, 1), sound(11, 2), sound(2, 3) * np.nan]
    prompts = ["slow waltz", " ", "jazz"]
    scores = reward.score([Clip(wave, RATE, prompt) for wave, prompt in zip(waves, prompts, strict=True)])
    expected = ear.audio(waves[:1], [RATE])[0] @ ear.text(prompts[:1])[0]
    assert scores[0].value == pytest.approx(float(expected), abs=1e-6)
    assert scores[1].reason == "no prompt to compare the clip with"
    assert "non-finite" in scores[2].reason
    assert [s.value for s in reward.score([Clip(waves[0], RATE, "")])] == [None]


def test_rewards_that_share_an_embedder_hear_a_clip_once(folder):
    ear = embedder(folder)
    batches = []
    ear.model.audio_model.register_forward_hook(lambda module, inputs, output: batches.append(len(inputs)))
    waves = [sound(1, 1), sound(1.5, 2)]
    first = ear.audio(waves, [RATE, RATE])
    assert torch.equal(ear.audio(waves[::-1], [RATE, RATE]), first.flip(0)) and len(batches) == 1
    ear.audio([waves[0].copy()], [RATE])
    assert len(batches) == 2
    del waves
    ear.audio([sound(1, 3)], [RATE])
    assert len(ear._heard) == 1  # what nobody holds any more is forgotten


def test_a_checkpoint_that_is_not_the_scoring_one_is_told_apart(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("RLLOOP_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="clap_scoring"):
        clap_score()
    assert not caplog.records
    with pytest.raises(ValueError, match="clap_conditioning"):
        clap_score(checkpoint="clap_conditioning")
    assert "uses clap_conditioning; published scores use clap_scoring" in caplog.text
    for option, message in [({"crop": "first"}, "random, centre"), ({"batch_size": 0}, "at least 1")]:
        with pytest.raises(ValueError, match=message):
            clap_score(**option)
