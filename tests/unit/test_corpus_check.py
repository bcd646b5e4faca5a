"""A corpus of other labels, latents or autoencoders is refused before anything is trained on it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from rlloop.config import load
from rlloop.data.corpus import CorpusRow, CorpusSpec, CorpusWriter, open_corpus
from rlloop.recipes.corpus_check import check_corpus
from rlloop.recipes.latent_encoder import latent_source

CONFIG = load("paper_mini")
SOURCE = latent_source(CONFIG)
SPEC = CorpusSpec(SOURCE.latent_shape, SOURCE.identity(), ("tunejury_mini",))


def write(folder, spec: CorpusSpec):
    with CorpusWriter(folder, spec) as writer:
        mean = np.zeros(spec.latent_shape, np.float32)
        writer.add(CorpusRow("0", "a choir", mean, None, None, dict.fromkeys(spec.score_names, 1.0)))
    return open_corpus(folder)


def test_its_own_corpus_is_taken(tmp_path):
    check_corpus(CONFIG, write(tmp_path / "corpus", SPEC))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"score_names": ("reward",)}, r"its label is 'tunejury_mini', the corpus .* has scores \['reward'\]"),
        ({"latent_shape": (312, 20)}, r"latents of \(312, 20\), those of the generator are \(156, 32\)"),
        ({"latent_identity": "another"}, r"latents of another autoencoder \(another, here"),
    ],
)
def test_another_is_refused(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        check_corpus(CONFIG, write(tmp_path / "corpus", replace(SPEC, **changes)))


def test_a_corpus_that_nobody_noted_the_autoencoder_of_is_taken_at_its_word(tmp_path):
    check_corpus(CONFIG, write(tmp_path / "corpus", replace(SPEC, latent_identity="")))


@pytest.mark.parametrize(
    ("shapes", "is_taken"),
    [
        ({"text": (77, 1024), "text_c": (512,)}, True),
        ({}, False),
        ({"text": (77, 1024)}, False),
        ({"text": (77, 1024), "text_c": (1024,)}, False),
    ],
)
def test_text_features_are_those_that_the_network_takes(tmp_path, shapes, is_taken):
    (tmp_path / "vae.pth").touch()
    files = {"network": "n", "autoencoder": str(tmp_path / "vae.pth"), "vocoder": "v", "prompts": "p"}
    config = load("paper", [f"generator.options.{name}={path}" for name, path in files.items()])
    corpus = SimpleNamespace(
        folder=tmp_path, score_names=("tunejury",), latent_shape=(430, 40),
        spec=CorpusSpec((430, 40), "", ("tunejury",), shapes),
    )  # fmt: skip
    if is_taken:
        check_corpus(config, corpus)
    else:
        with pytest.raises(ValueError, match="text features .*the network takes"):
            check_corpus(config, corpus)
