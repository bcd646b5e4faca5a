"""Weights of strangers: what there is, where it lies on this machine, and how it is read without running anything."""

from rlloop.weights.catalogue import resolve
from rlloop.weights.reading import check_tensors, load_safetensors, read_checkpoint

__all__ = ["check_tensors", "load_safetensors", "read_checkpoint", "resolve"]
