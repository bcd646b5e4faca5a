"""`rlloop postprocess`: the steps of post-processing for folders of clips, each alone or as a chain."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rlloop.config import StepEntry
    from rlloop.views.progress import JobProgress

SHOWN_REASONS = 10

app = typer.Typer(
    help="Post-processing of clips, into mono: vocals dropped, loudness set. What is there from the same clip stays.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Clips = Annotated[Path, typer.Argument(help="Folder of audio files, or a clips.jsonl; several channels become mono.")]
Out = Annotated[Path, typer.Option(help="Folder for the clips and their clips.jsonl; not that of CLIPS.")]
Bits = Annotated[int, typer.Option(help="16 or 24 a sample.")]
Actors = Annotated[int, typer.Option(min=0, help="Processes on Ray; 0: this process, without Ray.")]
Cpus = Annotated[float, typer.Option(min=0.1, help="CPUs and torch threads of each.")]
Gpus = Annotated[float, typer.Option(min=0.0, help="GPUs of each; 0 computes on CPUs.")]

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that no post-processing made.")]


@app.command()
def loudness(
    clips: Clips,
    out: Out,
    target: Annotated[float, typer.Option(help="LUFS, by ITU-R BS.1770-4.")] = -16.5,
    ceiling: Annotated[float, typer.Option(help="A clip whose peak would exceed this is held back.")] = 0.99,
    peak: Annotated[float, typer.Option(help="The peak that it then gets.")] = 0.95,
    meter: Annotated[str, typer.Option(help="itu, or published: pyloudnorm as it comes, up to 0.2 LU off.")] = "itu",
    bits: Bits = 16,
    actors: Actors = 0,
    cpus: Cpus = 1.0,
    overwrite: Overwrite = False,
) -> None:
    """Brings clips to one loudness; those that the peak rule keeps below it are counted.

    Example: rlloop postprocess loudness clips --out levelled
    """
    options = {"target_lufs": target, "ceiling": ceiling, "peak": peak, "meter": meter}
    process([{"name": "loudness", "options": options}], clips, out, bits, actors, cpus, 0.0, overwrite)


@app.command()
def demucs(
    clips: Clips,
    out: Out,
    repo: Annotated[
        str, typer.Option(help="A name of `rlloop weights list`, or a folder with .th files.")
    ] = "demucs_mdx_extra",
    model: Annotated[str, typer.Option(help="The bag: its yaml's name in that folder.")] = "mdx_extra",
    passes: Annotated[int, typer.Option(min=1, help="How often each clip is separated.")] = 3,
    peak: Annotated[float, typer.Option(help="Peak after every pass.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the random shifts.")] = 0,
    bits: Bits = 16,
    actors: Actors = 0,
    cpus: Cpus = 1.0,
    gpus: Gpus = 0.0,
    overwrite: Overwrite = False,
) -> None:
    """Drops the vocals with Demucs, several times over.

    Example: rlloop postprocess demucs clips --out instrumental --gpus 1
    """
    options = {"repo": repo, "name": model, "passes": passes, "peak": peak, "seed": seed}
    process([{"name": "demucs", "options": options}], clips, out, bits, actors, cpus, gpus, overwrite)


@app.command()
def chain(
    clips: Clips,
    out: Out,
    steps: Annotated[
        str, typer.Option(help="Steps, comma between: names or dotted paths.", show_default="postprocess of --config")
    ] = "",
    config: Annotated[str, typer.Option(help="Preset or file whose postprocess is meant.")] = "mini",
    bits: Bits = 16,
    actors: Actors = 0,
    cpus: Cpus = 1.0,
    gpus: Gpus = 0.0,
    overwrite: Overwrite = False,
) -> None:
    """Applies several steps in their order, as `rlloop generate` does.

    Examples: rlloop postprocess chain clips --out final --config official

    rlloop postprocess chain clips --out final --steps demucs,loudness
    """
    from rlloop.config import load

    given: list[Any] = [step.strip() for step in steps.split(",") if step.strip()]
    given = given or list(load(config).postprocess)
    if not given:
        raise ValueError(f"--config {config} names no postprocess steps; name some: --steps demucs,loudness")
    process(given, clips, out, bits, actors, cpus, gpus, overwrite)


def process(
    given: list[Any], clips: Path, out: Path, bits: int, actors: int, cpus: float, gpus: float, overwrite: bool
) -> None:
    """Applies steps to clips and says what came of it; status 1 where a clip could not be processed.

    Raises:
        ValueError: no clips, an unknown step, or a folder that cannot be written to.
    """
    from rlloop.audio.tagged import FORMATS
    from rlloop.recipes.clip_files import list_clips
    from rlloop.recipes.disk import refuse_uri
    from rlloop.recipes.generate_folder import absent, prepare, write_index
    from rlloop.recipes.generate_request import ClipRequest
    from rlloop.recipes.postprocess import loudness_counts, loudness_line, read_steps
    from rlloop.recipes.postprocess_files import plan
    from rlloop.views.progress import JobProgress

    if bits not in FORMATS["flac"]:
        raise ValueError(f"--bits {bits}: expected 16 or 24")
    refuse_uri(out, "--out")
    entries, tasks = read_steps(given), plan(list_clips(clips), clips, out)
    prepare(out)
    done: dict[str, dict] = {}
    try:
        with JobProgress("clips", len(tasks)) as progress:
            rows = [asdict(task) for task in tasks]
            for each in outcomes(entries, out, bits, rows, actors, cpus, gpus, overwrite, progress):
                done[each["path"]] = each
                progress.advance(1, int("reason" in each))
    except KeyboardInterrupt:
        print("rlloop: stopped; the clips so far are kept, the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    finally:
        write_index(out, [ClipRequest(path, "", 0) for path, each in done.items() if "reason" not in each])
    for path in absent(out, [path for path, each in done.items() if "reason" not in each]):
        done[path]["reason"] = "a worker made it, but it is not in the folder: is that shared by all nodes?"
    good = [each for each in done.values() if "reason" not in each]
    reasons = Counter(each["reason"] for each in done.values() if "reason" in each)
    for reason, count in reasons.most_common(SHOWN_REASONS):
        print(f"rlloop: {count} not processed: {reason}", file=sys.stderr)
    if mixed := sum(each["is_mixed"] for each in good):
        print(f"rlloop: note: {mixed} clips have several channels; they are written as mono", file=sys.stderr)
    kept = sum(each["is_kept"] for each in good)
    print(f"{len(good)} of {len(tasks)} clips in {out}, {kept} of them before")
    counts = loudness_counts([each["facts"] for each in good])
    if counts:
        print(loudness_line(counts))
    if reasons:
        raise typer.Exit(1)


def outcomes(
    entries: list[StepEntry],
    out: Path,
    bits: int,
    rows: list[dict],
    actors: int,
    cpus: float,
    gpus: float,
    overwrite: bool,
    progress: JobProgress,
) -> Iterator[dict[str, Any]]:
    """What became of each row, as it is done."""
    from rlloop.recipes.postprocess_files import PostprocessWorker

    if not actors:
        progress.phase("loading the steps")
        device = "cuda" if gpus else "cpu"
        yield from PostprocessWorker(entries, str(out.resolve()), max(1, int(cpus)), device, bits, overwrite)(rows)
        return
    from actors.jobs.pool import Pool, run_pool, start

    pool = Pool(actors, cpus, gpus)
    pool.check(os.environ)
    progress.phase("starting Ray and loading the steps")
    start(out.resolve())
    args = (entries, str(out.resolve()), pool.threads, pool.device, bits, overwrite)
    yield from run_pool(PostprocessWorker, args, rows, 1, pool)
