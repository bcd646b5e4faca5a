"""Text encoders of a few kilobytes in the published layouts, with random weights: nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    ClapConfig,
    ClapModel,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

WORDS = ["slow", "waltz", "jazz", "piano", "drums", "and", "high", "quality", "instrumental", "music", ",", "noise"]
T5_WIDTH, CLAP_WIDTH = 16, 12


def make_t5(folder: Path, seed: int = 0) -> Path:
    """A T5 of 16 dimensions, decoder included as in the published file, with a tokenizer of whole words."""
    vocabulary = {token: n for n, token in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=32, d_model=T5_WIDTH, d_kv=8, num_heads=2, d_ff=32, num_layers=2, feed_forward_proj="gated-gelu"
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def make_clap_tokenizer(folder: Path) -> Path:
    """RoBERTa's tokenizer over single bytes, without merges."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    RobertaTokenizer(vocab={token: n for n, token in enumerate([*specials, *alphabet])}, merges=[]).save_pretrained(
        folder
    )
    return folder


def clap_config() -> ClapConfig:
    """A CLAP of twelve common dimensions; its audio side is as small as it can be."""
    text = {
        "vocab_size": 261, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 80, "projection_dim": CLAP_WIDTH,
    }  # fmt: skip
    audio = {
        "hidden_size": 32, "patch_embeds_hidden_size": 4, "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 1, 1],
        "projection_dim": CLAP_WIDTH,
    }  # fmt: skip
    return ClapConfig(text_config=text, audio_config=audio, projection_dim=CLAP_WIDTH)


def make_clap(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    ClapModel(clap_config()).save_pretrained(folder)
    return folder


def make_all(folder: Path) -> dict[str, Path]:
    """t5, clap and tokenizer, each in a folder of that name."""
    return {
        "t5": make_t5(folder / "t5"),
        "clap": make_clap(folder / "clap"),
        "tokenizer": make_clap_tokenizer(folder / "tokenizer"),
    }
