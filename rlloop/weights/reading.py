"""Loading weights that come from strangers: nothing is un-pickled, and a wrong file costs one clear line.

The line names the file and the first key that disagrees.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

ZIP, LEGACY = b"PK\x03\x04", b"\x80\x02"
LFS_POINTER = b"version https://git-lfs"
KINDS = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1")


class _Dtype:
    """Stands for numpy's dtype in a pickle: of a plain number or refused, and its state is not looked at."""

    def __init__(self, kind: str, *flags: object):
        if kind not in KINDS:
            raise ValueError(f"a numpy number of type {kind!r} is not read")
        self.kind = kind

    def __setstate__(self, state: object) -> None:
        pass


def _number(dtype: _Dtype, raw: bytes) -> float | int | bool:
    """Stands for numpy's function of a dtype and its bytes."""
    return np.frombuffer(raw, np.dtype(dtype.kind), count=1)[0].item()


# The CLAP checkpoints carry their optimizer, whose learning rate is a numpy number: data, like a Python one. Torch
# wants a function named as the file names it; numpy 1 and 2 differ.
NUMPY_NUMBERS = [
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
    (_Dtype, "numpy.dtype"),
]


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
    shapes = _shapes(expected)
    if not path.is_file():
        raise ValueError(f"{path} is missing: a safetensors file with {len(shapes)} tensors is expected there")
    try:
        with safe_open(path, framework="pt") as file:
            _compare(path, {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}, shapes)
            tensors = {key: _as_float32(file.get_tensor(key)) for key in shapes}
    except (SafetensorError, struct.error, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    _refuse_non_finite(path, tensors)
    return tensors


def read_checkpoint(path: Path, names: Sequence[tuple[Any, str]] = ()) -> dict[str, Any]:
    """What a safetensors or torch file holds, on the CPU, as it was saved: often nested, in any precision.

    A torch file is read with `weights_only=True`: tensors, plain containers and numbers. Tensors may be mapped
    from the file, so do not write to it while they are in use.

    Args:
        names: what stands for names that a torch file may hold besides; give objects that do nothing when called.
    Returns:
        the file's dict; for a safetensors file, tensors by key.
    Raises:
        ValueError: missing, empty, truncated, not a checkpoint (a web page, a git-lfs pointer), or a pickle that wants
            more than that; one line that names the file, and in the last case the object.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing: a safetensors or torch file is expected there")
    head = _head(path)
    if head.startswith((ZIP, LEGACY)):
        found = _read_torch(path, head.startswith(ZIP), names)
    elif len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 1 << 32:
        found = _read_safetensors(path)
    else:
        raise ValueError(f"{path} {what_it_is(head)}; expected a safetensors or torch file")
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, expected a dict of tensors")
    return found


def read_metadata(path: Path) -> dict[str, str]:
    """The strings that a safetensors file carries beside its tensors.

    Raises:
        ValueError: not a readable safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, struct.error, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {_line(error)}") from error


def check_tensors(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor | tuple[int, ...]]) -> None:
    """Compares tensors with what a model expects.

    Args:
        path: where they come from, for the message.
        expected: a state dict, or shapes by key.
    Raises:
        ValueError: a key is missing, foreign, no tensor, of another shape or not finite; names file and first such key.
    """
    for key, value in found.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{path}: {key} is a {type(value).__name__}, expected a tensor")
    _compare(path, _shapes(found), _shapes(expected))
    _refuse_non_finite(path, found)


def what_it_is(head: bytes) -> str:
    """Says what a file that is no checkpoint looks like, from its first bytes."""
    text = head.lstrip().lower()
    if not head:
        return "is empty"
    if head.startswith(LFS_POINTER):
        return "is a git-lfs pointer, not the file itself (`git lfs pull` in the repository fetches it)"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "looks like a web page, perhaps an error or a log-in page saved under this name"
    if not any(head):
        return "begins with zeros, as a download that was never completed does"
    return f"begins with {head[:8]!r}"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, struct.error, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {_line(error)}") from error


def _read_torch(path: Path, is_zip: bool, names: Sequence[tuple[Any, str]]) -> Any:
    try:
        with torch.serialization.safe_globals([*NUMPY_NUMBERS, *names]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)|function <?(\S+)", str(error))
        if wanted is None:
            raise ValueError(f"{path} is not a readable torch file: {_line(error)}") from error
        raise ValueError(
            f"{path} is refused: its pickle wants {wanted[1] or wanted[2]}, and only tensors, plain containers and "
            "numbers are read; export its state dict as safetensors where the file is trusted"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, struct.error) as error:
        size = path.stat().st_size
        raise ValueError(f"{path} is truncated or not a torch file ({size} bytes): {_line(error)}") from error


def _compare(path: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    for key in [*expected, *sorted(set(found) - set(expected))]:
        if key not in found:
            raise ValueError(f"{path}: {key} is missing, shape {expected[key]} is expected")
        if key not in expected:
            raise ValueError(f"{path}: {key} of shape {found[key]} is not a tensor of this model")
        if found[key] != expected[key]:
            raise ValueError(f"{path}: {key} has shape {found[key]}, expected {expected[key]}")


def _refuse_non_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{path}: {key} holds values that are not finite")


def _shapes(tensors: Mapping[str, Tensor | tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) if isinstance(value, Tensor) else tuple(value) for key, value in tensors.items()}


def _as_float32(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _line(error: Exception) -> str:
    """The first line of an error's text, or its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
