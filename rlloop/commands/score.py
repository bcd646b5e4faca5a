"""`rlloop score`: scores a folder of clips by any rewards, one JSON line a clip."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

SHOWN_REASONS = 10


def run(
    clips: Annotated[Path, typer.Argument(help="Folder of audio files, or a clips.jsonl with path and prompt a line.")],
    out: Annotated[Path, typer.Option(help="JSON lines: path, prompt, scores, reasons.")],
    rewards: Annotated[
        str, typer.Option(help="Names as in scorer.rewards, comma between.", show_default="those of --config")
    ] = "",
    config: Annotated[str, typer.Option(help="Preset or file whose scorer.rewards are meant.")] = "mini",
    batch: Annotated[int, typer.Option(min=1, help="Clips scored at once.")] = 8,
    actors: Annotated[
        int, typer.Option(min=0, help="Processes; each holds all the rewards. 0: one a CPU, at most 8.")
    ] = 0,
    cpus: Annotated[float, typer.Option(min=0.1, help="CPUs and torch threads of each.")] = 1.0,
    gpus: Annotated[float, typer.Option(min=0.0, help="GPUs of each: 0.5 puts two on one; 0 computes on CPUs.")] = 0.0,
) -> None:
    """Scores clips in parallel. A clip that cannot be scored has null and a reason; it costs the others nothing.

    The same command goes on where it was stopped. Status 0 when every clip has its line, with or without a score.

    Examples: rlloop score runs/clips --out scores.jsonl

    rlloop score clips.jsonl --out scores.jsonl --rewards tunejury_mini,judge_mini
    """
    from rlloop.config import load
    from rlloop.recipes.clip_files import list_clips

    settings = load(config)
    chosen = [name.strip() for name in rewards.split(",") if name.strip()] or settings.scorer.all_rewards
    found = list_clips(clips)

    from actors.jobs.pool import Pool, default_actors
    from actors.jobs.score import score_clips
    from rlloop.views.progress import JobProgress

    pool = Pool(actors or default_actors(-(-len(found) // batch), cpus, gpus), cpus, gpus)
    pool.check(os.environ)
    try:
        with JobProgress("clips", len(found)) as progress:
            done = score_clips(found, chosen, settings, out, batch, pool, progress)
    except KeyboardInterrupt:
        print("rlloop: stopped; the scores so far are kept, the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    for reason, count in sorted(done.missing.items(), key=lambda item: -item[1])[:SHOWN_REASONS]:
        print(f"rlloop: {count} without a score: {reason}", file=sys.stderr)
    resumed = f", {done.resumed} of them before" if done.resumed else ""
    print(f"{done.clips} clips scored into {out}{resumed}, {done.seconds:.1f} s")
