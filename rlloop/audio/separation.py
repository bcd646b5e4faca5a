"""Drops the vocals of a clip with a Demucs model, in passes: the first half of the published post-processing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from demucs.apply import BagOfModels, Model, apply_model

from rlloop.audio.io import resample

VOCALS = "vocals"


def drop_vocals(
    audio: np.ndarray,
    sample_rate_hz: int,
    model: BagOfModels | Model,
    *,
    passes: int = 3,
    peak: float = 0.95,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Separates, sums every source but the vocals and sets the peak, `passes` times over (reference.md section 10).

    Each model of a bag hears the clip moved by a random part of half a second, as Demucs does by default; `seed`
    decides those, and the same seed moves every clip alike. A clip of another rate than the model's is resampled there
    and back.

    Args:
        audio: [T] float, mono; it goes in as identical channels.
    Returns:
        [T] float32 at the rate it came in.
    Raises:
        ValueError: the model separates no vocals.
    """
    if VOCALS not in model.sources:
        raise ValueError(f"the model separates {', '.join(model.sources)}; expected one that separates {VOCALS}")
    kept = [n for n, source in enumerate(model.sources) if source != VOCALS]
    wave = resample(audio, sample_rate_hz, model.samplerate)
    with seeded_shifts(seed), torch.inference_mode():
        for _ in range(passes):
            mix = torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32)).expand(1, model.audio_channels, -1)
            sources = apply_model(model, mix.clone(), device=device)[0]
            wave = sources[kept].sum(0).mean(0).cpu().numpy()
            wave = wave / (np.abs(wave).max() + 1e-8) * peak
    wave = resample(wave, model.samplerate, sample_rate_hz)[: len(audio)]
    return np.pad(wave, (0, len(audio) - len(wave))).astype(np.float32, copy=False)


@contextmanager
def seeded_shifts(seed: int) -> Iterator[None]:
    """Demucs draws its shifts from Python's global generator: seeds it, and puts it back as it was."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
