"""Scores clip files: what a worker of the scoring job does with its rows. Plain class, no Ray.

A file that cannot be read, or that breaks a reward, costs itself its scores, with a reason, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from rlloop.audio.io import read_audio
from rlloop.config import Config, RewardEntry
from rlloop.recipes.clip_files import ScoreLine
from rlloop.recipes.scorer import Scorer
from rlloop.rewards.base import Clip
from rlloop.rewards.guards import MAX_SECONDS


class ScoreWorker:
    """Called with rows of path, file and prompt, it yields a ScoreLine a row, in their order.

    Args:
        config: of the run that the rewards belong to; small, it travels to each worker.
        rewards: as in `scorer.rewards`.
        batch: clips heard at once; the rows of a call may be many more.
        threads: torch threads. device: "cpu", or "cuda" where the worker has a share of a GPU.
    Raises:
        ValueError: a reward cannot be built.
    """

    def __init__(self, config: Config, rewards: Sequence[str | RewardEntry], batch: int, threads: int, device: str):
        self.batch = batch
        self.scorer = Scorer(config, rewards, threads, has_gpu=device != "cpu")

    def __call__(self, rows: Sequence[Mapping[str, str]]) -> Iterator[dict]:
        for first in range(0, len(rows), self.batch):
            yield from self._score(rows[first : first + self.batch])

    def _score(self, rows: Sequence[Mapping[str, str]]) -> Iterator[dict]:
        clips: dict[int, Clip] = {}
        broken: dict[int, str] = {}
        for index, row in enumerate(rows):
            try:
                audio, rate = read_audio(row["file"], max_seconds=MAX_SECONDS)
                clips[index] = Clip(audio, rate, row["prompt"])
            except Exception as error:  # whatever a strange file makes a decoder raise
                reason = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                broken[index] = reason.removeprefix(f"{row['file']}: ")  # the line has its path
        scores, reasons = self.scorer.score_clips(list(clips.values()))
        found = dict(zip(clips, zip(scores, reasons, strict=True), strict=True))
        for index, row in enumerate(rows):
            values, missing = found.get(index, (None, None))
            if values is None:
                values = dict.fromkeys(self.scorer.names)
                missing = dict.fromkeys(self.scorer.names, broken[index])
            yield asdict(ScoreLine(row["path"], row["prompt"], values, missing))
