"""Weights and inputs that a name alone determines: a golden case needs no checkpoint, only the numbers expected.

A reference implementation and this one list the keys and shapes of a state dict, draw each tensor by this rule, run the
same input and must agree. Any change here invalidates every stored case.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np
import torch
from torch import nn

SPREADS = ("running_var", "latent_std", "data_std")  # positive: 1 + 0.1 |n|
MAGNITUDES = ("original0", "weight_g")  # of weight norm: 0.35 (1 + 0.1 n), which keeps deep stacks in range
CENTRES = ("latent_mean", "data_mean")  # small although they have several dimensions
CONSTANTS = ("filter",)  # keys that hold one of these are not drawn: a model computes them from its settings

Module = TypeVar("Module", bound=nn.Module)


def value(key: str, shape: tuple[int, ...], salt: int = 0) -> np.ndarray:
    """The float32 tensor `key` of a state dict.

    n is standard normal from a generator seeded by crc32(key) + salt. Weights of two or more dimensions are n over the
    root of their fan-in, gains of norms 1 + 0.1 n, biases and the like 0.1 n; exceptions by the end of the key above.

    Args:
        key: as the state dict spells it.
        salt: another set of weights for the same keys.
    """
    n = np.random.default_rng(zlib.crc32(key.encode()) + salt).standard_normal(shape)
    if key.endswith(SPREADS):
        drawn = 1 + 0.1 * np.abs(n)
    elif key.endswith(MAGNITUDES):
        drawn = 0.35 * (1 + 0.1 * n)
    elif len(shape) >= 2 and not key.endswith(CENTRES):
        drawn = n / math.sqrt(math.prod(shape[1:]))
    elif len(shape) <= 1 and ("norm" in key or key.endswith(".weight")):
        drawn = 1 + 0.1 * n
    else:
        drawn = 0.1 * n
    return np.asarray(drawn, dtype=np.float32)


def array(name: str, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """A float32 input: standard normal from a generator seeded by crc32(name), times `scale`. No salt."""
    return np.asarray(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * scale, dtype=np.float32)


def fill(
    module: Module, salt: int = 0, spelled: Callable[[str], str] = str, constants: Iterable[str] = CONSTANTS
) -> Module:
    """Draws a module's state dict in place and puts it into evaluation mode; counters and constants stay.

    Args:
        spelled: a key of this project to the key of the state dict that the case was computed with.
        constants: what the keys of tensors hold that are left alone.
    """
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            name = spelled(key)
            if tensor.is_floating_point() and not any(part in name for part in constants):
                tensor.copy_(torch.from_numpy(value(name, tuple(tensor.shape), salt)))
    return module.eval()
