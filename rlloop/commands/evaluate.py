"""`rlloop evaluate`: scores and distances of any folder of clips, alone or against another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FILE_WIDTH = 120  # columns of what is not a terminal


def run(
    clips: Annotated[Path, typer.Argument(help="Folder of audio files, or a clips.jsonl with path and prompt a line.")],
    against: Annotated[Path | None, typer.Option(help="The same of another system: gains are over it.")] = None,
    reference: Annotated[
        str,
        typer.Option(
            help="Where distances start: mini (shipped statistics), a folder or clips.jsonl, or none.",
            show_default="mini where the generator of --config is, else none",
        ),
    ] = "",
    embedding: Annotated[
        str, typer.Option(help="Ears for a reference folder, comma between: musicnn, clap, mert.")
    ] = "musicnn",
    rewards: Annotated[
        str, typer.Option(help="Names as in scorer.rewards, comma between, or none.", show_default="those of --config")
    ] = "",
    config: Annotated[str, typer.Option(help="Preset or file whose evaluation.scores are meant.")] = "mini",
    scores: Annotated[Path | None, typer.Option(help="Take the scores of CLIPS from a file of rlloop score.")] = None,
    against_scores: Annotated[Path | None, typer.Option(help="The same for --against.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for evaluation.json and the scores.")] = Path("runs/evaluation"),
    cache: Annotated[Path, typer.Option(help="Where reference folders are kept.")] = Path("~/.cache/rlloop/references"),
    crop_seed: Annotated[int, typer.Option(help="Of the random 10 s that CLAP hears of a longer clip.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Clips heard at once.")] = 8,
    allow_other_n: Annotated[bool, typer.Option(help="Compare distances of sets of different size.")] = False,
) -> None:
    """Scores with intervals over prompts, distances with their n; paired over the prompts that two sets share.

    Examples: rlloop evaluate runs/clips

    rlloop evaluate after.jsonl --against before.jsonl --rewards tunejury

    rlloop evaluate clips --scores scores.jsonl --reference songs --embedding clap
    """
    if against_scores and not against:
        raise ValueError(f"--against-scores {against_scores} without --against; name the clips that they are of")

    from rlloop.recipes.evaluate_folder import evaluate
    from rlloop.recipes.evaluate_request import Request, listed

    request = Request(
        clips=listed(clips, scores),
        against=listed(against, against_scores) if against else None,
        reference=reference,
        ears=names(embedding),
        rewards=names(rewards),
        config=config,
        cache=cache.expanduser(),
        crop_seed=crop_seed,
        batch=batch,
        allow_other_n=allow_other_n,
    )
    from rich.console import Console

    from rlloop.views.evaluation import comparison_table

    report = evaluate(request, out)
    console = Console()
    console = console if console.is_terminal else Console(width=FILE_WIDTH)
    console.print(comparison_table(report))
    for note in report["notes"]:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    console.print(f"{out / 'evaluation.json'}", markup=False, soft_wrap=True)


def names(text: str) -> list[str]:
    """The words of a comma-separated option."""
    return [name.strip() for name in text.split(",") if name.strip()]
