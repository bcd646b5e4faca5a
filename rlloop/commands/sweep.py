"""`rlloop sweep`: the loop at several values of any configuration keys, over seeds, with a table at the end."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer


def run(
    preset: Annotated[str, typer.Argument(help="A preset's name or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides of every trial.")
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=[A,B]", help="A dotted key and its values; several: all combinations."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="How many (3: 0, 1, 2), or which ones: 0,4,7.")] = "3",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the trials and the table.", show_default="runs/sweep-PRESET")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Trials at once, as far as CPUs and GPUs suffice.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the trials and what they cost, then end.")] = False,
) -> None:
    """Runs the loop at every setting with every seed; each trial is `python -m rlloop.main` in a folder of its own.

    All settings are checked before the first trial starts. The same command goes on: finished trials are read, the
    others continue where they were. A trial that fails is listed with its reason and ends no other (status 1). Ctrl-C
    has the running trial checkpoint. Writes sweep.json and sweep.md: per setting means over seeds with 95 %
    t-intervals, paired with the first setting by seed.

    \b
    Examples:
      rlloop sweep mini --over stages.0.phases.0.learning_rate=[3e-5,1e-4,3e-4]
          three learning rates, seeds 0, 1, 2 each
      rlloop sweep mini --over loop.max_staleness=[0,1,2] --dry-run
          what that would be and cost
      rlloop sweep paper_mini --over stages.crpo.options.beta=[500,2000] --seeds 0,1,2,3,4
          a stage by its name, chosen seeds
      rlloop sweep mini --over sampling.score=[1,2] --over stages.0.score_drop=[0.1,0.3]
          all four combinations
      rlloop sweep my.yaml --over "generator.options=[{variant: v1}, {variant: v3}]" --parallel 2
          whole sections as values, two trials at once
    """
    from rlloop.config import find_preset
    from rlloop.recipes.sweep_plan import parse_axis, parse_seeds, plan_trials

    axes, numbers = [parse_axis(text) for text in over or []], parse_seeds(seeds)
    folder = out or Path("runs") / f"sweep-{find_preset(preset).stem}"
    trials = plan_trials(preset, overrides or [], axes, numbers, folder)

    from actors.jobs.sweep import Sweep

    sweep = Sweep(trials, folder, parallel, shlex.join(["rlloop", *sys.argv[1:]]))
    sweep.show_plan()
    if dry_run:
        return
    is_complete = sweep.run()
    sweep.show_table()
    if not is_complete:
        print("rlloop: stopped; the same command goes on", file=sys.stderr)
        raise typer.Exit(130)
    if any(outcome.state != "finished" for outcome in sweep.outcomes):
        raise typer.Exit(1)
