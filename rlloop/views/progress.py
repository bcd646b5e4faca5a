"""How far a job is: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlloop.views.scores import show_seconds

LINE_EVERY_S = 15.0


class JobProgress:
    """Shows rows as they are done: entered -> phase* -> advance* -> left.

    Args:
        what: plural of the rows, such as "prompts".
        total: rows of the job.
        console: where to; default: standard error, so that standard output stays the result's.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        what: str,
        total: int,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.what, self.total, self.clock = what, total, clock
        self.console = console or Console(stderr=True)
        self.done = self.failed = self.first = 0
        self.phase_text = "starting"
        self.began: float | None = None
        self.last_line = -LINE_EVERY_S
        self.live = Live(console=self.console, get_renderable=self._bar, refresh_per_second=4, transient=True)

    def __enter__(self) -> JobProgress:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def phase(self, text: str) -> None:
        """Names what is being done before the first row."""
        self.phase_text = text
        if not self.console.is_terminal:
            self._line(f"{text} ...")

    def advance(self, done: int, failed: int = 0) -> None:
        """Notes that so many more rows are done, so many of these failed."""
        self.done, self.failed = self.done + done, self.failed + failed
        if self.began is None:
            self.began, self.first = self.clock(), self.done
        if not self.console.is_terminal and (self.clock() - self.last_line >= LINE_EVERY_S or self.done >= self.total):
            self.last_line = self.clock()
            self._line(self.status())

    @property
    def rate(self) -> float | None:
        """Rows a second since the first came, so that loading models does not count; None until there are more."""
        if self.began is None or self.done == self.first:
            return None
        return (self.done - self.first) / max(1e-9, self.clock() - self.began)

    def status(self) -> str:
        """One line: rows done, failures, rate, time left."""
        if not self.done:
            return self.phase_text
        parts = [f"{self.done} of {self.total} {self.what}"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.rate is not None:
            parts += [f"{self.rate:.3g}/s", f"{show_seconds((self.total - self.done) / self.rate)} left"]
        return ", ".join(parts)

    def _line(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)

    def _bar(self) -> Table:
        row = Table.grid(padding=(0, 1))
        row.add_row(ProgressBar(total=self.total, completed=self.done, width=40), Text(self.status()))
        return row
