"""What rank 0 tells the buffer about the training: its state, and the points that the buffer lacks."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Any

from actors.session import Session
from rlloop.loop.points import Heard
from rlloop.loop.snapshot import TrainPoint

KEPT_POINTS = 5000  # in memory and in a checkpoint


class Reporter:
    """Points grow by `add`; `send` never waits, and has points on their way to the buffer once at a time.

    A buffer that was restarted knows no point: it takes none behind a gap, says so, and is given all there are.
    """

    def __init__(self, session: Session, points: Sequence[TrainPoint]) -> None:
        self.session = session
        self.points: deque[TrainPoint] = deque(points, maxlen=KEPT_POINTS)
        self.known_step = 0  # the newest step whose point the buffer has, as far as it said
        self._answer: Any = None  # to the points on their way

    def add(self, point: TrainPoint) -> None:
        self.points.append(point)

    def heard(self) -> str:
        """What the buffer answered to the last points: the reason to stop, or ''."""
        import ray

        if self._answer is None or not ray.wait([self._answer], timeout=0)[0]:
            return ""
        try:
            heard: Heard = ray.get(self._answer)
        except ray.exceptions.RayActorError:  # it restarts, and will know nothing
            heard = Heard("", 0)
        self._answer, self.known_step = None, heard.newest_step
        return heard.stop_reason

    def send(self, state: str) -> None:
        """The state, with the points that the buffer lacks unless some are on their way."""
        with contextlib.suppress(ValueError):  # no buffer at this moment; the next report makes up for it
            buffer = self.session.actor("buffer")
            if self._answer is None:
                points = [point for point in self.points if point.step > self.known_step]
                self._answer = buffer.progress.remote(state, self.known_step, points)
            else:
                buffer.progress.remote(state, self.known_step, [])

    def send_last(self, state: str) -> None:
        """The last report, with every point; waits until the buffer has them."""
        self.session.call("trainer", "buffer", "progress", state, 0, list(self.points))
