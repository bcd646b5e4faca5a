"""The entry point `python -m rlloop.conformance DIR`: golden cases of a folder, one row each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rlloop.recipes.conformance import Outcome

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

EPILOG = """\b
Examples:
  python -m rlloop.conformance tests/golden
      all cases of this repository: about two minutes
  python -m rlloop.conformance tests/golden --only crpo --only frechet
      two of them

Exit status: 0 all cases pass, 1 a case fails, 2 the folder holds no cases."""


@app.command(epilog=EPILOG)
def main(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with index.json and one npz a case.")],
    only: Annotated[list[str] | None, typer.Option(help="Run this case alone; may be repeated.")] = None,
) -> None:
    """Compares this implementation with golden outputs of a reference implementation.

    Weights and inputs of a case are drawn from their names, so nothing is downloaded; no code of the folder is run.
    Settings, sizes and tolerance of a case are those of its entry in index.json.
    """
    try:
        status = run(folder, only or [])
    except ValueError as error:
        print(f"rlloop: {error}", file=sys.stderr)
        status = 2
    raise typer.Exit(status)


def run(folder: Path, only: list[str]) -> int:
    """Runs and prints; returns the exit status.

    Raises:
        ValueError: no such folder or case; one line.
    """
    from rich.console import Console
    from rich.text import Text

    from rlloop.recipes.conformance import run_cases
    from rlloop.recipes.golden_case import read_index

    index = read_index(folder)
    if missing := [name for name in only if name not in index]:
        raise ValueError(f"{folder} has no case {missing[0]!r}; it has {', '.join(index)}")
    chosen = {name: index[name] for name in only or index}
    progress, outcomes = Console(stderr=True), []
    with progress.status("") as status:
        for number, name in enumerate(chosen, start=1):
            line = Text(f"{number} of {len(chosen)}: {name}")
            status.update(line)
            if not progress.is_terminal:
                progress.print(line)
            outcomes += run_cases(folder, {name: chosen[name]})
    show(outcomes)
    return 0 if all(outcome.has_passed for outcome in outcomes) else 1


def show(outcomes: list[Outcome]) -> None:
    """Prints one row a case."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(title="golden cases", title_justify="left", caption_justify="left")
    table.caption = "shares of the largest magnitude that is expected; the worst array of a case"
    for column in ("case", "array", "max difference", "tolerance", "verdict", "seconds", "remarks"):
        table.add_column(column, justify="right" if column in ("max difference", "tolerance", "seconds") else "left")
    for outcome in outcomes:
        verdict = Text("pass", "green") if outcome.has_passed else Text("FAIL", "bold red")
        numbers = ("-" if value is None else f"{value:.1e}" for value in (outcome.difference, outcome.bound))
        name, remarks = Text(outcome.name), Text("\n".join(outcome.remarks))  # Text: their brackets are no markup
        table.add_row(name, outcome.array, *numbers, verdict, f"{outcome.seconds:.1f}", remarks)
    if not console.is_terminal:
        console.width = 200  # a row stays a line in a log or a pipe
    console.print(table)
    console.print(f"{sum(outcome.has_passed for outcome in outcomes)} of {len(outcomes)} cases pass", highlight=False)


if __name__ == "__main__":
    app(prog_name="python -m rlloop.conformance")
