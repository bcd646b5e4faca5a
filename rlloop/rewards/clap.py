"""CLAP (arXiv:2211.06687): embeddings of clips and prompts in one space, and their cosine as a reward.

The front end does what laion_clap does before its network (reference.md section 8.1), but the crop of a long clip is
drawn from a seed and the clip itself, so that a score depends on nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rlloop.audio.precision import full_float32
from rlloop.audio.resample import resample_all
from rlloop.rewards.base import Clip, Score
from rlloop.rewards.guards import score_guarded
from rlloop.weights import resolve
from rlloop.weights.clap import HOP, NUM_FFT, SAMPLE_RATE_HZ, clap_tokenizer, embed_text, load_clap, mel_filters

if TYPE_CHECKING:
    from transformers import ClapConfig

log = logging.getLogger(__name__)

NUM_SAMPLES = 480_000  # 10 s at 48 kHz
SCORING = "clap_scoring"  # what published scores and TuneJury use; FluxAudio is conditioned on clap_conditioning
CROPS = ("random", "centre")
NO_PROMPT = "no prompt to compare the clip with"


class ClapEmbedder:
    """Clips and prompts to L2-normalised embeddings.

    Args:
        checkpoint: LAION-CLAP, a path or a name of the catalogue.
        tokenizer: folder of roberta-base's, or its name in the catalogue.
        device: cpu, cuda or auto: cuda where there is one.
        crop: of clips longer than 10 s, "random" as laion_clap and TuneJury's scorer, or "centre" as TuneJury's
            published scores of whole tracks.
        seed: of the random crop, beside the clip's own samples.
        quantise: round to 16 bits first, as TuneJury's scorer does (laion_clap's use_tensor=False).
        batch_size: clips in one forward pass.
        config: other sizes than the published ones.
    """

    def __init__(
        self,
        checkpoint: Path | str = SCORING,
        tokenizer: Path | str = "roberta_base",
        device: str = "auto",
        *,
        crop: str = "random",
        seed: int = 0,
        quantise: bool = True,
        batch_size: int = 16,
        config: ClapConfig | None = None,
    ):
        if crop not in CROPS:
            raise ValueError(f"crop is {crop!r}, expected one of {', '.join(CROPS)}")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        weights, folder = resolve(checkpoint), resolve(tokenizer)
        self.tokenizer = clap_tokenizer(folder)
        self.model = load_clap(weights, config).to(self.device)
        known = self.model.config.text_config.vocab_size
        if len(self.tokenizer) > known:
            raise ValueError(
                f"{folder} has {len(self.tokenizer)} tokens, {weights} knows {known}; expected the tokenizer of "
                "roberta-base"
            )
        self.dim = self.model.config.projection_dim
        self.crop, self.seed, self.quantise, self.batch_size = crop, seed, quantise, batch_size
        self._heard: dict[tuple[int, int], tuple[weakref.ref[np.ndarray], Tensor]] = {}

    def audio(self, waves: Sequence[np.ndarray], rates_hz: Sequence[int]) -> Tensor:
        """[B, 512] on the CPU, of mono clips [T] float32 of any rates and lengths; each as if it were alone.

        A clip is embedded once while its array lives, so that several rewards can ask for it; it is not to be changed.
        """
        self._heard = {key: kept for key, kept in self._heard.items() if kept[0]() is not None}
        keys = [(id(wave), rate) for wave, rate in zip(waves, rates_hz, strict=True)]
        new = [row for row, key in enumerate(keys) if key not in self._heard]
        for first in range(0, len(new), self.batch_size):
            rows = new[first : first + self.batch_size]
            embedded = self._embed([waves[row] for row in rows], [rates_hz[row] for row in rows])
            for row, vector in zip(rows, embedded, strict=True):
                self._heard[keys[row]] = weakref.ref(waves[row]), vector
        return torch.stack([self._heard[key][1] for key in keys]) if keys else torch.empty(0, self.dim)

    def text(self, prompts: Sequence[str]) -> Tensor:
        """[B, 512] on the CPU, of prompts, each cut to 77 tokens. An empty one is embedded like any other."""
        rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        parts = [torch.empty(0, self.dim)]
        with full_float32():
            for first in range(0, len(rows), self.batch_size):
                some = list(rows)[first : first + self.batch_size]
                parts.append(embed_text(self.model, self.tokenizer, some).cpu())
        return torch.cat(parts)[[rows[prompt] for prompt in prompts]]

    def _embed(self, waves: Sequence[np.ndarray], rates_hz: Sequence[int]) -> Tensor:
        resampled = resample_all(waves, rates_hz, SAMPLE_RATE_HZ, self.device)
        fitted = [
            fit(quantise(x) if self.quantise else x, self._start(wave, rate, len(x)))
            for x, wave, rate in zip(resampled, waves, rates_hz, strict=True)
        ]
        with torch.no_grad(), full_float32():
            features = log_mel(torch.stack(fitted))[:, None]
            return self.model.get_audio_features(features).pooler_output.cpu()

    def _start(self, wave: np.ndarray, rate_hz: int, length: int) -> int:
        """First sample of the crop of a clip that has `length` samples at 48 kHz; 0 for one that needs none."""
        free = max(0, length - NUM_SAMPLES)
        if self.crop == "centre" or not free:
            return free // 2
        return random_start(wave, rate_hz, free, self.seed)


def random_start(wave: np.ndarray, rate_hz: int, free: int, seed: int) -> int:
    """0 ... free, both included, all equally likely: a pure function of the clip [T] and the seed."""
    digest = hashlib.sha256(f"{seed} {rate_hz} ".encode() + np.ascontiguousarray(wave, dtype=np.float32).tobytes())
    return int.from_bytes(digest.digest()[:8], "big") % (free + 1)


def fit(wave: Tensor, start: int) -> Tensor:
    """[T] at 48 kHz to [480000]: cut from `start` on, or repeated as often as it fits and then padded with zeros."""
    if len(wave) >= NUM_SAMPLES:
        return wave[start : start + NUM_SAMPLES]
    repeated = wave.repeat(NUM_SAMPLES // len(wave))
    return torch.nn.functional.pad(repeated, (0, NUM_SAMPLES - len(repeated)))


def quantise(wave: Tensor) -> Tensor:
    """To 16 bits and back: clipped at ±1, rounded towards zero."""
    return (wave.clamp(-1, 1) * 32767).to(torch.int16) / 32767


def log_mel(waves: Tensor) -> Tensor:
    """Power mel spectrogram in dB, floor -100, of [B, T]: [B, T // 480 + 1, 64] float32.

    In float64: beside loud bands float32 is off by 2e-4 dB, more than the feature extractor's own rounding.
    """
    window = torch.hann_window(NUM_FFT, dtype=torch.float64, device=waves.device)
    spectrum = torch.stft(waves.double(), NUM_FFT, HOP, window=window, pad_mode="reflect", return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()  # [B, 513, F]
    mel = power.mT @ mel_filters().to(power)
    return (10 * mel.clamp(min=1e-10).log10()).float()


class ClapScore:
    """Cosine of a clip and its prompt, without the prefix that a sampler may put before it (reference.md 11.1)."""

    name = "clap_score"

    def __init__(self, embedder: ClapEmbedder):
        self.embedder = embedder

    def score(self, clips: Sequence[Clip]) -> list[Score]:
        return score_guarded(clips, self._values)

    def _values(self, clips: list[Clip]) -> list[float | Score]:
        if not any(clip.prompt.strip() for clip in clips):
            return [Score(None, NO_PROMPT)] * len(clips)
        audio = self.embedder.audio([clip.audio for clip in clips], [clip.sample_rate_hz for clip in clips])
        cosines = (audio * self.embedder.text([clip.prompt for clip in clips])).sum(-1).tolist()
        return [c if clip.prompt.strip() else Score(None, NO_PROMPT) for c, clip in zip(cosines, clips, strict=True)]


_embedder = functools.lru_cache(ClapEmbedder)


def shared_embedder(
    checkpoint: Path | str = SCORING,
    tokenizer: Path | str = "roberta_base",
    device: str = "auto",
    *,
    crop: str = "random",
    seed: int = 0,
    quantise: bool = True,
    batch_size: int = 16,
) -> ClapEmbedder:
    """The one embedder of this process with these settings: rewards that share it hear a clip once."""
    return _embedder(
        str(checkpoint), str(tokenizer), device, crop=crop, seed=seed, quantise=quantise, batch_size=batch_size
    )


def clap_score(
    checkpoint: str = SCORING,
    tokenizer: str = "roberta_base",
    device: str = "auto",
    crop: str = "random",
    seed: int = 0,
    quantise: bool = True,
    batch_size: int = 16,
) -> ClapScore:
    """The reward `clap_score` as a configuration builds it; see ClapEmbedder for the options.

    Another checkpoint than `clap_scoring` is said in the log: the two published ones are easily confused, and their
    scores do not compare (reference.md section 12.1, point 1).
    """
    if checkpoint != SCORING:
        log.warning("clap_score uses %s; published scores use %s, and the two do not compare", checkpoint, SCORING)
    options = {"crop": crop, "seed": seed, "quantise": quantise, "batch_size": batch_size}
    return ClapScore(shared_embedder(checkpoint, tokenizer, device, **options))
