"""FLAN-T5 sequence features of prompts (reference.md section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rlloop.models.pretrained import (
    check_vocabulary,
    content_digest,
    load_model,
    load_tokenizer,
    model_files,
    tokenizer_files,
)

MAX_TOKENS = 77


def t5_files(folder: Path) -> list[Path]:
    """The files that decide the features. Raises ValueError where one is missing."""
    return [*model_files(folder), *tokenizer_files(folder)]


def t5_digest(folder: Path) -> str:
    """sha256 over the contents of those files: two folders with one digest give the same features."""
    return content_digest(t5_files(folder))


class FlanT5:
    """The encoder of google/flan-t5-large, or of another T5, from a local folder; its decoder is not loaded.

    Args:
        folder: config.json, safetensors weights and the tokenizer's files.
    Raises:
        ValueError: one line that names the folder and the first thing that is wrong.
    """

    def __init__(self, folder: Path | str, device: str | torch.device = "cpu"):
        # Late import: most runs read cached features and never need transformers.
        from transformers import T5EncoderModel

        self.tokenizer = load_tokenizer(Path(folder))
        self.model = load_model(T5EncoderModel, Path(folder)).to(device)
        check_vocabulary(Path(folder), self.tokenizer, self.model)

    @property
    def width(self) -> int:
        """Features a token: 1024 for flan-t5-large."""
        return self.model.config.d_model

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """The last hidden states, [B, 77, width] float32 on the encoder's device.

        Longer prompts are cut at 77 tokens, the end token included. Padding is masked inside the encoder and kept in
        its output: the generator attends to it, too. Every prompt is padded to 77, so its features do not depend on the
        batch that it comes in (but for the rounding of a differently shaped product).
        """
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).to(self.model.device)
        hidden = self.model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        return hidden.float()
