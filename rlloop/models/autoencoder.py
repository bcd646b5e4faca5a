"""The one-dimensional mel autoencoder (reference.md section 5.2), from which every latent comes.

Convolutions are magnitude-preserving: stored weights are raw, `MPConv1d` normalises them whenever it runs, so a
checkpoint may be loaded and saved any number of times and is normalised exactly once.
Published sizes: width 384 (16 kHz) or 512 (44.1 kHz), multipliers (1, 2, 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLAMP = 256.0


def activation(x: Tensor) -> Tensor:
    """SiLU scaled so that a unit-variance input keeps its magnitude."""
    return F.silu(x) / 0.596


def pixel_norm(x: Tensor) -> Tensor:
    """Divides by the root mean square over channels, dimension 1."""
    return x / (1e-4 + x.square().mean(dim=1, keepdim=True).sqrt())


def mix(a: Tensor, b: Tensor) -> Tensor:
    """Magnitude-preserving sum of 70 % a and 30 % b."""
    return (0.7 * a + 0.3 * b) / math.sqrt(0.58)


class MPConv1d(nn.Module):
    """A bias-free convolution with weight rows of unit norm: w / (1e-4 + |w| / sqrt n) / sqrt n, n = in * kernel."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        root = math.sqrt(self.weight[0].numel())
        norm = self.weight.flatten(1).norm(dim=1)[:, None, None]
        weight = self.weight / (1e-4 + norm / root) * (gain / root)
        return F.conv1d(x, weight, padding=self.weight.shape[-1] // 2)


class ResBlock(nn.Module):
    """[B, in, L] -> [B, out, L]."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = MPConv1d(in_channels, out_channels, 3)
        self.conv2 = MPConv1d(out_channels, out_channels, 3)
        if in_channels != out_channels:
            self.nin_shortcut = MPConv1d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = pixel_norm(x)
        h = self.conv2(activation(self.conv1(activation(x))))
        shortcut = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        return mix(shortcut, h).clamp(-CLAMP, CLAMP)


class AttnBlock(nn.Module):
    """Single-head self-attention over time; q, k, v interleave: channel = c * 3 + j."""

    def __init__(self, channels: int):
        super().__init__()
        self.qkv = MPConv1d(channels, channels * 3, 1)
        self.proj_out = MPConv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, length = x.shape
        q, k, v = pixel_norm(self.qkv(x).view(batch, channels, 3, length)).permute(2, 0, 3, 1)
        h = F.scaled_dot_product_attention(q, k, v)  # scale 1 / sqrt(channels)
        return mix(x, self.proj_out(h.transpose(1, 2)))


class Middle(nn.Module):
    """Block, attention, block at the coarsest width."""

    def __init__(self, channels: int):
        super().__init__()
        self.block_1 = ResBlock(channels, channels)
        self.attn_1 = AttnBlock(channels)
        self.block_2 = ResBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)).clamp(-CLAMP, CLAMP))


class Downsample(nn.Module):
    """Halves the frame rate; an odd last frame is dropped."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = MPConv1d(channels, channels, 1)
        self.conv2 = MPConv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.avg_pool1d(self.conv1(x), 2))


class Upsample(nn.Module):
    """Doubles the frame rate by repetition, then smooths."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = MPConv1d(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.repeat_interleave(2, dim=-1))


class Encoder(nn.Module):
    """Normalised mel [B, M, F] -> mean and log-variance stacked, [B, 2 Z, F // 2]."""

    def __init__(self, num_mels: int, latent_dim: int, width: int, multipliers: Sequence[int]):
        super().__init__()
        self.learnable_gain = nn.Parameter(torch.zeros(()))
        self.conv_in = MPConv1d(num_mels, width, 3)
        self.down = nn.ModuleList()
        channels = width
        for level, multiplier in enumerate(multipliers):
            stage = nn.Module()
            out = width * multiplier
            stage.block = nn.ModuleList([ResBlock(channels if i == 0 else out, out) for i in range(2)])
            if level == 0:
                stage.downsample = Downsample(out)
            self.down.append(stage)
            channels = out
        self.mid = Middle(channels)
        self.conv_out = MPConv1d(channels, 2 * latent_dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for stage in self.down:
            for block in stage.block:
                x = block(x)
            if hasattr(stage, "downsample"):
                x = stage.downsample(x)
        return self.conv_out(activation(self.mid(x)), gain=self.learnable_gain + 1)


class Decoder(nn.Module):
    """Latents [B, Z, L] -> normalised mel [B, M, 2 L]."""

    def __init__(self, num_mels: int, latent_dim: int, width: int, multipliers: Sequence[int]):
        super().__init__()
        self.learnable_gain = nn.Parameter(torch.zeros(()))
        channels = width * multipliers[-1]
        self.conv_in = MPConv1d(latent_dim, channels, 3)
        self.mid = Middle(channels)
        stages = []
        for level in reversed(range(len(multipliers))):
            stage = nn.Module()
            out = width * multipliers[level]
            stage.block = nn.ModuleList([ResBlock(channels if i == 0 else out, out) for i in range(3)])
            if level == 1:  # the only change of rate: between levels 1 and 0, as in the encoder
                stage.upsample = Upsample(out)
            stages.insert(0, stage)
            channels = out
        self.up = nn.ModuleList(stages)
        self.conv_out = MPConv1d(channels, num_mels, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for stage in reversed(self.up):
            for block in stage.block:
                x = block(x)
            if hasattr(stage, "upsample"):
                x = stage.upsample(x)
        return self.conv_out(activation(x), gain=self.learnable_gain + 1)


class Autoencoder(nn.Module):
    """Log-mel to Gaussian posterior and back.

    Args:
        num_mels: mel bands M. latent_dim: Z. width: channels at the finest level.
        multipliers: channels of each level over width; at least two levels (the rate halves between 0 and 1).
    """

    def __init__(self, num_mels: int, latent_dim: int, width: int, multipliers: Sequence[int] = (1, 2, 4)):
        super().__init__()
        if len(multipliers) < 2:
            raise ValueError(f"multipliers {tuple(multipliers)}: the autoencoder needs at least two levels")
        self.register_buffer("data_mean", torch.zeros(1, num_mels, 1))
        self.register_buffer("data_std", torch.ones(1, num_mels, 1))
        self.encoder = Encoder(num_mels, latent_dim, width, multipliers)
        self.decoder = Decoder(num_mels, latent_dim, width, multipliers)

    def encode(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel [B, M, F] -> posterior mean and standard deviation, each [B, Z, F // 2]."""
        mean, log_variance = self.encoder((mel - self.data_mean) / self.data_std).chunk(2, dim=1)
        return mean, (0.5 * log_variance.clamp(-30.0, 20.0)).exp()

    def decode(self, z: Tensor) -> Tensor:
        """Latents [B, Z, L], not normalised, -> log-mel [B, M, 2 L]."""
        return self.decoder(z) * self.data_std + self.data_mean
