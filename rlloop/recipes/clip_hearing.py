"""Clip files heard once each: scored, embedded, or both. A file that cannot be heard costs itself alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rlloop.audio.io import read_audio
from rlloop.config import Config
from rlloop.recipes.clip_files import ClipFile, ScoreLine
from rlloop.recipes.embedders import Embedder
from rlloop.recipes.scorer import Scorer
from rlloop.rewards.base import Clip
from rlloop.rewards.guards import MAX_SECONDS, refuse

Advance = Callable[[int, int], None]  # clips done, clips of them that failed


def hear_clips(
    clips: Sequence[ClipFile], scorer: Scorer | None, embedders: Sequence[Embedder], batch: int, advance: Advance
) -> tuple[list[ScoreLine], dict[str, np.ndarray]]:
    """Scores and embeds clip files in batches, each file read once.

    Returns:
        a line a clip (without scores where there is no scorer), and embeddings by ear, [N, D] with NaN for a clip that
        cannot be read or that the guards refuse; its reason is in the line under the ear's name.
    """
    lines: list[ScoreLine] = []
    rows: dict[str, list[np.ndarray | None]] = {embedder.name: [] for embedder in embedders}
    for first in range(0, len(clips), batch):
        part = clips[first : first + batch]
        found = [_read(clip) for clip in part]
        scores, reasons = _score(found, scorer)
        for embedder in embedders:
            for row, why in zip(embed_clips(found, embedder), reasons, strict=True):
                rows[embedder.name].append(None if isinstance(row, str) else row)
                if isinstance(row, str):
                    why[embedder.name] = row
        values = zip(part, scores, reasons, strict=True)
        lines += [ScoreLine(file.path, file.prompt, score, why) for file, score, why in values]
        advance(len(part), sum(bool(why) for why in reasons))
    return lines, {name: _stack(found) for name, found in rows.items()}


def _score(found: Sequence[Clip | str], scorer: Scorer | None) -> tuple[list[dict], list[dict]]:
    """Scores and reasons of each clip; those of one that could not be read are its reason."""
    if scorer is None:
        return [{} for _ in found], [{} for _ in found]
    scored = zip(*scorer.score_clips([clip for clip in found if isinstance(clip, Clip)]), strict=True)
    pairs = [
        (dict.fromkeys(scorer.names), dict.fromkeys(scorer.names, clip)) if isinstance(clip, str) else next(scored)
        for clip in found
    ]
    return [scores for scores, _ in pairs], [reasons for _, reasons in pairs]


def _read(file: ClipFile) -> Clip | str:
    """The clip, or the reason why there is none."""
    try:
        audio, rate = read_audio(file.file, max_seconds=MAX_SECONDS)
    except Exception as error:  # whatever a strange file makes a decoder raise
        return str(error).removeprefix(f"{file.file}: ") or type(error).__name__
    return Clip(audio, rate, file.prompt)


def embed_clips(found: Sequence[Clip | str], embedder: Embedder) -> list[np.ndarray | str]:
    """An embedding [D] or the reason why there is none, for each clip."""
    reasons = [clip if isinstance(clip, str) else refuse(clip) for clip in found]
    good = [clip for clip, reason in zip(found, reasons, strict=True) if reason is None]
    embedded = iter(_embed_in_parts(good, embedder) if good else ())
    return [next(embedded) if reason is None else reason for reason in reasons]


def _embed_in_parts(clips: Sequence[Clip], embedder: Embedder) -> list[np.ndarray | str]:
    """Where the ear raises, halves are given to it, down to the one clip whose reason the error is."""
    try:
        return list(embedder.embed(clips))
    except Exception as error:  # whatever a strange clip makes an ear raise
        if len(clips) == 1:
            return [f"{type(error).__name__}: {error}"]
    half = len(clips) // 2
    return _embed_in_parts(clips[:half], embedder) + _embed_in_parts(clips[half:], embedder)


def is_mini(config: Config) -> bool:
    """Whether `frechet_mini` may be taken unasked: its reference is of what the mini generator was trained on."""
    return config.generator.target == "mini" or "frechet_mini" in config.judges()


def _stack(rows: Sequence[np.ndarray | None]) -> np.ndarray:
    """[N, D], NaN where there is none; D is 0 where there is none at all."""
    dim = next((len(row) for row in rows if row is not None), 0)
    found = [np.full(dim, np.nan) if row is None else row for row in rows]
    return np.array(found, dtype=np.float32).reshape(len(rows), dim)
