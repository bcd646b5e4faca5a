"""Waveform to log-mel, and the constants of the two published settings and the mini stack.

Separate from the autoencoder because the vocoder inverts the same filterbank (reference.md section 5.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class MelSettings:
    """Settings of a log-mel; frequencies in Hz, sizes in samples, `log_base` 10 or "e"."""

    sample_rate_hz: int
    n_fft: int
    hop: int
    num_mels: int
    f_min_hz: float
    f_max_hz: float
    log_base: str

    def num_frames(self, num_samples: int) -> int:
        """Frames of `num_samples` samples: reflect padding (n_fft - hop) / 2 on both sides, no centring."""
        return (num_samples + 2 * ((self.n_fft - self.hop) // 2) - self.n_fft) // self.hop + 1


MEL_16K = MelSettings(16_000, 1024, 256, 80, 0.0, 8_000.0, "10")
MEL_44K = MelSettings(44_100, 2048, 512, 128, 0.0, 22_050.0, "e")

_BREAK_HZ, _BREAK_MEL, _LOG_STEP = 1000.0, 15.0, np.log(6.4) / 27.0


def _hz_to_mel(hz: np.ndarray) -> np.ndarray:
    """Slaney's scale: 3 mel per 200 Hz below 1 kHz, 27 mel per factor 6.4 above."""
    log_part = _BREAK_MEL + np.log(np.maximum(hz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hz < _BREAK_HZ, hz * 3.0 / 200.0, log_part)


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < _BREAK_MEL, mel * 200.0 / 3.0, _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL)))


def mel_filterbank(settings: MelSettings) -> Tensor:
    """Triangular filters on Slaney's mel scale, each of unit area in Hz: [num_mels, n_fft // 2 + 1] float32."""
    bins_hz = np.linspace(0.0, settings.sample_rate_hz / 2, settings.n_fft // 2 + 1)
    low, high = _hz_to_mel(np.array([settings.f_min_hz, settings.f_max_hz]))
    edges_hz = _mel_to_hz(np.linspace(low, high, settings.num_mels + 2))
    left, centre, right = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    triangles = np.minimum((bins_hz - left) / (centre - left), (right - bins_hz) / (right - centre))
    return torch.from_numpy(np.maximum(triangles, 0.0) * 2.0 / (right - left)).float()


class LogMel(nn.Module):
    """Waveform [B, T] in [-1, 1] to log-mel [B, num_mels, frames] (reference.md section 5.1)."""

    def __init__(self, settings: MelSettings):
        super().__init__()
        self.settings = settings
        self.register_buffer("filters", mel_filterbank(settings), persistent=False)
        self.register_buffer("window", torch.hann_window(settings.n_fft), persistent=False)

    def magnitude(self, waveform: Tensor) -> Tensor:
        """[B, T] -> [B, n_fft // 2 + 1, frames], sqrt(re^2 + im^2 + 1e-9)."""
        pad = (self.settings.n_fft - self.settings.hop) // 2
        padded = F.pad(waveform.clamp(-1, 1), (pad, pad), mode="reflect")
        spectrum = torch.stft(
            padded, self.settings.n_fft, self.settings.hop, window=self.window, center=False, return_complex=True
        )
        return (torch.view_as_real(spectrum).square().sum(-1) + 1e-9).sqrt()

    def compress(self, magnitude: Tensor) -> Tensor:
        """Magnitudes [B, bins, frames] to the log-mel."""
        mel = (self.filters @ magnitude).clamp(min=1e-5)
        return mel.log10() if self.settings.log_base == "10" else mel.log()

    def forward(self, waveform: Tensor) -> Tensor:
        return self.compress(self.magnitude(waveform))
