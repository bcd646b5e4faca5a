"""Embeddings and keys against laion-clap itself, which needs an environment of its own: `make test-laion`."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from rlloop.rewards.clap import NUM_SAMPLES, ClapEmbedder, random_start
from rlloop.weights.clap import SAMPLE_RATE_HZ, clap_config, clap_tokenizer, is_unneeded, load_clap, to_laion

PYTHON = Path(os.environ.get("LAION_PYTHON", ".venv-laion/bin/python")).absolute()
pytestmark = pytest.mark.skipif(not PYTHON.is_file(), reason="`make test-laion` sets up laion-clap's environment")
SECONDS = (0.7, 3.3, 6.0, 9.99, 10.0, 10.00003, 23.4)  # 10.00003 s: one sample more than 10 s
PROMPTS = [
    "calm piano",
    "",
    "Slow ambient pads, a distant choir & field recordings of rain; 60 bpm, in D minor — café, naïve, 日本",
    "an upbeat funk track with slap bass, brass stabs and a dry drum kit " * 12,
    "word " * 300,
]


def clip(seconds: float, seed: int) -> np.ndarray:
    """Tones and noise, louder than full scale in places, silent in others."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tones = sum(np.sin(2 * np.pi * hz * t + phase) for hz, phase in rng.uniform((50, 0), (9000, 6), (6, 2)))
    swell = np.clip(np.sin(2 * np.pi * t / rng.uniform(1, 5)), 0, 1)
    return (0.3 * tones * swell + 10 ** rng.uniform(-4, -1) * rng.standard_normal(len(t))).astype(np.float32)


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [clip(seconds, seed) for seed, seconds in enumerate(SECONDS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, clips) -> Path:
    """laion-clap's answers for the clips and prompts, with its own loader and random weights."""
    folder = tmp_path_factory.mktemp("laion")
    names = [f"clip{number}" for number in range(len(clips))]
    starts = [random_start(wave, SAMPLE_RATE_HZ, max(0, len(wave) - NUM_SAMPLES), seed=3) for wave in clips]
    np.savez(
        folder / "request.npz",
        **dict(zip(names, clips, strict=True)),
        **{f"start_{name}": start for name, start in zip(names, starts, strict=True)},
    )
    (folder / "prompts.json").write_text(json.dumps(PROMPTS))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [str(PYTHON), str(Path(__file__).with_name("oracle.py")), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def config(folder):
    config = clap_config()
    config.text_config.vocab_size = torch.load(folder / "checkpoint.pt", weights_only=False, mmap=True)["state_dict"][
        "module.text_branch.embeddings.word_embeddings.weight"
    ].shape[0]
    return config


@pytest.fixture(scope="module")
def answer(folder):
    return np.load(folder / "answer.npz")


def embedder(folder, config, **options) -> ClapEmbedder:
    return ClapEmbedder(
        folder / "checkpoint.pt", folder / "roberta-base", "cpu", config=config, seed=3, batch_size=3, **options
    )


def difference(name: str, ours: torch.Tensor, theirs: np.ndarray) -> float:
    """Largest; says it, and how far two embeddings lie apart at least, without which it would mean nothing."""
    assert ours.shape == theirs.shape
    apart = np.linalg.norm(theirs[:, None] - theirs[None], axis=-1)[np.triu_indices(len(theirs), 1)]
    largest = float(np.abs(ours.numpy() - theirs).max())
    print(f"\n{name}: largest difference {largest:.2g}, embeddings lie {apart.min():.2g} to {apart.max():.2g} apart")
    return largest


@pytest.mark.parametrize(("quantise", "name"), [(True, "quantised"), (False, "plain")])
def test_audio(folder, config, clips, answer, quantise, name):
    ours = embedder(folder, config, quantise=quantise).audio(clips, [SAMPLE_RATE_HZ] * len(clips))
    assert difference(name, ours, answer[name]) < 1e-5


def test_text(folder, config, answer):
    assert difference("text", embedder(folder, config).text(PROMPTS), answer["text"]) < 1e-5


def test_tokens(folder, answer):
    tokens = clap_tokenizer(folder / "roberta-base")(
        PROMPTS, padding="max_length", truncation=True, max_length=77, return_tensors="np"
    )["input_ids"]
    assert np.array_equal(tokens, answer["tokens"])
    assert (tokens[3:] != 1).all() and (tokens[0] == 1).any()  # the long ones are cut, the short ones padded


def test_every_key_has_its_place(folder, config):
    saved = torch.load(folder / "checkpoint.pt", weights_only=False, mmap=True)["state_dict"]
    saved = {key.removeprefix("module."): value for key, value in saved.items()}
    back = to_laion(load_clap(folder / "checkpoint.pt", config).state_dict())
    assert {key for key in saved if not is_unneeded(key)} == back.keys()
    assert all(torch.equal(saved[key], value) for key, value in back.items() if "melW" not in key)
