"""`rlloop features`: computes the text features of prompts once, so that samplers need no text encoder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

PREFIX = "high quality instrumental music, "  # of the published inference (reference.md section 10)
SHOWN_FAILURES = 10


def run(
    prompts: Annotated[Path, typer.Argument(help="Text file, a line a prompt; or CSV, TSV or JSONL with --column.")],
    out: Annotated[Path, typer.Option(help="Folder of the features; more are added to one that has some.")],
    column: Annotated[str, typer.Option(help="Column or key of the prompts.")] = "prompt",
    t5: Annotated[str, typer.Option(help="FLAN-T5: a name of `rlloop weights list`, or a folder.")] = "flan_t5_large",
    clap: Annotated[str, typer.Option(help="LAION-CLAP: a name, a checkpoint or a folder.")] = "clap_conditioning",
    tokenizer: Annotated[str, typer.Option(help="Tokenizer of CLAP: a name or a folder.")] = "roberta_base",
    prefix: Annotated[
        list[str],
        typer.Option(help="Before every prompt: sampling.prompt_prefix; '' for training. Give both for both."),
    ] = (PREFIX,),  # pyright: ignore[reportArgumentType]
    negative: Annotated[
        str | None, typer.Option(help="Negative prompt, encoded too, without prefix.", show_default="the published one")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, or float16: half the disk, values off by 1/2048.")] = "float32",
    batch: Annotated[int, typer.Option(min=1, help="Prompts encoded at once.")] = 32,
    actors: Annotated[int, typer.Option(min=1, help="Processes; each holds both encoders.")] = 1,
    cpus: Annotated[float, typer.Option(min=0.1, help="CPUs and torch threads of each.")] = 1.0,
    gpus: Annotated[float, typer.Option(min=0.0, help="GPUs of each: 0.5 puts two on one; 0 computes on CPUs.")] = 0.0,
) -> None:
    """Computes FLAN-T5 and CLAP features of prompts, in parallel, each prompt once.

    The same command goes on where it was stopped, and computes nothing that is there. A prompt takes 318 kB of disk.
    Prompts that fail are listed in FOLDER/failed.jsonl and end the command with status 1.

    Example: rlloop features prompts.csv --out features --gpus 1
    """
    from rlloop.data.prompts import read_prompts
    from rlloop.models.text import NEGATIVE_PROMPT
    from rlloop.recipes.disk import make_writable
    from rlloop.recipes.prompt_features import EncoderFiles
    from rlloop.weights import resolve

    found = read_prompts(prompts, column)
    make_writable(out)
    texts = [before + prompt for before in prefix for prompt in found]
    texts.append(NEGATIVE_PROMPT if negative is None else negative)
    files = EncoderFiles(*(str(resolve(name).resolve()) for name in (t5, clap, tokenizer)))
    files.check()

    from actors.jobs.features import compute_features
    from actors.jobs.pool import Pool
    from rlloop.views.progress import JobProgress

    try:
        with JobProgress("prompts", len(texts)) as progress:
            done = compute_features(texts, files, out, dtype, batch, Pool(actors, cpus, gpus), progress)
    except KeyboardInterrupt:
        print("rlloop: stopped; what was computed is kept, the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    for prompt, reason in list(done.failures.items())[:SHOWN_FAILURES]:
        print(f"rlloop: no features of {prompt[:60]!r}: {reason}", file=sys.stderr)
    print(
        f"features of {done.distinct} distinct prompts in {out}: {done.cached} were there, {done.computed} computed, "
        f"{len(done.failures)} failed, {done.seconds:.1f} s"
    )
    if done.failures:
        raise typer.Exit(1)
