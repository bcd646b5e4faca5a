"""CLAP text features of prompts, which the generator is conditioned on (reference.md section 6).

The checkpoint is another one than that of the scores (section 8), so this is separate from rlloop.rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlloop.models.pretrained import check_vocabulary, content_digest, load_model, model_files, tokenizer_files

if TYPE_CHECKING:
    from transformers import ClapModel


def clap_text_files(checkpoint: Path, tokenizer_folder: Path) -> list[Path]:
    """The files that decide the features. Raises ValueError where one is missing."""
    if not checkpoint.exists():
        raise ValueError(f"{checkpoint} is missing; expected a LAION-CLAP checkpoint")
    weights = model_files(checkpoint) if checkpoint.is_dir() else [checkpoint]
    return [*weights, *tokenizer_files(tokenizer_folder)]


def clap_text_digest(checkpoint: Path, tokenizer_folder: Path) -> str:
    """sha256 over the contents of those files: one digest, the same features."""
    return content_digest(clap_text_files(checkpoint, tokenizer_folder))


class ClapText:
    """The text side of LAION-CLAP: RoBERTa, its pooler and the projection into the common space.

    Args:
        checkpoint: a published LAION-CLAP file, or a folder with a ClapModel in the layout of transformers.
        tokenizer_folder: the tokenizer of roberta-base.
    Raises:
        ValueError: one line that names the file and the first thing that is wrong.
    """

    def __init__(self, checkpoint: Path | str, tokenizer_folder: Path | str, device: str | torch.device = "cpu"):
        # Late import: most runs read cached features and never need transformers.
        from rlloop.weights.clap import clap_tokenizer

        checkpoint, tokenizer_folder = Path(checkpoint), Path(tokenizer_folder)
        clap_text_files(checkpoint, tokenizer_folder)
        self.tokenizer = clap_tokenizer(tokenizer_folder)
        self.model = load_any_clap(checkpoint)
        del self.model.audio_model, self.model.audio_projection  # never used here
        self.model.to(device)
        check_vocabulary(tokenizer_folder, self.tokenizer, self.model.text_model)

    @property
    def width(self) -> int:
        """Features a prompt: 512."""
        return self.model.config.projection_dim

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors [B, width] float32 on the encoder's device.

        An empty prompt is encoded as text like any other; prompts are cut at 77 tokens, and padded to 77 as LAION-CLAP
        does.
        """
        from rlloop.weights.clap import embed_text

        return embed_text(self.model, self.tokenizer, prompts)


def load_any_clap(checkpoint: Path) -> ClapModel:
    """A ClapModel from a LAION-CLAP file, or from a folder in the layout of transformers."""
    if checkpoint.is_dir():
        from transformers import ClapModel

        return load_model(ClapModel, checkpoint)
    from rlloop.weights.clap import load_clap

    return load_clap(checkpoint)
