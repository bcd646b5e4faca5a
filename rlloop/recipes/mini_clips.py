"""The clips that the mini generator is trained on: reading, level, log-mel, and which ids are held out.

Separate because autoencoder, generator and model card must agree on all four.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor

from rlloop.models.mel import MEL_16K, LogMel

HELD_OUT_IDS = range(60, 80)
WINDOW_SAMPLES = 80_000  # 5 s at 16 kHz: 312 mel frames, 156 latents
TARGET_RMS = 0.1  # -20 dBFS; the reward levels its input, so level is nothing the generator should spend capacity on


@dataclass(frozen=True)
class Clip:
    """One labelled clip: waveform [T] at 16 kHz and `TARGET_RMS`, and TuneJury's reward of the original."""

    prompt_id: int
    system: str
    prompt: str
    reward: float
    waveform: Tensor


def set_level(waveform: Tensor) -> Tensor:
    """Scales [..., T] to `TARGET_RMS` and clips at full scale; silence stays silence."""
    rms = waveform.square().mean(dim=-1, keepdim=True).sqrt()
    return (waveform * (TARGET_RMS / rms.clamp(min=1e-5))).clamp(-1, 1)


def read_clip(path: Path) -> Tensor:
    """Reads a file as mono 16 kHz float32 [T] at the common level."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = torch.from_numpy(np.ascontiguousarray(samples.mean(axis=1)))
    return set_level(torchaudio.functional.resample(mono, rate, MEL_16K.sample_rate_hz))


def list_clips(clips_dir: Path, *, is_held_out: bool) -> list[dict]:
    """Rows of `clips_dir`/clips.jsonl whose prompt is held out, or those whose is not.

    Raises:
        ValueError: the list is missing or empty.
    """
    index = clips_dir / "clips.jsonl"
    if not index.is_file():
        raise ValueError(f"{index} is missing: it lists id, system, path, prompt and tunejury of every clip")
    rows = [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines() if line.strip()]
    chosen = [row for row in rows if (row["id"] in HELD_OUT_IDS) == is_held_out]
    if not chosen:
        raise ValueError(f"{index} lists no {'held-out' if is_held_out else 'training'} clip")
    return chosen


def load_clips(clips_dir: Path, *, is_held_out: bool) -> list[Clip]:
    """Reads the clips that `list_clips` lists."""
    return [
        Clip(row["id"], row["system"], row["prompt"], row["tunejury"], read_clip(clips_dir / row["path"]))
        for row in list_clips(clips_dir, is_held_out=is_held_out)
    ]


def log_mels(clips: Sequence[Clip]) -> list[Tensor]:
    """Log-mel [80, frames] of each clip."""
    to_mel = LogMel(MEL_16K)
    return [to_mel(clip.waveform[None])[0] for clip in clips]
