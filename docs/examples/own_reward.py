"""A reward of one's own: what `scorer.rewards` and `evaluation.scores` name. This one likes low sounds.

Run it: see docs/plugging_in.md. A reward has a `name` and `score(clips)`, one `Score` a clip in the same order; the two
classes are in rlloop/rewards/base.py. Read rlloop/rewards/guards.py next, which says which clips no reward should
judge, then rlloop/recipes/scorer.py, which calls it. Anything that it raises is a missing score with that reason.
"""

from collections.abc import Sequence

import numpy as np

from rlloop.rewards.base import Clip, Score
from rlloop.rewards.guards import score_guarded


class Warmth:
    """The share of a clip's energy below `below_hz`, 0 to 1. Arguments are what the reward's `options` may set.

    An argument `device` would be given "auto", or "cpu" in a pool that reserves no GPU.
    """

    name = "Warmth"

    def __init__(self, below_hz: float = 500.0):
        self.below_hz = below_hz

    def score(self, clips: Sequence[Clip]) -> list[Score]:
        return score_guarded(clips, lambda sound: [self.share(clip) for clip in sound])

    def share(self, clip: Clip) -> float | Score:
        energy = np.abs(np.fft.rfft(clip.audio)) ** 2
        low = np.fft.rfftfreq(len(clip.audio), 1 / clip.sample_rate_hz) < self.below_hz
        if "bright" in clip.prompt.lower():
            return Score(None, "asks for a bright sound, which this reward cannot judge")  # missing, not zero
        return float(energy[low].sum() / energy.sum())
