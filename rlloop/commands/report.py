"""`rlloop report`: one HTML file that explains a run, or two runs against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, such as runs/mini.")],
    other: Annotated[
        Path | None, typer.Argument(metavar="[RUN_B]", help="Another run to compare with it.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="HTML file.", show_default="RUN/report.html")] = None,
) -> None:
    """Writes one self-contained HTML file: curves, tables, clips to listen to, a blind test, what went wrong, what ran.

    It needs no network and no server: open it in a browser, send it, print it. Changes nothing in the run, so it may be
    used while the run goes on. The votes of the blind test are stored by the browser as votes.jsonl, which
    `rlloop reward train` reads.

    Examples: rlloop report runs/mini

    rlloop report runs/seed0 runs/seed1 --out comparison.html
    """
    folders = [run_dir] if other is None else [run_dir, other]
    name = "report.html" if other is None else f"report-against-{other.resolve().name}.html"
    target = run_dir / name if out is None else out
    if out is not None and not out.absolute().parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.absolute().parent}; create it or choose another")
    if target.is_dir():
        raise ValueError(f"--out {target} is a folder; name a file such as {target / 'report.html'}")
    from rlloop.recipes.run_report import report_page, write_page

    page = report_page(folders)
    write_page(page, target)
    print(f"{target} ({len(page.encode()) / 2**20:.1f} MiB)")
