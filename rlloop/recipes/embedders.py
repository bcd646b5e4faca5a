"""The ears that distances are taken with: clips to one embedding each, and what identifies the ear.

Separate from rewards: a distance needs the embedding, and where its reference is kept, to know whose it is.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlloop.rewards.base import Clip
from rlloop.rewards.mini import ASSETS, Ear

if TYPE_CHECKING:
    from rlloop.rewards.clap import ClapEmbedder

WINDOW_SECONDS = 5.0  # what the mini generator makes; musicnn's features depend on how much they are averaged over
MINI_REFERENCE = ASSETS / "frechet_musicnn.safetensors"
NAMES = ("musicnn", "clap", "mert")


@dataclass(frozen=True)
class Embedder:
    """`embed`: clips to [n, D]. `identity`: text that changes with whatever changes the embeddings."""

    name: str
    identity: str
    embed: Callable[[Sequence[Clip]], np.ndarray]


def make_embedder(name: str, crop_seed: int = 0) -> Embedder:
    """Builds one of `NAMES`.

    Args:
        crop_seed: of the random 10 s that CLAP hears of a longer clip; the others crop nothing at random.
    Raises:
        ValueError: an unknown name, or weights that are not on this machine.
    """
    makers = {"musicnn": musicnn_embedder, "clap": clap_embedder, "mert": mert_embedder}
    if name not in makers:
        raise ValueError(f"embedding {name!r}: expected one of {', '.join(NAMES)}")
    return makers[name](crop_seed)


def musicnn_embedder(crop_seed: int = 0, ear: Ear | None = None) -> Embedder:
    """Penultimate features of MTT_musicnn on the middle 5 s of a clip at -18 LUFS; no crop is random.

    Args:
        ear: one that rewards use too, so that a batch of clips no longer than 5 s is heard once.
    """
    weights = ASSETS / "musicnn_mtt.safetensors"
    ear = ear or Ear(weights)

    def embed(clips: Sequence[Clip]) -> np.ndarray:
        return ear.hear([middle(clip, WINDOW_SECONDS) for clip in clips]).numpy()

    return Embedder("musicnn", f"musicnn {file_digest(weights)}, middle {WINDOW_SECONDS:g} s, -18 LUFS", embed)


def clap_embedder(crop_seed: int = 0, checkpoint: Path | None = None, clap: ClapEmbedder | None = None) -> Embedder:
    """LAION-CLAP with the scoring checkpoint: FAD-CLAP (reference.md section 11.1).

    Args:
        checkpoint, clap: another file, and what was built of it; crop and seed are then its own.
    """
    from rlloop.rewards.clap import SCORING, shared_embedder
    from rlloop.weights import resolve

    # Shared with the reward clap_score, so that a batch of clips is heard once.
    heard = clap or shared_embedder(
        SCORING, "roberta_base", "auto", crop="random", seed=crop_seed, quantise=True, batch_size=16
    )

    def embed(clips: Sequence[Clip]) -> np.ndarray:
        return heard.audio([clip.audio for clip in clips], [clip.sample_rate_hz for clip in clips]).numpy()

    digest = file_digest(checkpoint or resolve(SCORING))
    return Embedder("clap", f"clap {digest}, {heard.crop} 10 s of seed {heard.seed}", embed)


def mert_embedder(crop_seed: int = 0, folder: Path | None = None) -> Embedder:
    """MERT-v1-330M, last layer's mean over the whole clip: what MAD is taken on (reference.md section 11.1).

    Args:
        folder: another one than the catalogue's.
    """
    from rlloop.rewards.mert import WEIGHTS, MertEmbedder
    from rlloop.weights import resolve

    folder = folder or resolve("mert_v1_330m")
    mert = MertEmbedder.from_folder(folder)
    weights = next(folder / name for name in WEIGHTS if (folder / name).is_file())

    def embed(clips: Sequence[Clip]) -> np.ndarray:
        return mert.audio([clip.audio for clip in clips], [clip.sample_rate_hz for clip in clips]).cpu().numpy()

    return Embedder("mert", f"mert {file_digest(weights)}, do_normalize {mert.do_normalize}, whole clip", embed)


def middle(clip: Clip, seconds: float) -> Clip:
    """The middle of a clip; the clip itself, the same object, where it is no longer than that."""
    length = round(seconds * clip.sample_rate_hz)
    start = (len(clip.audio) - length) // 2
    return clip if start <= 0 else replace(clip, audio=clip.audio[start : start + length])


@functools.cache
def file_digest(path: Path) -> str:
    """sha256 of a file, its first 16 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
