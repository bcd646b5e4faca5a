"""The live view of a run: a picture on a terminal, plain lines elsewhere (a log, a job, CI)."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from rlloop.config import Config
from rlloop.loop.snapshot import Snapshot
from rlloop.views.dashboard import dashboard
from rlloop.views.scores import mean_score, score_label, show_score, show_seconds

LINE_EVERY_S = 15.0


class LiveView:
    """Shows phases of the start, then snapshots: entered -> phase* -> update* -> left.

        with LiveView(config) as view:
            view.phase("starting Ray")
            view.update(snapshot)

    Args:
        config: the run's; names the score that is shown as the reward.
        console: where to; default: standard output.
        clock: seconds that only grow.
    """

    def __init__(self, config: Config, console: Console | None = None, clock: Callable[[], float] = time.monotonic):
        self.config, self.console, self.clock = config, console or Console(), clock
        self.began = clock()
        self.phase_text, self.phase_began = "", self.began
        self.snapshot: Snapshot | None = None
        self.is_starting = True
        self.seen_version: int | None = None
        self.seen_evaluations: set[int] = set()
        self.seen_messages: tuple[str, ...] = ()
        self.last_line = -LINE_EVERY_S
        self.live = Live(
            console=self.console, get_renderable=self._picture, refresh_per_second=4, vertical_overflow="crop"
        )

    def __enter__(self) -> LiveView:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end_phase()
        if self.console.is_terminal:
            self.live.stop()

    def phase(self, text: str) -> None:
        """Names what the start is doing now; the phase before is noted with its seconds."""
        self._end_phase()
        self.phase_text, self.phase_began = text, self.clock()
        if not self.console.is_terminal:
            self._line(f"{text} ...")

    def update(self, snapshot: Snapshot) -> None:
        """Shows the run as it is now. The last phase of the start ends when the first clip or update is there."""
        if self.is_starting and has_begun(snapshot):
            self.is_starting = False
            self._end_phase()
        events = self._events(snapshot)
        self.snapshot = snapshot
        if self.console.is_terminal:
            return
        for event in events:
            self._line(event)
        if self.clock() - self.last_line >= LINE_EVERY_S:
            self.last_line = self.clock()
            self._line(status_line(snapshot))

    def _end_phase(self) -> None:
        if self.phase_text:
            self._line(f"{self.phase_text}: {self.clock() - self.phase_began:.1f} s")
        self.phase_text = ""

    def _events(self, snapshot: Snapshot) -> list[str]:
        """What happened since the last snapshot: versions, evaluations, messages."""
        events = []
        seen = snapshot.version if self.seen_version is None else self.seen_version
        for version in range(seen + 1, snapshot.version + 1):
            events.append(f"version {version} of {snapshot.num_versions} published")
        self.seen_version = snapshot.version
        label = score_label(self.config)
        for evaluation in snapshot.evaluations:
            if evaluation.version not in self.seen_evaluations:
                score = show_score(mean_score(evaluation, label))
                events.append(f"version {evaluation.version} evaluated: held-out {label} {score}")
                self.seen_evaluations.add(evaluation.version)
        events += [message for message in snapshot.messages if message not in self.seen_messages]
        self.seen_messages = tuple(snapshot.messages)
        return events

    def _line(self, text: str) -> None:
        elapsed = show_seconds(self.clock() - self.began)
        self.console.print(Text(f"[{elapsed:>7}] {text}"), soft_wrap=True)

    def _picture(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self.snapshot is not None:
            parts.append(dashboard(self.snapshot, self.config))
        if self.phase_text:
            seconds = self.clock() - self.phase_began
            parts.append(Spinner("dots", Text(f"{self.phase_text}  {seconds:.0f} s"), style="cyan"))
        return Group(*parts)


def has_begun(snapshot: Snapshot) -> bool:
    return snapshot.clips_generated > 0 or snapshot.train_step > 0


def status_line(snapshot: Snapshot) -> str:
    """The run in one line."""
    closed = sum(snapshot.tickets.get(state, 0) for state in ("buffered", "selected", "trained", "dropped", "failed"))
    parts = [
        f"version {snapshot.version}/{snapshot.num_versions}",
        f"update {snapshot.train_step}/{snapshot.train_steps_total}",
        f"tickets {closed}/{sum(snapshot.tickets.values())}",
        f"{snapshot.clips_per_minute:.0f} clips/min",
        f"trainer {snapshot.trainer_state}",
        f"{show_seconds(snapshot.eta_seconds)} left",
    ]
    parts += [
        f"{name} {pool.busy_share:.0%} busy" for name, pool in snapshot.pools.items() if pool.busy_share is not None
    ]
    return ", ".join(parts)
