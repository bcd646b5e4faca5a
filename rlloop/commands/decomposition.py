"""`rlloop decomposition`: what each stage of a run contributed, of one run or over the seeds of several."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

FILE_WIDTH = 120  # columns of what is not a terminal


def run(
    run_dirs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Run directories; several are taken as seeds of one plan.")
    ],
    out: Annotated[Path | None, typer.Option(help="Also write all of it to this JSON file.")] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print markdown, with the order of contributions and the published one.")
    ] = False,
) -> None:
    """Every stage against the one before it, on the held-out prompts: baseline, then the end of each stage.

    Of one run with p and intervals over its prompts, of several the mean gains with p and intervals over runs. Reads
    evaluations alone and changes nothing, so it may be used while a run goes on.

    Examples: rlloop decomposition runs/paper_mini

    rlloop decomposition runs/seed0 runs/seed1 runs/seed2 --out decomposition.json

    rlloop decomposition runs/seed* --markdown > table.md
    """
    if out is not None and not out.absolute().parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.absolute().parent}; create it or choose another")
    from rich.console import Console

    from rlloop.recipes.decomposition_report import report
    from rlloop.views.decomposition import print_grid

    found = report(run_dirs)
    if out is not None:
        scratch = out.with_name(out.name + ".tmp")
        scratch.write_text(json.dumps(found.data, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(scratch, out)
    if markdown:
        print(found.markdown)
        return
    console = Console()
    print_grid(found.grid, found.notes, console if console.is_terminal else Console(width=FILE_WIDTH))
