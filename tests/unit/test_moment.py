"""The clips of the moment: decoded from their latents, kept with what they are, read back by a later start."""

import numpy as np
import soundfile

from rlloop.data.rollouts import ScoredTicket, rollout_path, write_rollouts
from rlloop.loop.snapshot import MomentClip
from rlloop.recipes.moment import decode_extremes, read_moment, write_moment


def decode(latents: np.ndarray) -> np.ndarray:
    """[1, L, D] -> [1, 800]: as loud as the first value."""
    return np.full((1, 800), latents[0, 0, 0], np.float32)


def test_extremes_are_decoded_and_kept(tmp_path):
    latents = np.array([0.5, 0.25, -0.5], np.float16).reshape(3, 1, 1)
    scores = [{"reward": 0.9}, {"reward": 0.1}, {"reward": None}]
    ticket = ScoredTicket(4, 2, "a | choir", [10, 11, 12], latents, scores, [{}, {}, {"reward": "not finite"}])
    write_rollouts(rollout_path(tmp_path, 4), ticket)
    found = decode_extremes(tmp_path, 3, [(4, 0), (4, 1), (5, 0)], decode, 16_000)  # ticket 5 is pruned
    assert found["best"] == MomentClip("audio/generation000003-best.flac", "a | choir", 10, 2, {"reward": 0.9})
    assert found["median"].seed == 11 and "worst" not in found
    samples, rate = soundfile.read(tmp_path / found["median"].path)
    assert rate == 16_000 and np.allclose(samples, 0.25, atol=1e-4)
    assert read_moment(tmp_path) == {}
    write_moment(tmp_path, found)
    assert read_moment(tmp_path) == found
    (tmp_path / "audio" / "moment.json").write_text('{"best": "audio/best.flac"}')  # as older runs kept it
    assert read_moment(tmp_path) == {}
