"""Scorer: named scores of one ticket's clips. Plain class, no Ray. A failed score is missing, never zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rlloop.config import Config, RewardEntry, score_name
from rlloop.recipes.build import build_rewards

if TYPE_CHECKING:
    from rlloop.rewards.base import Clip, Score

Scores = list[dict[str, float | None]]
Reasons = list[dict[str, str]]


class Scorer:
    """Runs every configured reward on a batch; one reward's error costs only its own scores.

    Args:
        rewards, has_gpu: see build_rewards.
        threads: of torch.
    """

    def __init__(
        self, config: Config, rewards: Sequence[str | RewardEntry], threads: int, has_gpu: bool = True
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.names = [score_name(reward) for reward in rewards]
        self.rewards = build_rewards(rewards, config, has_gpu)

    def score(self, audio: np.ndarray, sample_rate_hz: int, prompts: Sequence[str]) -> tuple[Scores, Reasons]:
        """Scores a ticket's clips.

        Args:
            audio: [C, T] float32.
            prompts: C texts.
        Returns:
            see score_clips.
        """
        from rlloop.rewards.base import Clip

        return self.score_clips(
            [Clip(wave, sample_rate_hz, prompt) for wave, prompt in zip(audio, prompts, strict=True)]
        )

    def score_clips(self, clips: Sequence[Clip]) -> tuple[Scores, Reasons]:
        """Scores clips of any lengths and rates.

        Returns:
            per clip: name -> score (None where missing), and name -> reason of each missing one.
        """
        scores: Scores = [{} for _ in clips]
        reasons: Reasons = [{} for _ in clips]
        for name, reward in zip(self.names, self.rewards, strict=True) if clips else ():
            for index, found in enumerate(self._score_one(reward, clips)):
                scores[index][name] = found.value
                if found.value is None:
                    reasons[index][name] = f"{name}: {found.reason}"
        return scores, reasons

    @staticmethod
    def _score_one(reward, clips: Sequence[Clip]) -> list[Score]:
        """No reward hears what is no sound, and one clip that breaks it costs the others nothing."""
        from rlloop.rewards.base import Score
        from rlloop.rewards.guards import refuse_sound, score_in_parts

        reasons = [refuse_sound(clip.audio) if len(clip.audio) else "no samples" for clip in clips]
        good = [clip for clip, reason in zip(clips, reasons, strict=True) if reason is None]
        try:
            found = iter(score_in_parts(good, reward.score) if good else [])
        except ValueError as error:  # it miscounts
            found = iter([Score(None, str(error))] * len(good))
        return [next(found) if reason is None else Score(None, reason) for reason in reasons]
