"""Recordings to rows: made-up sound files, good and bad, through the mini autoencoder and a tiny published one."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from rlloop.commands.main import app
from rlloop.config import load
from rlloop.data.corpus import open_corpus
from rlloop.models.clap_text import ClapText
from rlloop.models.fluxaudio import FluxAudioSpec
from rlloop.models.mel import MEL_16K, LogMel
from rlloop.models.official import MODES, Mode
from rlloop.models.policy import GeneratorSpec, build_autoencoder, mini_generator
from rlloop.models.t5 import FlanT5
from rlloop.recipes.corpus_parts import Outcome, part_folder
from rlloop.recipes.corpus_plan import plan_corpus
from rlloop.recipes.corpus_worker import CorpusWorker
from tests import tiny_encoders

NO_TEXT = ("none", "none", "none")
LOUDNESS = ["tests.fakes:Loudness"]
RATE = 16_000


def tone(seconds, hz=220.0, level=0.3):
    return (level * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Ten recordings and their captions, prompts of the shipped ones so that no text encoder is needed."""
    folder = tmp_path_factory.mktemp("audio")
    recordings = {
        "twelve.wav": tone(12),
        "stereo.wav": np.stack([tone(6), 0.5 + tone(6, 330)], axis=1),
        "silent.wav": np.zeros(8 * RATE, np.float32),
        "three.wav": tone(3),
        "six.flac": tone(6, 440),
        "nan.wav": np.where(np.arange(6 * RATE) == 7, np.nan, tone(6)).astype(np.float32),
    }
    for name, wave in recordings.items():
        kind = {"subtype": "FLOAT"} if name.endswith("wav") else {}
        soundfile.write(folder / name, wave, RATE, **kind)
    whole = (folder / "six.flac").read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    (folder / "header.wav").write_bytes(b"RIFF and then nothing")
    captions = json.dumps([{"path": name, "caption": "drums"} for name in (*recordings, "cut.flac", "header.wav", "no.wav")])  # fmt: skip  # noqa: E501
    (folder / "captions.json").write_text(captions)
    return folder


def plan(audio, out, config=None, rewards=LOUDNESS, text=NO_TEXT, batch=3, split="all"):
    config = config or load("mini", ["generator.text_encoder=words"])
    return plan_corpus(audio, audio / "captions.json", split, config, rewards, text, out, batch)


def outcomes(worker, plan):
    return {found["key"]: Outcome(**found) for found in worker(list(plan.rows.values()))}


def test_each_bad_recording_costs_itself_alone(audio, tmp_path):
    made = plan(audio, tmp_path)
    found = outcomes(CorpusWorker(made.job, 1, "cpu"), made)
    assert {key: one.rows for key, one in found.items() if one.rows} == {"twelve": 2, "stereo": 1, "six": 1}
    reasons = {key: one.failure for key, one in found.items() if one.failure}
    assert reasons.keys() == {"silent", "three", "nan", "cut", "header"} and "no such file" in made.failures["no"]
    for key, words in (("silent", "silent"), ("three", "too short: 3.00 s"), ("nan", "1 of 96000 samples")):
        assert words in reasons[key]
    assert all("not readable as audio" in reasons[key] and str(audio) not in reasons[key] for key in ("cut", "header"))


def test_rows_hold_the_posterior_and_the_scores_of_their_segments(audio, tmp_path):
    made = plan(audio, tmp_path)
    outcomes(CorpusWorker(made.job, 1, "cpu"), made)
    rows = list(open_corpus(part_folder(tmp_path, "twelve")))
    assert [row.id for row in rows] == ["twelve_0", "twelve_1"] and rows[0].features is None
    autoencoder, segment = mini_generator("words").autoencoder, 156 * 512
    for row, start in zip(rows, (0, 12 * RATE - segment), strict=True):
        wave = 0.95 / 0.3 * tone(12)[start : start + segment]
        with torch.no_grad():
            mean, std = (x[0].T.numpy() for x in autoencoder.encode(LogMel(MEL_16K)(torch.from_numpy(wave[None]))))
        np.testing.assert_allclose(row.mean, mean, atol=4e-3)
        np.testing.assert_allclose(row.std, std, rtol=4e-3, atol=1e-3)
        assert row.scores["Loudness"] == pytest.approx(wave.mean(), abs=1e-5) and row.prompt == "drums"
    (stereo,) = open_corpus(part_folder(tmp_path, "stereo"))
    mixed = (tone(6) + 0.5 + tone(6, 330)) / 2
    assert stereo.scores["Loudness"] == pytest.approx((mixed * 0.95 / np.abs(mixed).max())[:segment].mean(), abs=1e-4)


def test_a_broken_reward_leaves_rows_without_its_score(audio, tmp_path):
    made = plan(audio, tmp_path, rewards=["tests.fakes:Broken", *LOUDNESS])
    found = CorpusWorker(made.job, 1, "cpu")(list(made.rows.values())[:2])
    missing = {one["key"]: one["missing"] for one in found}
    (reason,) = missing["twelve"]
    assert "out of order" in reason and missing["twelve"][reason] == 2
    (row,) = open_corpus(part_folder(tmp_path, "stereo"))
    assert row.scores["Broken"] is None and row.scores["Loudness"] is not None


