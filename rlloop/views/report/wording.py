"""Figures as a reader wants them: intervals, p values, times, sizes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rlloop.views.scores import show_score

DASH = "–"


def p_text(p: float | None) -> str:
    if p is None:
        return DASH
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def interval(low: float | None, high: float | None) -> str:
    return DASH if low is None or high is None else f"[{low:+.3f}, {high:+.3f}]"


def score(value: float | None) -> str:
    return DASH if value is None else show_score(value)


def plain(value: float | None) -> str:
    return DASH if value is None else f"{value:.4g}"


def moment(seconds: float | None) -> str:
    """Unix seconds as a date and time in UTC."""
    return DASH if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def shown(value: Any) -> str:
    """A configured value as YAML would have it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
