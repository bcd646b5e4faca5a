"""Published text encoders in the layout of transformers: which files decide what they compute, and strict loading.

transformers itself fills a missing weight with random numbers and a warning; here that is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch

# The first that is there is the one that decides; both files of a pair belong together.
VOCABULARIES = (("tokenizer.json",), ("spiece.model",), ("vocab.json", "merges.txt"))
OPTIONAL = ("tokenizer_config.json",)

Model = TypeVar("Model", bound=torch.nn.Module)


def content_digest(files: Iterable[Path]) -> str:
    """sha256 in hexadecimal over the contents of files in their order; their names do not enter."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def model_files(folder: Path) -> list[Path]:
    """config.json and the safetensors file, or all that model.safetensors.index.json names.

    Raises:
        ValueError: the folder or one of them is missing, or the index is damaged; one line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; expected one with config.json and model.safetensors")
    index = folder / "model.safetensors.index.json"
    weights = ["model.safetensors"]
    if not (folder / weights[0]).exists() and index.exists():
        try:
            weights = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise ValueError(f"{index} is no index of safetensors files; fetch it again") from None
    files = [folder / name for name in ("config.json", *weights)]
    for path in files:
        if not path.is_file():
            raise ValueError(f"{path} is missing; expected config.json and safetensors weights in {folder}")
    return files


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a tokenizer that decide its tokens.

    Raises:
        ValueError: there is no vocabulary; one line.
    """
    folder = Path(folder)
    for names in VOCABULARIES:
        if all((folder / name).is_file() for name in names):
            return [folder / name for name in (*names, *OPTIONAL) if (folder / name).is_file()]
    wanted = ", or ".join(" and ".join(names) for names in VOCABULARIES)
    raise ValueError(f"{folder} holds no tokenizer; expected {wanted}")


def load_tokenizer(folder: Path) -> Any:
    """A tokenizer from a local folder, without a hub.

    Raises:
        ValueError: it is missing or damaged, or has no padding token; one line.
    """
    from transformers import AutoTokenizer

    tokenizer_files(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise ValueError(f"{folder} holds no loadable tokenizer: {first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{folder}: the tokenizer has no padding token; it is not the one of this encoder")
    return tokenizer


def load_model(kind: type[Model], folder: Path) -> Model:
    """A transformers model in float32 and eval mode, every weight of it from the folder's safetensors files.

    Raises:
        ValueError: a file is missing or damaged, or a weight is missing, misshapen or not finite; names the first.
    """
    from transformers.utils import logging

    model_files(folder)
    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # the decoder's weights, which an encoder leaves out, are no news
    logging.disable_progress_bar()
    try:
        model, found = kind.from_pretrained(  # pyright: ignore[reportAttributeAccessIssue]
            str(folder), local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:
        raise ValueError(f"{folder} holds no loadable {kind.__name__}: {first_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()
    missing = sorted(found["missing_keys"]) + sorted(str(key) for key in found["mismatched_keys"])
    if missing:
        raise ValueError(f"{folder}: {missing[0]} is missing or of another shape; expected a {kind.__name__}")
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{folder}: {name} holds values that are not finite")
    return model.eval().requires_grad_(False)


def check_vocabulary(folder: Path, tokenizer: Any, model: Any) -> None:
    """Refuses a tokenizer that knows more tokens than the model.

    Raises:
        ValueError: with both numbers.
    """
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model {model.config.vocab_size}; "
            "expected the tokenizer that the model was trained with"
        )


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, its type's name where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
