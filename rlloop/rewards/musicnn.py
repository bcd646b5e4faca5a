"""musicnn (Pons & Serra, ISMIR 2019, arXiv:1909.06654), a small music tagger, as the ear of the mini stack.

Only what leads to the penultimate features is here; the tag outputs are not used. The shipped weights are those of the
PyPI package `musicnn` 0.1.0 (ISC licence), converted once to safetensors, each batch norm folded into a scale and a
shift. `frontend`, `mid end` and `back end` are the paper's words.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from rlloop.weights import load_safetensors

SAMPLE_RATE_HZ = 16_000
NUM_FFT = 512
HOP = 256
NUM_BANDS = 96
PATCH_FRAMES = 187  # 3 s
EMBEDDING_DIM = 200
# (time, bands) of the front end's kernels with their number of filters: timbre looks across bands, rhythm along time.
KERNELS = (((7, 38), 204), ((7, 67), 204), ((128, 1), 51), ((64, 1), 51), ((32, 1), 51))
MID_FILTERS = 64
PATCH_BATCH = 2  # more is not faster on a CPU and costs memory: 9 MB a patch for the widest map


class Affine(nn.Module):
    """x * scale + shift over the last dimension: a batch norm at inference."""

    def __init__(self, dim: int):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class FrontBlock(nn.Module):
    """Convolution over the mel patch, ReLU, norm, maximum over the bands. [B, T, 96] -> [B, T, filters]."""

    def __init__(self, kernel: tuple[int, int], filters: int):
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.zeros(filters, 1, *kernel))
        self.bias = nn.Parameter(torch.zeros(filters))
        self.norm = Affine(filters)

    def forward(self, mel: Tensor) -> Tensor:
        steps = self.kernel[0]
        padded = F.pad(mel, (0, 0, (steps - 1) // 2, steps // 2))  # "same" in time, as TensorFlow pads even kernels
        # ReLU and norm are monotonous, so the maximum may come first, in one pass; where the norm's scale is negative
        # it has to be the minimum, which is the maximum of the mirrored filter.
        sign = self.norm.scale.sign()
        peak = F.conv2d(padded.unsqueeze(1), self.weight * sign[:, None, None, None]).amax(-1).mT * sign
        return self.norm(F.relu(peak + self.bias))


class MusiCNN(nn.Module):
    """Mel patches [P, T, 96] to penultimate features [P, 200]."""

    def __init__(self):
        super().__init__()
        self.input_norm = Affine(1)
        self.front = nn.ModuleList(FrontBlock(kernel, filters) for kernel, filters in KERNELS)
        width = sum(filters for _, filters in KERNELS)
        self.mid = nn.ModuleList(nn.Conv1d(w, MID_FILTERS, 7, padding=3) for w in (width, MID_FILTERS, MID_FILTERS))
        self.mid_norm = nn.ModuleList(Affine(MID_FILTERS) for _ in range(3))
        self.pool_norm = Affine(2 * (width + 3 * MID_FILTERS))
        self.dense = nn.Linear(2 * (width + 3 * MID_FILTERS), EMBEDDING_DIM)
        self.dense_norm = Affine(EMBEDDING_DIM)

    @classmethod
    def from_file(cls, path: Path) -> "MusiCNN":
        """Loads converted weights (safetensors, any float type) in float32, frozen and in evaluation mode.

        Raises:
            ValueError: the file is missing, damaged or of another shape; names it and the first such key.
        """
        model = cls()
        model.load_state_dict(load_safetensors(path, model.state_dict()))
        return model.eval().requires_grad_(False)

    def forward(self, mel: Tensor) -> Tensor:
        mel = self.input_norm(mel.unsqueeze(-1)).squeeze(-1)
        maps = [torch.cat([block(mel) for block in self.front], dim=-1)]  # [P, T, 561]
        x = maps[0]
        for depth, (conv, norm) in enumerate(zip(self.mid, self.mid_norm, strict=True)):
            y = norm(F.relu(conv(x.transpose(1, 2))).transpose(1, 2))
            x = y if depth == 0 else x + y
            maps.append(x)
        features = torch.cat(maps, dim=-1)
        pooled = torch.stack([features.amax(1), features.mean(1)], dim=-1).flatten(1)  # interleaved, as trained
        return self.dense_norm(F.relu(self.dense(self.pool_norm(pooled))))

    @torch.inference_mode()
    def embed(self, audio: Tensor) -> Tensor:
        """Features of a batch of clips of one length, averaged over their patches.

        Args:
            audio: [B, T] float, mono, 16 kHz.
        Returns:
            [B, 200].
        """
        patches = cut_patches(log_mel(audio))  # [B, P, 187, 96]
        parts = patches.flatten(0, 1).split(PATCH_BATCH)
        return torch.cat([self(part) for part in parts]).unflatten(0, patches.shape[:2]).mean(1)


def log_mel(audio: Tensor) -> Tensor:
    """log10(10000 * mel power + 1): 512-point Hann frames every 256 samples, centred, 96 Slaney bands of 0 to 8 kHz.

    The front end that musicnn was trained with (librosa 0.7's defaults, frames at the ends reflected).

    Args:
        audio: [B, T] float, 16 kHz, T > 256.
    Returns:
        [B, 1 + T // 256, 96].
    """
    window = torch.hann_window(NUM_FFT, device=audio.device)
    spectrum = torch.stft(audio, NUM_FFT, HOP, window=window, center=True, pad_mode="reflect", return_complex=True)
    bank = torchaudio.functional.melscale_fbanks(
        NUM_FFT // 2 + 1, 0.0, SAMPLE_RATE_HZ / 2, NUM_BANDS, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney"
    )
    power = spectrum.real.square() + spectrum.imag.square()
    return torch.log10(10_000 * (power.transpose(1, 2) @ bank.to(power)) + 1)


def cut_patches(mel: Tensor) -> Tensor:
    """The fewest 187-frame patches that cover the clip, evenly spaced: they overlap by less than half.

    A clip shorter than one patch is repeated, as in musicnn's training.

    Args:
        mel: [B, T, 96].
    Returns:
        [B, P, 187, 96].
    """
    num_frames = mel.shape[1]
    if num_frames < PATCH_FRAMES:
        mel = mel.repeat(1, math.ceil(PATCH_FRAMES / num_frames), 1)[:, :PATCH_FRAMES]
        num_frames = PATCH_FRAMES
    count = math.ceil(num_frames / PATCH_FRAMES)
    last = num_frames - PATCH_FRAMES
    starts = [round(i * last / max(count - 1, 1)) for i in range(count)]
    return torch.stack([mel[:, start : start + PATCH_FRAMES] for start in starts], dim=1)
