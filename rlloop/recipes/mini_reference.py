"""The reference of `frechet_mini`: mean and covariance of what the mini generator was trained on, as musicnn hears it.

    python -m rlloop.recipes.mini_reference CLIPS [ASSETS]

Statistics, not audio: nothing can be heard from them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from rlloop.audio.io import read_audio
from rlloop.evaluation.frechet import FrechetStatistics
from rlloop.evaluation.reference import content_digest, entry_key
from rlloop.recipes.embedders import MINI_REFERENCE, WINDOW_SECONDS, Embedder, musicnn_embedder
from rlloop.recipes.mini_clips import list_clips
from rlloop.rewards.base import Clip


def write_mini_reference(clips_dir: Path, path: Path = MINI_REFERENCE) -> FrechetStatistics:
    """Statistics over all 5 s windows of the training clips (two of each 10 s clip), written to `path`.

    Args:
        clips_dir: with clips.jsonl; clips of held-out prompts stay out.
    """
    rows = list_clips(clips_dir, is_held_out=False)
    embedder = musicnn_embedder()
    embeddings = np.concatenate([embed_windows(clips_dir / row["path"], embedder) for row in rows])
    digests = [content_digest(clips_dir / row["path"]) for row in rows]
    source = {
        "embedding": embedder.identity,
        "clips": f"{len(rows)} training clips of the mini stack, {len(embeddings)} windows of {WINDOW_SECONDS:g} s",
        "clips_digest": entry_key("", digests),
    }
    statistics = FrechetStatistics.of(embeddings, source)
    statistics.save(path)
    return statistics


def embed_windows(path: Path, embedder: Embedder) -> np.ndarray:
    """[windows, D] of the whole 5 s windows of a file."""
    audio, rate = read_audio(path)
    length = round(WINDOW_SECONDS * rate)
    starts = range(0, len(audio) - length + 1, length)
    return embedder.embed([Clip(audio[start : start + length], rate, "") for start in starts])


if __name__ == "__main__":
    written = write_mini_reference(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else MINI_REFERENCE)
    print(f"{written.count} embeddings of {written.dim} dimensions, sha256 {written.checksum}")
