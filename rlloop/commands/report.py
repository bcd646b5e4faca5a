"""`rlloop report`: one HTML file that explains a run, or two runs against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    run_dir: Annotated[
        str, typer.Argument(metavar="RUN", help="Run directory, such as runs/mini, or the URI of a run's copy.")
    ],
    other: Annotated[
        str | None, typer.Argument(metavar="[RUN_B]", help="Another run to compare with it.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="HTML file.", show_default="RUN/report.html; of a URI, report.html")
    ] = None,
) -> None:
    """Writes one self-contained HTML file: curves, tables, clips to listen to, a blind test, what went wrong, what ran.

    It needs no network and no server: open it in a browser, send it, print it. Changes nothing in the run, so it may be
    used while the run goes on. The votes of the blind test are stored by the browser as votes.jsonl, which
    `rlloop reward train` reads.

    Examples: rlloop report runs/mini

    rlloop report runs/seed0 runs/seed1 --out comparison.html
    """
    from rlloop.recipes.disk import refuse_uri
    from rlloop.recipes.fetch_run import local_run

    if out is not None:
        refuse_uri(out, "--out")
    folders = [local_run(each) for each in (run_dir, other) if each is not None]
    name = "report.html" if other is None else f"report-against-{folders[1].resolve().name}.html"
    target = Path(name if "://" in run_dir else folders[0] / name) if out is None else out
    if out is not None and not out.absolute().parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.absolute().parent}; create it or choose another")
    if target.is_dir():
        raise ValueError(f"--out {target} is a folder; name a file such as {target / 'report.html'}")
    from rlloop.recipes.run_report import report_page, write_page

    page = report_page(folders)
    write_page(page, target)
    print(f"{target} ({len(page.encode()) / 2**20:.1f} MiB)")
