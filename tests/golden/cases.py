"""Reads the golden cases beside this file: outputs of the reference implementation on weights drawn by weights.py."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tests.golden.weights import array, value

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


def fill(module: nn.Module, salt: int = 0) -> nn.Module:
    """Fills a module's state dict by the rule; in eval mode."""
    state = {key: torch.from_numpy(value(key, tuple(old.shape), salt)) for key, old in module.state_dict().items()}
    module.load_state_dict(state)
    return module.eval()
