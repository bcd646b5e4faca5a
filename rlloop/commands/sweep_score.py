"""`rlloop sweep-score`: what a policy makes of its conditioning score, as a table, figures and a plot."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def run(
    scores: Annotated[
        str, typer.Option(help="Values of s, comma between; none samples without one.")
    ] = "0,0.5,1,1.5,2,3",
    config: Annotated[str, typer.Option(help="Preset or file: generator, evaluation, held-out prompts.")] = "mini",
    weights: Annotated[
        str | None,
        typer.Option(
            help="A run, its copy's URI, one of its checkpoints, or weights.safetensors.", show_default="as shipped"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for sweep.json and sweep.svg.")] = Path("runs/sweep"),
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Run code that --config names where that is a run's config.json.")
    ] = False,
) -> None:
    """Samples the held-out prompts at each s, with the same seeds: scores with intervals, distance, Spearman of s.

    Examples: rlloop sweep-score --scores none,0,1,2,3

    rlloop sweep-score --weights runs/mini
    """
    from rlloop.config import find_preset, load
    from rlloop.config.trust import code_line, refuse_code
    from rlloop.loop.result import is_run

    values, settings = parse(scores), load(config)
    path = find_preset(config)
    if path.name == "config.json" and is_run(path.parent) and not trust_code:  # the report says to give it so
        refuse_code(settings, f"--config {config}")
    if line := code_line(settings):
        print(f"rlloop: note: {line}", file=sys.stderr)

    from rich.console import Console

    from rlloop.recipes.disk import make_writable
    from rlloop.recipes.fetch_run import local_run
    from rlloop.recipes.sampler import Sampler
    from rlloop.recipes.score_sweep import load_policy, sweep, write_sweep
    from rlloop.views.evaluation import sweep_table
    from rlloop.views.progress import JobProgress

    make_writable(out)
    policy = None if weights is None else local_run(weights)
    evaluation = settings.evaluation
    total = len(values) * evaluation.num_prompts * evaluation.seeds_per_prompt
    with JobProgress("clips", total) as progress:
        progress.phase("loading the models")
        sampler = Sampler(settings, evaluation)
        source = load_policy(sampler, policy) if policy is not None else None
        found = sweep(settings, values, sampler, progress.advance)
    write_sweep(found, out)
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(sweep_table(found))
    if source:
        print(f"weights: {source}")
    for note in found["notes"]:
        print(f"note: {note}")
    print(f"{out}/sweep.json, {out}/sweep.svg")


def parse(text: str) -> list[float | None]:
    """Numbers and `none`, comma between, each once.

    Raises:
        ValueError: something else, or nothing.
    """
    found: list[float | None] = []
    for word in [word.strip() for word in text.split(",") if word.strip()]:
        try:
            value = None if word.lower() == "none" else float(word)
        except ValueError:
            raise ValueError(f"--scores: '{word}' is no number; expected values such as 0,1,2 or none") from None
        if value is not None and not -1e6 < value < 1e6:
            raise ValueError(f"--scores: '{word}' is no score; expected values such as 0,1,2 or none")
        found.append(value)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"--scores '{text}' names {len(found)} values; expected one or more, each once")
    return found
