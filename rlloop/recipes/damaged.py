"""Files of a run that it can make again or do without: damaged ones are set aside at a start, with a line each."""

from __future__ import annotations

import os
from pathlib import Path

from rlloop.recipes.evaluations import read_result

REFUSED = ".refused"


def set_aside_results(run_dir: Path) -> list[str]:
    """Renames results of evaluations that cannot be read; their versions are evaluated again where they still exist."""
    lines = []
    for path in sorted((run_dir / "evaluations").glob("version*.json")):
        try:
            read_result(path)
        except ValueError as error:
            os.replace(path, path.with_name(path.name + REFUSED))
            lines.append(f"evaluation refused and set aside, the version is evaluated again: {error}")
    return lines
