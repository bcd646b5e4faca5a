"""Loading weights that come from strangers: safetensors only, one clear line when a file is not what it should be."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


def load_safetensors(path: Path, expected: Mapping[str, Tensor | tuple[int, ...]]) -> dict[str, Tensor]:
    """Reads a safetensors file whose keys and shapes must be exactly those of `expected`.

    Args:
        expected: a state dict, or shapes by key.
    Returns:
        tensors by key; floating-point ones as float32.
    Raises:
        ValueError: the file is missing or damaged, or a key is missing, foreign, of another shape or not finite; names
            the file and the first such key.
    """
    shapes = {key: tuple(value.shape) if isinstance(value, Tensor) else tuple(value) for key, value in expected.items()}
    if not path.is_file():
        raise ValueError(f"{path} is missing: a safetensors file with {len(shapes)} tensors is expected there")
    try:
        with safe_open(path, framework="pt") as file:
            found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
            _compare(path, found, shapes)
            tensors = {key: _as_float32(file.get_tensor(key)) for key in shapes}
    except (SafetensorError, struct.error, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{path}: {key} holds values that are not finite")
    return tensors


def _compare(path: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    for key in [*expected, *sorted(set(found) - set(expected))]:
        if key not in found:
            raise ValueError(f"{path}: {key} is missing, shape {expected[key]} is expected")
        if key not in expected:
            raise ValueError(f"{path}: {key} of shape {found[key]} is not a tensor of this model")
        if found[key] != expected[key]:
            raise ValueError(f"{path}: {key} has shape {found[key]}, expected {expected[key]}")


def _as_float32(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
