"""Reads the golden cases beside this file: outputs of the reference implementation on weights drawn by weights.py."""

import gzip
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlloop.recipes.golden_rule import array, fill

__all__ = ["FOLDER", "arrays", "case", "drawn_inputs", "fill", "published"]
FOLDER = Path(__file__).parent


def case(name: str) -> dict:
    """The entry of index.json."""
    return json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))[name]


def arrays(name: str) -> dict[str, Tensor]:
    """Expected tensors."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def drawn_inputs(name: str) -> dict[str, Tensor]:
    """Inputs, drawn by the rule where the index names one (name, shape, scale), else the numbers themselves."""
    inputs = case(name)["inputs"]
    return {
        key: torch.from_numpy(array(*rule)) if isinstance(rule[0], str) else torch.tensor(rule)
        for key, rule in inputs.items()
    }


def published(name: str) -> dict[str, str]:
    """Keys of a published state dict and their shapes as tuples in writing."""
    path = FOLDER / f"statedict_{name}.tsv"
    text = path.read_text(encoding="utf-8") if path.exists() else gzip.open(f"{path}.gz", "rt").read()
    return dict(row.split("\t")[:2] for row in text.splitlines())
