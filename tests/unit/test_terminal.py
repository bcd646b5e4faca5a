"""The live view: what stands in it, its width, and the plain lines for a log."""

import io

from rich.console import Console

from rlloop.config import build
from rlloop.loop.snapshot import PoolStats
from rlloop.views.dashboard import dashboard
from rlloop.views.scores import show_seconds, sparkline
from rlloop.views.terminal import LINE_EVERY_S, LiveView
from tests.unit.snapshots import evaluation, snapshot

CONFIG = build({})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def plain_view() -> tuple[LiveView, io.StringIO, Clock]:
    out, clock = io.StringIO(), Clock()
    return LiveView(CONFIG, Console(file=out, width=80, force_terminal=False), clock), out, clock


def test_dashboard_shows_everything_in_80_columns():
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(dashboard(snapshot("/runs/a", messages=("x" * 200,)), CONFIG))
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    for word in ("version 2 of 3", "sampler", "90% busy", "waiting for cohort 2", "buffered 28", "112 rollouts"):
        assert word in text
    for word in ("+0.200 -> +0.400", "86 clips/min", "2:05 left", "5:00 elapsed", "sampler 1", "not finite 4"):
        assert word in text


def test_a_pool_has_its_size_of_now_beside_its_name():
    def row(size: int) -> list[str]:
        console = Console(file=io.StringIO(), width=80, record=True)
        console.print(dashboard(snapshot("/runs/a", pools={"sampler": PoolStats(size, 428, 0.9)}), CONFIG))
        return next(line.split() for line in console.export_text().splitlines() if "90% busy" in line)

    assert "x2" in row(2) and "x5" in row(5)


def test_dashboard_of_a_run_that_has_nothing_yet():
    empty = snapshot(
        "/runs/a",
        cohorts=(),
        evaluations=(),
        pools={},
        tickets={},
        staleness_now=None,
        eta_seconds=None,
        train_steps_total=0,
    )
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(dashboard(empty, CONFIG))
    assert "not yet" in console.export_text()


def test_plain_lines_come_at_most_every_15_seconds():
    view, out, clock = plain_view()
    with view:
        for second in range(31):
            clock.now = float(second)
            view.update(snapshot("/runs/a", messages=()))
    lines = [line for line in out.getvalue().splitlines() if "clips/min" in line]
    assert LINE_EVERY_S == 15.0 and len(lines) == 3


def test_plain_lines_come_at_each_event_once():
    view, out, _ = plain_view()
    with view:
        view.update(snapshot("/runs/a", version=0, evaluations=()))
        for _ in range(2):
            view.update(snapshot("/runs/a", version=1, evaluations=(evaluation(0, [[0.1, 0.1], [0.3, 0.3]]),)))
    text = out.getvalue()
    assert text.count("version 1 of 3 published") == 1
    assert text.count("version 0 evaluated: held-out tunejury_mini +0.200") == 1
    assert text.count("sampler 1 was restarted") == 1


def test_phases_tell_their_seconds_and_the_last_lasts_until_work_is_seen():
    view, out, clock = plain_view()
    with view:
        view.phase("starting Ray")
        clock.now = 8.0
        view.phase("loading the models")
        view.update(snapshot("/runs/a", clips_generated=0, train_step=0))
        clock.now = 20.0
        view.update(snapshot("/runs/a"))
    assert "starting Ray: 8.0 s" in out.getvalue()
    assert "loading the models: 12.0 s" in out.getvalue()


def test_a_terminal_gets_the_picture():
    out = io.StringIO()
    with LiveView(CONFIG, Console(file=out, width=80, force_terminal=True)) as view:
        view.phase("starting Ray")
        view.update(snapshot("/runs/a"))
    assert "version 2 of 3" in out.getvalue()


def test_formats():
    assert sparkline([0.0, None, 7.0]) == "▁ █" and sparkline([1.0, 1.0]) == "▄▄" and sparkline([]) == ""
    assert [show_seconds(value) for value in (None, 5, 75, 3700)] == ["-", "0:05", "1:15", "1:01:40"]
