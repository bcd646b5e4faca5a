"""Mel to waveform for the mini stack: magnitudes by a small network, phases by Griffin-Lim.

Deterministic: phases start from the frequencies of the spectral peaks, not from noise, so few iterations are enough.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlloop.models.mel import MelSettings, mel_filterbank


def peak_phases(magnitude: Tensor, n_fft: int, hop: int) -> Tensor:
    """Phases that advance at the frequency of the nearest spectral peak (Beauregard et al. 2015, single pass).

    A peak's frequency is the vertex of the parabola through it and its neighbours; every bin takes the
    advance of the peak nearest below or above it, and alternate bins of a windowed sinusoid differ by pi.

    Args:
        magnitude: [B, bins, frames].
    Returns:
        [B, bins, frames] in radians.
    """
    bins = magnitude.shape[1]
    left, right = F.pad(magnitude, (0, 0, 1, 0))[:, :-1], F.pad(magnitude, (0, 0, 0, 1))[:, 1:]
    is_peak = (magnitude > left) & (magnitude >= right)
    offset = 0.5 * (left - right) / (left - 2 * magnitude + right).clamp(max=-1e-9)
    index = torch.arange(bins, device=magnitude.device)[None, :, None]
    below = torch.where(is_peak, index, -1).cummax(dim=1).values
    above = torch.where(is_peak, index, 2 * bins).flip(1).cummin(dim=1).values.flip(1)
    nearest = torch.where((index - below <= above - index) & (below >= 0), below, above).clamp(max=bins - 1)
    frequency = (index + offset.clamp(-0.5, 0.5)).gather(1, nearest)
    advance = 2 * math.pi * hop / n_fft * frequency
    return advance.cumsum(dim=2) + math.pi * (index % 2)


class FilterbankInverse(nn.Module):
    """Log-mel [B, M, F] to non-negative magnitudes [B, bins, F] with that mel; nothing is learned.

    Multiplicative updates (Lee and Seung 2001) of the clipped pseudo-inverse.
    """

    def __init__(self, settings: MelSettings, num_updates: int = 8):
        super().__init__()
        self.settings = settings
        self.num_updates = num_updates
        filters = mel_filterbank(settings)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("inverse", torch.linalg.pinv(filters), persistent=False)

    def forward(self, log_mel: Tensor) -> Tensor:
        mel = 10.0**log_mel if self.settings.log_base == "10" else log_mel.exp()
        x = (self.inverse @ mel).clamp(min=1e-6)
        for _ in range(self.num_updates):
            x = x * (self.filters.T @ mel) / (self.filters.T @ (self.filters @ x)).clamp(min=1e-9)
        return x


class MagnitudeNet(nn.Module):
    """Log-mel [B, M, F] to magnitudes [B, bins, F]: the filterbank's inverse, corrected by what the neighbours tell.

    A mel band is wider than a bin below 1 kHz, so where in a band a harmonic lies must be guessed from its context.
    """

    def __init__(self, settings: MelSettings, width: int):
        super().__init__()
        self.inverse = FilterbankInverse(settings, num_updates=0)
        self.conv_in = nn.Conv1d(settings.num_mels, width, 5, padding=2)
        self.conv_mid = nn.Conv1d(width, width, 3, padding=1)
        self.conv_out = nn.Conv1d(width, settings.n_fft // 2 + 1, 1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def log_magnitude(self, log_mel: Tensor) -> Tensor:
        """Natural logarithm of the magnitudes."""
        h = F.silu(self.conv_in(log_mel))
        h = h + F.silu(self.conv_mid(h))
        return self.inverse(log_mel).clamp(min=1e-4).log() + self.conv_out(h)

    def forward(self, log_mel: Tensor) -> Tensor:
        return self.log_magnitude(log_mel).exp()


class MelInversion(nn.Module):
    """Log-mel [B, M, F] to waveform [B, F * hop].

    Args:
        to_magnitude: log-mel to magnitudes [B, bins, F].
        num_iterations: Griffin-Lim iterations with momentum (Perraudin et al. 2013).
    """

    def __init__(self, settings: MelSettings, to_magnitude: nn.Module, num_iterations: int = 4, momentum: float = 0.99):
        super().__init__()
        self.settings = settings
        self.to_magnitude = to_magnitude
        self.num_iterations = num_iterations
        self.momentum = momentum
        self.register_buffer("window", torch.hann_window(settings.n_fft), persistent=False)

    def forward(self, log_mel: Tensor) -> Tensor:
        magnitude = self.to_magnitude(log_mel)
        phase = peak_phases(magnitude, self.settings.n_fft, self.settings.hop)
        spectrum = torch.polar(magnitude, phase)
        previous = torch.zeros_like(spectrum)
        for _ in range(self.num_iterations):
            projected = self._analyse(self._synthesise(spectrum))
            step = projected + self.momentum * (projected - previous)
            parts = torch.view_as_real(step)  # complex abs() is several times slower
            spectrum = step * (magnitude * (parts.square().sum(-1) + 1e-16).rsqrt())
            previous = projected
        return self._synthesise(spectrum)

    def _synthesise(self, spectrum: Tensor) -> Tensor:
        """Inverse of `_analyse`; frames start (n_fft - hop) / 2 before the waveform: [B, F * hop]."""
        frames = torch.fft.irfft(spectrum, n=self.settings.n_fft, dim=1) * self.window[None, :, None]
        weight = self._overlap_add(self.window.square()[None, :, None].expand(1, -1, frames.shape[2]))
        pad = (self.settings.n_fft - self.settings.hop) // 2
        return (self._overlap_add(frames) / weight.clamp(min=1e-4))[:, pad:-pad]

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """[B, n_fft, F] -> [B, (F - 1) * hop + n_fft]; n_fft is a multiple of hop."""
        hop, (batch, n_fft, count) = self.settings.hop, frames.shape
        parts = frames.transpose(1, 2).reshape(batch, count, n_fft // hop, hop)
        total = frames.new_zeros(batch, count + n_fft // hop - 1, hop)
        for index in range(n_fft // hop):
            total[:, index : index + count] += parts[:, :, index]
        return total.flatten(1)

    def _analyse(self, waveform: Tensor) -> Tensor:
        n_fft, hop = self.settings.n_fft, self.settings.hop
        pad = (n_fft - hop) // 2
        padded = F.pad(waveform, (pad, pad), mode="reflect")
        return torch.stft(padded, n_fft, hop, window=self.window, center=False, return_complex=True)
