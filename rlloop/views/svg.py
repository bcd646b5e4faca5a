"""Line plots as SVG text: axes, points with intervals, a legend. Small enough that no plotting library is needed.

A figure is a column of panels with one x axis; it may be written to a file or put into an HTML page as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
WIDTH, PANEL_HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 34, 40
FONT = "font-family='sans-serif' font-size='12' fill='#222'"


@dataclass(frozen=True)
class Line:
    """y over x; `low` and `high` are the ends of each point's interval. None where there is no value."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `title` stands above it and names the y axis."""

    title: str
    lines: Sequence[Line] = field(default_factory=tuple)


@dataclass(frozen=True)
class Scale:
    """Values between `low` and `high` to pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def figure(panels: Sequence[Panel], x_label: str) -> str:
    """The panels below each other as one SVG document, dark on white."""
    xs = [x for panel in panels for line in panel.lines for x in line.x]
    height = PANEL_HEIGHT * len(panels)
    x_scale = Scale(*padded(xs, share=0.03), LEFT, WIDTH - RIGHT)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' height='{height}'>",
        f"<rect width='{WIDTH}' height='{height}' fill='white'/>",
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, x_scale, PANEL_HEIGHT * number, x_label)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, x_scale: Scale, offset: float, x_label: str) -> list[str]:
    top, bottom = offset + TOP, offset + PANEL_HEIGHT - BOTTOM
    shown = [v for line in panel.lines for part in (line.y, line.low, line.high) for v in part if is_shown(v)]
    y_scale = Scale(*padded(shown, share=0.08), bottom, top)
    parts = [f"<text x='{LEFT}' y='{offset + 18}' {FONT} font-weight='bold'>{escape(panel.title)}</text>"]
    for tick in ticks(y_scale.low, y_scale.high):
        y = y_scale(tick)
        parts.append(f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y:.1f}' y2='{y:.1f}' stroke='#ddd'/>")
        parts.append(f"<text x='{LEFT - 6}' y='{y + 4:.1f}' text-anchor='end' {FONT}>{tick:g}</text>")
    for tick in ticks(x_scale.low, x_scale.high):
        x = x_scale(tick)
        parts.append(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{bottom}' y2='{bottom + 4}' stroke='#222'/>")
        parts.append(f"<text x='{x:.1f}' y='{bottom + 17}' text-anchor='middle' {FONT}>{tick:g}</text>")
    parts.append(f"<path d='M{LEFT} {top}V{bottom}H{WIDTH - RIGHT}' fill='none' stroke='#222'/>")
    centre = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f"<text x='{centre}' y='{bottom + 33}' text-anchor='middle' {FONT}>{escape(x_label)}</text>")
    for number, line in enumerate(panel.lines):
        colour = COLOURS[number % len(COLOURS)]
        parts += _line(line, colour, x_scale, y_scale)
        if len(panel.lines) > 1:
            x = LEFT + 150 * (number + 1)
            parts.append(f"<rect x='{x}' y='{offset + 10}' width='12' height='8' fill='{colour}'/>")
            parts.append(f"<text x='{x + 16}' y='{offset + 18}' {FONT}>{escape(line.label)}</text>")
    return parts


def _line(line: Line, colour: str, x_scale: Scale, y_scale: Scale) -> list[str]:
    """Points joined in the order of x, gaps where a value is missing; a bar over each interval."""
    parts, runs, run = [], [], []
    order = sorted(range(len(line.x)), key=lambda index: line.x[index])
    for index in order:
        value = line.y[index]
        if not is_shown(value):
            runs, run = [*runs, run], []
            continue
        x, y = x_scale(line.x[index]), y_scale(value)
        run.append(f"{x:.1f},{y:.1f}")
        parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{colour}'/>")
        low, high = (part[index] if part else None for part in (line.low, line.high))
        if is_shown(low) and is_shown(high):
            ends = f"y1='{y_scale(low):.1f}' y2='{y_scale(high):.1f}'"
            parts.append(f"<line x1='{x:.1f}' x2='{x:.1f}' {ends} stroke='{colour}' stroke-width='1.5'/>")
    drawn = [f"<polyline points='{' '.join(run)}' fill='none' stroke='{colour}' stroke-width='2'/>"
             for run in [*runs, run] if len(run) > 1]  # fmt: skip
    return drawn + parts


def is_shown(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def padded(values: Sequence[float], share: float) -> tuple[float, float]:
    """The range of values with room at both ends; a range of its own where they are all the same or there are none."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = (high - low) * share or max(abs(low) * 0.1, 0.5)
    return low - room, high + room


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers in a range: steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + index) * step, 12) for index in range(count)]
