"""`rlloop data`: corpora to train on, from recordings with captions or from the mini stack's own clips."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from actors.jobs.prepare import Summary

SHOWN_REASONS = 10
app = typer.Typer(name="data", help="Corpora: latents, text features and reward labels.", no_args_is_help=True)

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of --config, as of a run.")
]
Preset = Annotated[str, typer.Option(help="Preset or file: its generator and scorer.rewards are meant.")]
Actors = Annotated[int, typer.Option(min=0, help="Processes; each holds all the models. 0: one a CPU, at most 8.")]
Cpus = Annotated[float, typer.Option(min=0.1, help="CPUs and torch threads of each.")]
Gpus = Annotated[float, typer.Option(min=0.0, help="GPUs of each: 0.5 puts two on one; 0 computes on CPUs.")]


@app.command()
def prepare(
    audio: Annotated[Path, typer.Argument(help="Folder that the captions' paths start from.")],
    captions: Annotated[Path, typer.Option(help="TSV, CSV, JSONL or JSON with path (or id) and caption.")],
    out: Annotated[Path, typer.Option(help="Folder of the corpus.")],
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="train, validation, test (seeded, 100 each held out), or all.")] = "train",
    config: Preset = "mini",
    rewards: Annotated[
        str, typer.Option(help="Names as in scorer.rewards, comma between; none.", show_default="those of --config")
    ] = "",
    t5: Annotated[str, typer.Option(help="fluxaudio: FLAN-T5, a name or a folder.")] = "flan_t5_large",
    clap: Annotated[str, typer.Option(help="fluxaudio: LAION-CLAP, a name or a path.")] = "clap_conditioning",
    tokenizer: Annotated[str, typer.Option(help="fluxaudio: CLAP's tokenizer, a name or a folder.")] = "roberta_base",
    batch: Annotated[int, typer.Option(min=1, help="Recordings read, and segments encoded and scored, at once.")] = 8,
    actors: Actors = 0,
    cpus: Cpus = 1.0,
    gpus: Gpus = 0.0,
) -> None:
    """Prepares a corpus of captioned recordings: segments of 10 s, their latents, text features and reward labels.

    The same command goes on where it was stopped. A recording that cannot be read, is silent or shorter than 5 s is
    listed with its reason in FOLDER/failures.jsonl and costs the others nothing; the next start tries it again.

    Examples: rlloop data prepare audio --captions captions.tsv --out corpus --split all

    rlloop data prepare jamendo --captions jamendo_qwen.json --out corpus --config paper --gpus 1
    """
    from rlloop.config import load
    from rlloop.recipes.corpus_plan import plan_corpus

    settings = load(config, overrides)
    chosen = [name.strip() for name in rewards.split(",") if name.strip()] or settings.scorer.all_rewards
    plan = plan_corpus(
        audio, captions, split, settings, [] if chosen == ["none"] else chosen, (t5, clap, tokenizer), out, batch
    )

    from actors.jobs.pool import Pool, default_actors
    from actors.jobs.prepare import fill_corpus
    from rlloop.recipes.corpus_worker import CorpusWorker
    from rlloop.views.progress import JobProgress

    pool = Pool(actors or default_actors(-(-len(plan.rows) // batch), cpus, gpus), cpus, gpus)
    pool.check(os.environ)
    try:
        with plan.open() as collector, JobProgress("recordings", len(plan.rows)) as progress:
            done = fill_corpus(collector, CorpusWorker, plan.job, plan.rows, batch, pool, progress)
    except KeyboardInterrupt:
        stopped()
    recordings = len(plan.rows) + len(plan.failures)
    report(done, out, f"{recordings - len(done.failures)} of {recordings} recordings")


@app.command()
def mini(
    out: Annotated[Path, typer.Option(help="Folder of the corpus.")],
    overrides: Overrides = None,
    clips: Annotated[int, typer.Option(min=1, help="Clips of the corpus.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Decides prompts and noise.")] = 0,
    config: Preset = "mini",
    actors: Actors = 0,
    cpus: Cpus = 1.0,
) -> None:
    """Makes a corpus of clips of the bundled generator with their scores; corpus=mini makes its own when it is missing.

    The same command goes on where it was stopped.

    Example: rlloop data mini --out mini_corpus --clips 400
    """
    from dataclasses import asdict

    from rlloop.config import load
    from rlloop.recipes.mini_corpus import CLIPS_PER_TICKET, RolloutWorker, open_mini

    settings = load(config, overrides)

    from actors.jobs.pool import Pool, default_actors
    from actors.jobs.prepare import fill_corpus
    from rlloop.views.progress import JobProgress

    pool = Pool(actors or default_actors(-(-clips // CLIPS_PER_TICKET), cpus), cpus)
    pool.check(os.environ)
    collector, tickets, job = open_mini(out, settings, clips, seed)
    try:
        with collector, JobProgress("tickets", len(tickets)) as progress:
            rows = {key: asdict(ticket) for key, ticket in tickets.items()}
            done = fill_corpus(collector, RolloutWorker, job, rows, 1, pool, progress)
    except KeyboardInterrupt:
        stopped()
    report(done, out, f"{len(tickets)} tickets")


def stopped() -> None:
    print("rlloop: stopped; what was prepared is kept, the same command goes on", file=sys.stderr)
    raise typer.Exit(130) from None


def report(done: Summary, out: Path, what: str) -> None:
    for reason, count in Counter(done.failures.values()).most_common(SHOWN_REASONS):
        print(f"rlloop: {count} left out: {reason}", file=sys.stderr)
    for reason, count in Counter(done.missing).most_common(SHOWN_REASONS):
        print(f"rlloop: {count} rows without a score: {reason}", file=sys.stderr)
    listed = f", {len(done.failures)} listed in {out / 'failures.jsonl'}" if done.failures else ""
    resumed = f", {done.resumed} of them before" if done.resumed else ""
    print(f"{done.rows} rows of {what} in {out}{resumed}{listed}, {done.seconds:.1f} s")
