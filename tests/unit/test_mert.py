"""MERT through HubertModel: the published spellings of its weights, its front end, and batches of mixed lengths."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio
from safetensors.torch import save_file
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from rlloop.rewards.mert import RENAMED, SAMPLE_RATE_HZ, MertEmbedder

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
# As in the published config.json: MERT's own switches beside HuBERT's sizes.
MERT_SWITCHES = {
    "model_type": "mert_model",
    "architectures": ["MERTModel"],
    "attention_relax": -1.0,
    "deepnorm": False,
    "feature_extractor_cqt": False,
    "feature_extractor_cqt_bins": 336,
    "mask_time_prob": 0.05,
    "sample_rate": SAMPLE_RATE_HZ,
}
GROUP = {"conv_bias": False, "feat_extract_norm": "group", "do_stable_layer_norm": False}  # as the 95M's


def make_folder(folder: Path, *, legacy: bool = True, torch_file: bool = True, **config) -> HubertModel:
    """Writes a tiny MERT as it is published; returns the model whose weights it holds."""
    torch.manual_seed(0)
    model = HubertModel(HubertConfig(**(SIZES | {k: v for k, v in config.items() if k in SIZES}))).eval()
    old = {new: old for old, new in RENAMED.items()} if legacy else {}
    state = {old.get(key, key): value.contiguous() for key, value in model.state_dict().items()}
    assert "masked_spec_embed" in state and (not legacy or "encoder.pos_conv_embed.conv.weight_g" in state)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SIZES | MERT_SWITCHES | config))
    if torch_file:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors")
    return model


def wave(seconds: float, seed: int = 0, rate: int = SAMPLE_RATE_HZ) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    return (0.2 * np.sin(2 * np.pi * 330 * t) + 0.05 * rng.standard_normal(len(t)) + 0.1).astype(np.float32)


@torch.no_grad()
def expected(model: HubertModel, samples: np.ndarray) -> torch.Tensor:
    """What the model gives one waveform at 24 kHz by itself."""
    return model(torch.from_numpy(samples)[None]).last_hidden_state.mean(1)[0]


@pytest.mark.parametrize("legacy", [True, False], ids=["weight_g", "parametrizations"])
@pytest.mark.parametrize("torch_file", [True, False], ids=["bin", "safetensors"])
def test_both_spellings_of_the_weight_norm_load(tmp_path, legacy, torch_file):
    model = make_folder(tmp_path, legacy=legacy, torch_file=torch_file)
    ear = MertEmbedder.from_folder(tmp_path, "cpu")
    assert ear.dim == 32
    found = ear.audio([wave(1.2)], [SAMPLE_RATE_HZ])
    assert torch.allclose(found[0], expected(model, wave(1.2)), atol=1e-6)


@pytest.mark.parametrize("sizes", [{}, GROUP], ids=["layer norm", "group norm"])
def test_a_batch_of_mixed_lengths_gives_each_clip_what_it_gets_alone(tmp_path, sizes):
    model = make_folder(tmp_path, **sizes)
    ear = MertEmbedder.from_folder(tmp_path, "cpu", batch_size=2)
    clips = [wave(s, n) for n, s in enumerate([1.0, 1.5, 1.0, 1.0, 2.25, 1.5])]
    together = ear.audio(clips, [SAMPLE_RATE_HZ] * 6)
    for row, clip in enumerate(clips):
        assert torch.allclose(together[row], expected(model, clip), atol=1e-5)
    assert (together[0] - together[2]).abs().max() > 1e-3


def test_other_rates_are_resampled(tmp_path):
    model = make_folder(tmp_path)
    ear = MertEmbedder.from_folder(tmp_path, "cpu")
    clip = wave(1.0, rate=44_100)
    resampled = torchaudio.functional.resample(torch.from_numpy(clip), 44_100, SAMPLE_RATE_HZ).numpy()
    found = ear.audio([clip, resampled], [44_100, SAMPLE_RATE_HZ])
    assert torch.allclose(found[0], expected(model, resampled), atol=1e-5)
    assert torch.allclose(found[0], found[1], atol=1e-5)


def test_normalisation_is_the_folders(tmp_path):
    model = make_folder(tmp_path)
    plain = MertEmbedder.from_folder(tmp_path, "cpu").audio([wave(1.0)], [SAMPLE_RATE_HZ])
    assert torch.allclose(plain[0], expected(model, wave(1.0)), atol=1e-6)  # no file: as it is
    reference = Wav2Vec2FeatureExtractor(sampling_rate=SAMPLE_RATE_HZ, do_normalize=True)
    reference.save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").is_file()
    ear = MertEmbedder.from_folder(tmp_path, "cpu")
    values = reference([wave(1.0)], sampling_rate=SAMPLE_RATE_HZ, return_tensors="np").input_values[0]
    found = ear.audio([wave(1.0), 0.1 * wave(1.0)], [SAMPLE_RATE_HZ] * 2)
    assert torch.allclose(found[0], expected(model, values), atol=1e-5)
    assert torch.allclose(found[0], found[1], atol=1e-3)  # the level no longer matters
    assert (found[0] - plain[0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"deepnorm": True}, "deepnorm is True, expected false"),
        ({"feature_extractor_cqt": True}, "feature_extractor_cqt is True"),
        ({"sample_rate": 16_000}, "sample_rate is 16000, expected 24000"),
    ],
)
def test_another_architecture_is_refused(tmp_path, config, message):
    make_folder(tmp_path, **config)
    with pytest.raises(ValueError, match=message):
        MertEmbedder.from_folder(tmp_path, "cpu")


def test_attention_relax_changes_nothing(tmp_path):
    model = make_folder(tmp_path, attention_relax=32.0)
    found = MertEmbedder.from_folder(tmp_path, "cpu").audio([wave(1.0)], [SAMPLE_RATE_HZ])
    assert torch.allclose(found[0], expected(model, wave(1.0)), atol=1e-6)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda s: s.pop("encoder.layers.1.attention.k_proj.bias"),
            "encoder.layers.1.attention.k_proj.bias is missing",
        ),
        (lambda s: s.update(lm_head=torch.zeros(2)), "lm_head .* is not a tensor of this model"),
        (lambda s: s.update({"encoder.layer_norm.bias": torch.zeros(3)}), "encoder.layer_norm.bias has shape"),
        (lambda s: s["encoder.layer_norm.bias"].fill_(torch.nan), "encoder.layer_norm.bias holds values"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, spoil, message):
    make_folder(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    spoil(state)
    torch.save(state, path)
    with pytest.raises(ValueError, match=message):
        MertEmbedder.from_folder(tmp_path, "cpu")


def test_what_training_alone_needs_is_left_out(tmp_path):
    model = make_folder(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    state["feature_extractor_cqt.cqt_kernels_real"] = torch.zeros(4)
    torch.save(state, path)
    found = MertEmbedder.from_folder(tmp_path, "cpu").audio([wave(1.0)], [SAMPLE_RATE_HZ])
    assert torch.allclose(found[0], expected(model, wave(1.0)), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", None, "config.json is not a readable JSON file"),
        ("config.json", "[]", "holds a list, expected an object"),
        ("pytorch_model.bin", None, "holds none of model.safetensors, pytorch_model.bin"),
        ("preprocessor_config.json", "{", "preprocessor_config.json is not a readable JSON file"),
    ],
)
def test_an_incomplete_folder_is_refused(tmp_path, name, text, message):
    make_folder(tmp_path)
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        MertEmbedder.from_folder(tmp_path, "cpu")
    assert "\n" not in str(error.value)
