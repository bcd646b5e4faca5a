"""Published statistics of the autoencoders' latents, per channel (reference.md section 2.5).

Rounded to five digits as they are known here. A checkpoint carries its own, and those are authoritative; these serve
networks that are trained from scratch, and to notice a checkpoint whose statistics are others.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

MEAN_16K = (
    -0.64761, 0.98774, -0.83598, -0.36784, -0.48279, -2.0106, 0.65110, 0.10017, -0.14001, -1.8150,
    0.092880, -0.53110, -0.053512, -0.77239, -0.050591, 0.13437, 0.49585, -0.36069, -0.10222, -0.0019824,
)  # fmt: skip
STD_16K = (
    1.5681, 2.3768, 1.5437, 1.3801, 1.5324, 1.7143, 2.2959, 1.3979, 1.2011, 1.8796,
    1.2373, 1.8964, 2.0382, 2.2703, 1.2009, 1.6838, 1.2672, 2.3861, 1.2355, 1.4725,
)  # fmt: skip
MEAN_44K = (
    -0.30962, -0.79694, 0.27392, -0.40612, 0.04214, -0.63518, 0.15975, 0.31062, 0.14485, -0.25913,
    0.18791, -0.17850, -1.66374, 0.57640, 0.76970, -1.87009, 0.89560, 0.62064, -0.28672, -0.54349,
    -0.70821, -0.32192, 1.08313, -0.41570, -0.19958, 0.28036, 0.64189, -0.10333, 0.48059, -0.10103,
    -1.01690, 0.44718, 1.42495, -1.07247, 0.23363, -0.15578, -0.09170, 0.19564, -0.93058, -0.54060,
)  # fmt: skip
STD_44K = (
    1.98273, 2.21553, 1.65357, 1.48067, 1.91378, 1.95657, 1.60348, 1.71872, 1.52270, 2.95074,
    1.50262, 1.70518, 1.98856, 1.59956, 1.49013, 2.29889, 2.16809, 2.20788, 1.46107, 1.57678,
    1.87270, 1.70033, 2.02275, 1.84893, 1.98052, 1.75749, 1.99661, 1.52252, 1.51792, 1.59472,
    1.82948, 1.52906, 2.36371, 1.74414, 1.73835, 1.45338, 1.53991, 1.67325, 1.82439, 1.96260,
)  # fmt: skip

PUBLISHED = {20: (MEAN_16K, STD_16K), 40: (MEAN_44K, STD_44K)}  # by latent channels
RATES = {20: "16 kHz", 40: "44.1 kHz"}
ROUNDING = 1e-4  # of the numbers above
LARGEST = 1e3


def published_statistics(latent_dim: int) -> dict[str, Tensor]:
    """{"latent_mean", "latent_std"}, each [1, 1, D], as a network stores them.

    Raises:
        ValueError: no published autoencoder has latents of this many channels.
    """
    if latent_dim not in PUBLISHED:
        raise ValueError(f"no published latents have {latent_dim} channels; known are 20 (16 kHz) and 40 (44.1 kHz)")
    mean, std = (torch.tensor(values).view(1, 1, -1) for values in PUBLISHED[latent_dim])
    return {"latent_mean": mean, "latent_std": std}


def check_statistics(path: Path, mean: Tensor, std: Tensor) -> None:
    """Refuses statistics that no latents have; others are the checkpoint's to choose. NaN is for the reader to refuse.

    Raises:
        ValueError: a deviation is not positive, or a value is far beyond the scale of latents.
    """
    if std.min() <= 0:
        raise ValueError(f"{path}: latent_std has {float(std.min()):g} for a channel, expected positive deviations")
    for key, values in (("latent_mean", mean), ("latent_std", std)):
        largest = float(values.abs().max())
        if largest > LARGEST:
            raise ValueError(f"{path}: {key} reaches {largest:g}, expected values of the order of one")


def compare_statistics(mean: Tensor, std: Tensor) -> list[str]:
    """A line for each statistic that is not the published one of its number of channels."""
    dim, lines = mean.numel(), []
    if dim not in PUBLISHED:
        return lines
    for key, found in (("latent_mean", mean), ("latent_std", std)):
        gap = (found.detach().flatten() - published_statistics(dim)[key].flatten()).abs().max()
        if gap > ROUNDING:
            lines.append(f"{key} differs from the published one of {RATES[dim]} by up to {float(gap):.3g}; it is used")
    return lines
