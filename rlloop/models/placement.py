"""Where a sampler's networks run and in which arithmetic; the trained network itself stays float32."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from rlloop.audio.precision import full_float32

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DEVICES = ("auto", "cpu", "cuda")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def choose_device(name: str) -> torch.device:
    """The device called auto (CUDA where there is one, else the CPU), cpu or cuda.

    Raises:
        ValueError: an unknown name, or cuda where there is none.
    """
    if name not in DEVICES:
        raise ValueError(f"device {name!r} is not one of {', '.join(DEVICES)}")
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise ValueError("device is cuda, but this process sees no CUDA device; set it to auto or cpu")
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def choose_dtype(name: str) -> torch.dtype:
    """float32 or bfloat16 by name.

    Raises:
        ValueError: another name.
    """
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[name]


def cast_layers(network: nn.Module, dtype: torch.dtype) -> None:
    """Casts the weights of linear and convolution layers, and whatever else is learned, in place.

    What the network itself stores without learning it (latent statistics, empty features), buffers, and the gains of
    the QK norm stay as they are: the norm is computed in float32 (reference.md section 12.1, point 3).
    """
    for module in network.modules():
        if module is network or isinstance(module, nn.RMSNorm):
            continue
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)


def keep_large_blocks() -> None:
    """Makes glibc keep freed blocks of up to 2 GB for the next allocation; holds for the whole process.

    By default a block above 32 MB goes back to the kernel when it is freed, and the next one comes page by page:
    173 000 page faults and 22 % of the time per clip in a batch of 16 official ones on a CPU thread. Without
    glibc, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            mallopt(parameter, 2**31 - 1)


@contextmanager
def tf32_allowed() -> Iterator[None]:
    """CUDA may round the inputs of float32 products and convolutions to TF32 while it lasts."""
    with full_float32():  # puts back what was allowed before
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        yield
