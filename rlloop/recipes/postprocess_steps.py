"""The built-in steps of post-processing. A step hears one clip and knows nothing of files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rlloop.audio.levelling import METERS, level


@dataclass(frozen=True, eq=False)
class Processed:
    """A clip after a step, [T] float32 at the rate it came in, and what there is to say of it, as plain data."""

    audio: np.ndarray
    facts: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Step(Protocol):
    """One step. Whatever it raises costs the clip that it was given, and no other."""

    def process(self, audio: np.ndarray, sample_rate_hz: int) -> Processed: ...


class Loudness:
    """Brings clips to one loudness under a peak rule (rlloop.audio.levelling.level).

    Raises:
        ValueError: levels that cannot be.
    """

    def __init__(
        self,
        target_lufs: float = -16.5,
        ceiling: float = 0.99,
        peak: float = 0.95,
        meter: str = "itu",
    ) -> None:
        if not -70 < target_lufs <= 0:
            raise ValueError(f"loudness: target_lufs is {target_lufs:g}; expected above -70 and at most 0")
        if not 0 < peak <= ceiling <= 1:
            raise ValueError(f"loudness: peak {peak:g}, ceiling {ceiling:g}; expected 0 < peak <= ceiling <= 1")
        if meter not in METERS:
            raise ValueError(f"loudness: meter '{meter}'; expected one of {', '.join(METERS)}")
        self.target_lufs = target_lufs
        self.rule = {"target_lufs": target_lufs, "ceiling": ceiling, "peak": peak, "meter": meter}

    def process(self, audio: np.ndarray, sample_rate_hz: int) -> Processed:
        """Facts: lufs_before, lufs (None for silence), target_lufs, is_held_back, and is_too_short where it is."""
        done = level(audio, sample_rate_hz, **self.rule)
        facts = {"lufs_before": rounded(done.lufs_before), "lufs": rounded(done.lufs), "target_lufs": self.target_lufs}
        facts |= {"is_held_back": done.is_held_back}
        return Processed(done.audio, facts | ({"is_too_short": True} if done.is_too_short else {}))


class DropVocals:
    """Demucs passes that leave the vocals out (rlloop.audio.separation.drop_vocals).

    Args:
        repo: catalogue name or folder of the models; name: of the bag in it.
        seed: of the random shifts, which are the same for every clip.
    Raises:
        ValueError: the models are not here, or a setting cannot be.
    """

    def __init__(
        self,
        repo: str = "demucs_mdx_extra",
        name: str = "mdx_extra",
        passes: int = 3,
        peak: float = 0.95,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        from rlloop.models.separator import load_separator

        if passes < 1 or not 0 < peak <= 1:
            raise ValueError(f"demucs: passes {passes}, peak {peak:g}; expected passes of at least 1 and 0 < peak <= 1")
        self.settings = {"passes": passes, "peak": peak, "seed": seed, "device": device}
        self.model = load_separator(repo, name)

    def process(self, audio: np.ndarray, sample_rate_hz: int) -> Processed:
        """Facts: passes."""
        from rlloop.audio.separation import drop_vocals

        done = drop_vocals(audio, sample_rate_hz, self.model, **self.settings)
        return Processed(done, {"passes": self.settings["passes"]})


def rounded(lufs: float | None) -> float | None:
    return None if lufs is None else round(lufs, 3)
