"""Curves and boxes as inline SVG that takes its colours from the page, so that it follows a dark screen and paper.

Small multiples of one size, drawn to be read at 320 pixels. Every figure has its values as a folded table beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlloop.views.report.markup import Html, folded, join, table, tag
from rlloop.views.scores import show_score
from rlloop.views.svg import Line, Scale, is_shown, padded, ticks

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 16, 34
MAX_ROWS = 60  # of a figure's values
CHARACTER = 5.2  # width of a small letter in the figure's units


@dataclass(frozen=True)
class Chart:
    """One pair of axes over whole numbers. `bands`: (name, first, last) stretches of x that are named above the
    axes; `floor`: a value that y never falls below."""

    title: str
    caption: str
    x_label: str
    lines: Sequence[Line]
    bands: Sequence[tuple[str, int, int]] = ()
    floor: float | None = None


@dataclass(frozen=True)
class Box:
    """Quantiles of one group at x: 5, 25, 50, 75 and 95 %, and how many values there are."""

    x: int
    quantiles: tuple[float, float, float, float, float]
    count: int


def chart(one: Chart) -> Html:
    """A figure with its legend, caption and values; a sentence where no line has a value."""
    lines = [line for line in one.lines if any(map(is_shown, line.y))]
    title = tag("h3", one.title)
    if not lines:
        return tag("figure", title, tag("p", "No value yet.", class_="none"), tag("figcaption", one.caption))
    legend = (
        tag("ul", *(_key(n, line.label) for n, line in enumerate(lines)), class_="legend") if len(lines) > 1 else None
    )
    caption = tag("figcaption", one.caption)
    return tag("figure", title, legend, _drawing(one, lines), caption, _values(one, lines))


def boxes(title: str, caption: str, x_label: str, groups: Sequence[Box]) -> Html:
    """A box a group: the middle half as a box, 5 to 95 % as a line, the median as a dot."""
    heading = tag("h3", title)
    if not groups:
        return tag("figure", heading, tag("p", "No value yet.", class_="none"), tag("figcaption", caption))
    xs = [group.x for group in groups]
    x_scale = Scale(min(xs) - 0.6, max(xs) + 0.6, LEFT, WIDTH - RIGHT)
    y_scale = Scale(*padded([q for group in groups for q in group.quantiles], share=0.08), HEIGHT - BOTTOM, TOP)
    half = min(14.0, (x_scale(1) - x_scale(0)) * 0.32)
    parts = [*_grid(y_scale), *_x_axis(_whole(xs), x_scale, x_label)]
    for group in groups:
        x = x_scale(group.x)
        low, q1, middle, q3, high = map(y_scale, group.quantiles)
        parts += [
            tag("line", x1=_n(x), x2=_n(x), y1=_n(low), y2=_n(high), class_="whisker s0"),
            tag("rect", x=_n(x - half), width=_n(2 * half), y=_n(q3), height=_n(max(0.5, q1 - q3)), class_="box s0"),
            tag("line", x1=_n(x - half), x2=_n(x + half), y1=_n(middle), y2=_n(middle), class_="median s0"),
        ]
    rows = [(str(g.x), *(show_score(q) for q in g.quantiles), str(g.count)) for g in groups]
    values = table(title, [x_label, "5 %", "25 %", "median", "75 %", "95 %", "rollouts"], rows)
    shown = folded("Values", values) if len(rows) <= MAX_ROWS else None
    return tag("figure", heading, _svg(title, parts), tag("figcaption", caption), shown)


def _drawing(one: Chart, lines: Sequence[Line]) -> Html:
    xs = [x for line in lines for x in line.x]
    x_scale = Scale(*padded(xs, share=0.04), LEFT, WIDTH - RIGHT)
    shown = [v for line in lines for part in (line.y, line.low, line.high) for v in part if is_shown(v)]
    low, high = padded(shown, share=0.08)
    y_scale = Scale(low if one.floor is None else max(low, one.floor), high, HEIGHT - BOTTOM, TOP)
    parts = [*_bands(one.bands, x_scale), *_grid(y_scale), *_x_axis(_whole(xs), x_scale, one.x_label)]
    for number, line in reversed(list(enumerate(lines))):  # the first lies on top
        parts += _line(line, number, x_scale, y_scale)
    return _svg(one.title, parts)


def _svg(title: str, parts: Sequence[Html]) -> Html:
    return tag("svg", tag("title", title), *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")


def _grid(y_scale: Scale) -> list[Html]:
    parts = []
    for tick in ticks(y_scale.low, y_scale.high, about=4):
        y = y_scale(tick)
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=_n(y), y2=_n(y), class_="grid"))
        parts.append(tag("text", f"{tick:g}", x=LEFT - 6, y=_n(y + 4), class_="end"))
    return parts


def _x_axis(values: Sequence[int], x_scale: Scale, label: str) -> list[Html]:
    bottom = HEIGHT - BOTTOM
    parts = [tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, class_="axis")]
    for value in values:
        parts.append(tag("text", f"{value:g}", x=_n(x_scale(value)), y=bottom + 15, class_="middle"))
    parts.append(tag("text", label, x=_n((LEFT + WIDTH - RIGHT) / 2), y=bottom + 30, class_="middle label"))
    return parts


def _whole(xs: Sequence[float]) -> list[int]:
    """Whole ticks: versions and generations have no halves."""
    low, high = min(xs), max(xs)
    return sorted({round(tick) for tick in ticks(low, high, about=6)}) if high > low else [round(low)]


def _bands(bands: Sequence[tuple[str, int, int]], x_scale: Scale) -> list[Html]:
    """A line at the end of each stage but the last, and its name where it fits."""
    parts = []
    for number, (name, first, last) in enumerate(bands if len(bands) > 1 else ()):
        start, end = max(LEFT, x_scale(first - 1)), min(WIDTH - RIGHT, x_scale(last))
        if end <= start or x_scale(last) > WIDTH:
            continue
        if number < len(bands) - 1:
            parts.append(tag("line", x1=_n(end), x2=_n(end), y1=TOP - 4, y2=HEIGHT - BOTTOM, class_="band"))
        room = int((end - start) / CHARACTER)
        shown = name if len(name) <= room else f"{name[: room - 1]}…" if room > 3 else ""
        parts.append(tag("text", shown, x=_n((start + end) / 2), y=TOP - 6, class_="middle band-name"))
    return parts


def _line(line: Line, number: int, x_scale: Scale, y_scale: Scale) -> list[Html]:
    """The interval as a ribbon, the line with gaps where a value is missing, a dot a value where they are few."""
    style = f"s{number % 4}"
    order = sorted(range(len(line.x)), key=lambda index: line.x[index])
    runs: list[list[tuple[float, float]]] = [[]]
    ribbon: list[tuple[float, float, float]] = []
    for index in order:
        if not is_shown(line.y[index]):
            runs.append([])
            continue
        x = x_scale(line.x[index])
        runs[-1].append((x, y_scale(line.y[index])))
        low, high = (part[index] if part else None for part in (line.low, line.high))
        if is_shown(low) and is_shown(high):
            ribbon.append((x, y_scale(low), y_scale(high)))
    parts = []
    if len(ribbon) > 1:
        edge = [(x, high) for x, _, high in ribbon] + [(x, low) for x, low, _ in reversed(ribbon)]
        parts.append(tag("polygon", points=_points(edge), class_=f"ribbon {style}"))
    for x, low, high in ribbon if len(ribbon) == 1 else ():
        parts.append(tag("line", x1=_n(x), x2=_n(x), y1=_n(low), y2=_n(high), class_=f"whisker {style}"))
    parts += [tag("polyline", points=_points(run), class_=f"curve {style}") for run in runs if len(run) > 1]
    dots = [point for run in runs for point in run]
    if len(dots) <= 40:
        parts += [tag("circle", cx=_n(x), cy=_n(y), r=3 + 1.6 * number, class_=f"dot {style}") for x, y in dots]
    return parts


def _key(number: int, label: str) -> Html:
    style = f"s{number % 4}"
    sample = tag(
        "svg", tag("line", x1=0, x2=22, y1=5, y2=5, class_=f"curve {style}"), viewBox="0 0 22 10", aria_hidden="true"
    )
    return tag("li", sample, label)


def _values(one: Chart, lines: Sequence[Line]) -> Html | None:
    """Every value, for who cannot see the figure; of long lines the figure is all there is."""
    xs = sorted({x for line in lines for x in line.x})
    if len(xs) > MAX_ROWS:
        return None
    rows = [(f"{x:g}", *(join(_value(line, x)) for line in lines)) for x in xs]
    return folded("Values", table(one.title, [one.x_label, *(line.label for line in lines)], rows))


def _value(line: Line, x: float) -> list[str]:
    if x not in line.x:
        return ["–"]
    index = list(line.x).index(x)
    low, high = (part[index] if part else None for part in (line.low, line.high))
    interval = f" [{low:+.3f}, {high:+.3f}]" if is_shown(low) and is_shown(high) else ""
    return [f"{show_score(line.y[index])}{interval}"]


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _n(value: float) -> str:
    return f"{value:.1f}"
