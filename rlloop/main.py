"""The entry point: `python -m rlloop.main`. Everything heavy is imported after the arguments are understood."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rlloop.config import find_preset, load
from rlloop.config.trust import code_line

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

EPILOG = """\b
Examples:
  python -m rlloop.main
      the bundled mini stack
  python -m rlloop.main --dry-run sampler.num_actors=3
      what a run would take, without starting it
  python -m rlloop.main seed=3 run_dir=runs/seed3
      another seed, in its own directory
  python -m rlloop.main --config my.yaml prompts=my.txt
      an own preset and own prompts

The same command with the same run directory goes on where a stopped run left off."""


@app.command(epilog=EPILOG)
def main(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides: trainer.num_workers=2")
    ] = None,
    config: Annotated[str, typer.Option(help="A preset's name or a YAML file.")] = "mini",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run and what it takes, then end.")
    ] = False,
) -> None:
    """Improves a text-to-music model against a reward, online.

    Samplers generate clips, scorers score them, the best decile feeds the trainer, the trainer publishes new
    weights, the samplers pick them up; an evaluator listens to held-out prompts. Ctrl-C checkpoints and ends.
    """
    try:
        status = start(config, overrides or [], dry_run)
    except ValueError as error:
        print(f"rlloop: {error}", file=sys.stderr)
        status = 2
    raise typer.Exit(status)


def start(preset: str, overrides: list[str], dry_run: bool) -> int:
    """Resolves, checks, then runs the loop (or only shows what it would be); returns the exit status.

    Raises:
        ValueError: one line about what a user can set right.
    """
    from rlloop.preflight import check, choose_run_dir, prepare_run_dir, working_dir

    config = load(preset, overrides)
    if line := code_line(config):
        print(f"rlloop: {line}")
    run_dir = choose_run_dir(config, find_preset(preset).stem, os.environ)
    if dry_run:
        from rlloop.views.plan import print_plan

        print_plan(config, run_dir)
    check(config, os.environ)
    if dry_run:
        return 0
    copy = None
    if "://" in run_dir:
        from rlloop.recipes.fetch_run import fetch_run

        folder = working_dir(run_dir, os.environ)
        copy, run_dir = fetch_run(run_dir, Path(folder), config.digest()), folder
    prepare_run_dir(config, run_dir)
    from actors.driver import run

    return run(config, run_dir, copy)


if __name__ == "__main__":
    app(prog_name="python -m rlloop.main")
