"""Weights of strangers: what there is, where it lies on this machine, and how it is read without running anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlloop.weights.catalogue import resolve

if TYPE_CHECKING:
    from rlloop.weights.reading import check_tensors, load_safetensors, read_checkpoint

__all__ = ["check_tensors", "load_safetensors", "read_checkpoint", "resolve"]


def __getattr__(name: str) -> Any:
    # Reading needs torch, which takes seconds to import; listing and fetching do not.
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from rlloop.weights import reading

    return getattr(reading, name)
