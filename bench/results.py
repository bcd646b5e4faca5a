"""bench/results.md: one section per bench, each replaced when its bench runs again."""

from __future__ import annotations

import re
from pathlib import Path

RESULTS = Path(__file__).with_name("results.md")
HEAD = "# Benches\n\nEvery section is written by the command that it names, on the machine that it names.\n"


def replace_section(text: str, title: str, body: str) -> str:
    """The text with the section `## title` replaced, or appended where there is none.

    Args:
        text: Markdown whose sections begin with `## `; empty for a new file. body: without the heading.
    """
    section = f"## {title}\n\n{body.strip()}\n"
    parts = re.split(r"(?m)^(?=## )", text or HEAD)
    places = [n for n, part in enumerate(parts) if part.split("\n", 1)[0] == f"## {title}"]
    if places:
        parts[places[0]] = section
    else:
        parts.append(section)
    return "\n".join(part.strip() + "\n" for part in parts)


def write_section(title: str, body: str, path: Path = RESULTS) -> None:
    """Writes one section of the results and leaves the others."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(replace_section(before, title, body), encoding="utf-8")
