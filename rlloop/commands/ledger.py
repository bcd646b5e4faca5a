"""rlloop ledger RUN: every ticket of a run as one JSON object a line, read from its journal alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def run(
    run_dir: Annotated[
        str, typer.Argument(metavar="RUN", help="Run directory, such as runs/mini, or the URI of a run's copy.")
    ],
) -> None:
    """Prints every ticket as one JSON object a line: ticket, state, version, attempts, times of each state.

    Reads the journal and changes nothing, so it may be used while the run goes on.

    Example: rlloop ledger runs/mini | grep '"state": "failed"'
    """
    from rlloop.recipes.fetch_run import local_run

    for line in lines(local_run(run_dir)):
        print(line)


def lines(run_dir: Path) -> list[str]:
    """The ledger's lines.

    Raises:
        ValueError: the folder holds no run.
    """
    from rlloop.config import Config
    from rlloop.loop.journal import Journal
    from rlloop.loop.ledger import Ledger
    from rlloop.loop.ledger_lines import ticket_lines
    from rlloop.loop.plan import Plan

    journal, config = run_dir / "journal" / "journal.log", run_dir / "config.json"
    for path in (config, journal):
        if not path.is_file():
            raise ValueError(f"{run_dir} holds no run: {path} is missing; give the run_dir that a run printed")
    ledger = Ledger(Plan.from_config(Config.model_validate(json.loads(config.read_text()))))
    for record, time in Journal(journal).read():
        ledger.apply(record, time)
    return list(ticket_lines(ledger))
