"""Views of a labelled clip for fitting the mini rewards: windows as long as what is generated, and degradations.

A view keeps the label of its clip. So only degradations that every generated clip has in common (the codec) are worth
training on; noise and low-pass are here to check that they lower the score.
"""

from collections.abc import Callable

import numpy as np
import torch
import torchaudio

SAMPLE_RATE_HZ = 16_000
WINDOW_SECONDS = 5.0
CODEC_BANDS = 80
NUM_FFT = 1024
HOP = 256


def random_window(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random 5 s of [T] audio at 16 kHz; all of it if it is shorter."""
    length = int(WINDOW_SECONDS * SAMPLE_RATE_HZ)
    start = int(rng.integers(0, max(len(audio) - length, 0) + 1))
    return audio[start : start + length]


def mel_codec(audio: np.ndarray, rng: np.random.Generator, rank: int = 0) -> np.ndarray:
    """Through an 80-band mel spectrogram and Griffin-Lim, as the generator's audio comes.

    Args:
        rank: keep this many principal components of the log-mel of frame pairs, which blurs it; 0 keeps all.
    """
    torch.manual_seed(int(rng.integers(2**31)))  # Griffin-Lim starts from random phases
    window = torch.hann_window(NUM_FFT)
    spectrum = torch.stft(torch.from_numpy(audio), NUM_FFT, HOP, window=window, return_complex=True).abs()
    bank = torchaudio.functional.melscale_fbanks(
        NUM_FFT // 2 + 1, 0.0, SAMPLE_RATE_HZ / 2, CODEC_BANDS, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney"
    )
    log_mel = (bank.T @ spectrum).clamp_min(1e-5).log()
    if rank:
        log_mel = low_rank(log_mel, rank)
    magnitude = (torch.linalg.pinv(bank.T) @ log_mel.exp()).clamp_min(0)
    out = torchaudio.functional.griffinlim(
        magnitude, window, NUM_FFT, HOP, NUM_FFT, power=1.0, n_iter=24, momentum=0.99, length=len(audio), rand_init=True
    )
    return out.numpy()


def low_rank(log_mel: torch.Tensor, rank: int) -> torch.Tensor:
    """[bands, T] with only its first `rank` principal components."""
    mean = log_mel.mean(1, keepdim=True)
    u, s, vh = torch.linalg.svd(log_mel - mean, full_matrices=False)
    return mean + (u[:, :rank] * s[:rank]) @ vh[:rank]


def low_pass(audio: np.ndarray, rng: np.random.Generator, cutoff_hz: float | None = None) -> np.ndarray:
    """Steep low-pass at 0.8 to 3 kHz, or at `cutoff_hz`."""
    cutoff = cutoff_hz or float(np.exp(rng.uniform(np.log(800), np.log(3000))))
    spectrum = np.fft.rfft(audio)
    spectrum[np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE_HZ) > cutoff] = 0
    return np.fft.irfft(spectrum, len(audio)).astype(np.float32)


def add_noise(audio: np.ndarray, rng: np.random.Generator, snr_db: float | None = None) -> np.ndarray:
    """White noise at 5 to 25 dB below the clip, or at `snr_db`."""
    snr = rng.uniform(5, 25) if snr_db is None else snr_db
    noise = rng.standard_normal(len(audio)).astype(np.float32)
    return (audio + noise * np.sqrt(np.mean(audio**2)) * 10 ** (-snr / 20)).astype(np.float32)


VIEWS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "whole": lambda audio, rng: audio,
    "window": random_window,
    "window2": random_window,
    "codec": lambda audio, rng: mel_codec(random_window(audio, rng), rng),
    "blurred": lambda audio, rng: mel_codec(random_window(audio, rng), rng, rank=8),
    "low_pass": lambda audio, rng: low_pass(random_window(audio, rng), rng),
    "noise": lambda audio, rng: add_noise(random_window(audio, rng), rng),
}