def test_a_recording_of_too_low_a_rate_has_rows_without_scores(tmp_path):
    """A reward would hear it at the autoencoder's rate and not know what is missing."""
    soundfile.write(tmp_path / "low.wav", tone(6)[::2], RATE // 2)
    soundfile.write(tmp_path / "good.wav", tone(6), RATE)
    names = json.dumps([{"path": name, "caption": "drums"} for name in ("low.wav", "good.wav")])
    (tmp_path / "captions.json").write_text(names)
    made = plan(tmp_path, tmp_path / "out")
    found = outcomes(CorpusWorker(made.job, 1, "cpu"), made)
    (low,), (good,) = (open_corpus(part_folder(tmp_path / "out", key)) for key in ("low", "good"))
    assert low.scores["Loudness"] is None and good.scores["Loudness"] is not None
    (reason,) = found["low"].missing
    assert "sample rate 8000 Hz, expected at least 16000" in reason and not found["good"].missing


def test_published_stacks_keep_text_features_in_the_row(audio, tmp_path):
    network = replace(FluxAudioSpec(num_heads=2, depth=2, fused_depth=1), latent_dim=4, latent_seq_len=312)
    spec = GeneratorSpec(network, MEL_16K, autoencoder_width=8, clip_seconds=10.0)
    torch.manual_seed(0)
    save_file(build_autoencoder(spec).state_dict(), tmp_path / "vae.safetensors")
    options = {"autoencoder": str(tmp_path / "vae.safetensors"), "mode": Mode("tiny", spec, MODES["16k"].vocoder)}
    config = load("mini")
    config = config.model_copy(update={"generator": config.generator.model_copy(update={"target": "fluxaudio", "options": options})})  # fmt: skip  # noqa: E501
    encoders = tiny_encoders.make_all(tmp_path / "encoders")
    made = plan(audio, tmp_path / "out", config, [], tuple(str(encoders[x]) for x in ("t5", "clap", "tokenizer")))
    assert made.job.spec.feature_shapes == {"text": (77, 16), "text_c": (12,)}
    found = outcomes(CorpusWorker(made.job, 1, "cpu"), made)
    assert found["twelve"].rows == 1 and found["six"].rows == 1  # of 10 s
    (row,) = open_corpus(part_folder(tmp_path / "out", "six"))
    assert row.mean.shape == row.std.shape == (312, 4) and row.scores == {}
    text = FlanT5(encoders["t5"]).encode(["drums"])[0].numpy()
    np.testing.assert_allclose(row.features["text"], text, atol=2e-3)
    text_c = ClapText(encoders["clap"], encoders["tokenizer"]).encode(["drums"])[0].numpy()
    np.testing.assert_allclose(row.features["text_c"], text_c, atol=1e-3)


def test_another_autoencoder_is_another_corpus(audio, tmp_path):
    made = plan(audio, tmp_path)
    with pytest.raises(ValueError, match="autoencoder.safetensors is another file here"):
        CorpusWorker(replace(made.job, spec=replace(made.job.spec, latent_identity="other")), 1, "cpu")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": "train"}, "8 captions have audio, the split 'train' needs at least 201"),
        ({"rewards": ["nobody"]}, "reward 'nobody'"),
        ({"rewards": [*LOUDNESS, *LOUDNESS]}, "two rewards are named 'Loudness'"),
        ({"config": load("tests/fake.yaml")}, "generator.target is 'tests.fakes:tiny_generator'"),
    ],
)
def test_what_cannot_be_prepared_is_refused_before_anything_is_loaded(audio, tmp_path, changes, words):
    with pytest.raises(ValueError, match=words) as caught:
        plan(audio, tmp_path / "out", **changes)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_other_captions_or_rewards_are_refused(audio, tmp_path):
    plan(audio, tmp_path).open().__exit__()
    assert json.loads((tmp_path / "failures.jsonl").read_text())["id"] == "no"
    plan(audio, tmp_path, batch=5).open().__exit__()
    with pytest.raises(ValueError, match="was begun with others: captions, audio, generator, rewards"):
        plan(audio, tmp_path, rewards=["tests.fakes:Softness"]).open()


def test_the_command_says_what_is_wrong_in_one_line(audio, tmp_path):
    given = ["data", "prepare", str(audio), "--captions", str(audio / "captions.json"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*given, "generator.text_encoder=words", "--rewards", "none"])
    assert done.exit_code == 2 and done.output.startswith("rlloop: 8 captions have audio") and done.output.count("\n") == 1  # fmt: skip  # noqa: E501
    done = CliRunner().invoke(app, [*given, "sed=1"])
    assert done.exit_code == 2 and "did you mean 'seed'" in done.output
    out = CliRunner().invoke(app, ["data", "prepare", "--help"]).output
    assert "rlloop data prepare" in out[out.index("Example") :]
