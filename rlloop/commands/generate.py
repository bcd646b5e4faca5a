"""`rlloop generate`: clips from prompts, with any run's policy, the bundled weights or the official ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rlloop.recipes.generate_request import ClipRequest
    from rlloop.recipes.generate_worker import Job
    from rlloop.views.progress import JobProgress

NUM_SHOWN = 5
SAMPLING = "evaluation.sampling of --run, sampling of --config"


def run(
    prompts: Annotated[list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Prompts, each in quotes.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the clips and clips.jsonl.")] = Path("clips"),
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            "--prompts", help="A file of prompts (txt, csv, tsv, jsonl); a csv with ids names the clips by them."
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            "--run", help="A run (its result), its copy's URI, or a checkpoint's folder; its configuration holds."
        ),
    ] = None,
    version: Annotated[int | None, typer.Option(min=0, help="Version of --run.", show_default="its result")] = None,
    weights: Annotated[
        str, typer.Option(help="A file of `rlloop weights export`, or a name of `rlloop weights list`.")
    ] = "",
    config: Annotated[
        str, typer.Option(help="Preset or file: generator, sampling, rewards.", show_default="the run's, else mini")
    ] = "",
    seed: Annotated[str, typer.Option(help="Base seeds, comma between; a clip's seed is base + row.")] = "0",
    steps: Annotated[int | None, typer.Option(min=1, help="Solver steps.", show_default=SAMPLING)] = None,
    solver: Annotated[str, typer.Option(help="euler or heun.", show_default=SAMPLING)] = "",
    guidance: Annotated[float | None, typer.Option(help="CFG weight.", show_default=SAMPLING)] = None,
    score: Annotated[str, typer.Option(help="Conditioning score, or none.", show_default=SAMPLING)] = "",
    negative: Annotated[str | None, typer.Option(help="Negative prompt.", show_default=SAMPLING)] = None,
    prefix: Annotated[str | None, typer.Option(help="Goes before prompts.", show_default=SAMPLING)] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, max=300, help="Length to draw.", show_default="what was trained on")
    ] = None,
    best_of: Annotated[int, typer.Option(min=1, help="Candidates a clip; the first of --rewards chooses.")] = 1,
    rewards: Annotated[str, typer.Option(help="Names or dotted paths, comma between: scores to keep.")] = "",
    postprocess: Annotated[
        str, typer.Option(help="Steps, comma between, or none.", show_default="postprocess of --config")
    ] = "",
    suffix: Annotated[str, typer.Option("--format", help="wav or flac.")] = "wav",
    bits: Annotated[int, typer.Option(help="16 or 24 a sample, or 32: float, wav alone.")] = 16,
    submission: Annotated[
        Path | None, typer.Option(help="Also a ZIP of {id}.wav for the challenge; clips are padded or cut to 10 s.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Clips of a forward pass; above 1 it decides the last bits.")] = 1,
    actors: Annotated[int, typer.Option(min=0, help="Processes on Ray; 0: this process, without Ray.")] = 0,
    cpus: Annotated[float, typer.Option(min=0.1, help="CPUs and torch threads of each.")] = 1.0,
    gpus: Annotated[
        float | None, typer.Option(min=0.0, help="GPUs of each.", show_default="1 where the machine or cluster has any")
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Run code that the configuration of --run names, such as a generator.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace clips made with other settings.")] = False,
    show: Annotated[Path | None, typer.Option(help="Print how a clip was made, from the file itself, and end.")] = None,
) -> None:
    """Generates clips; what is there with the same settings stays, so the same command goes on where it was stopped.

    On CPUs the same seed gives the same bytes, in one process or on many actors, at the same --batch and --cpus.

    Examples: rlloop generate "a calm piano piece" --seed 7 --out clips

    rlloop generate --run runs/mini --prompts prompts.txt --best-of 4 --rewards tunejury_mini

    rlloop generate --config official --prompts challenge.csv --seed 42 --submission submission.zip --actors 8
    """
    from rlloop.audio.tagged import choose_subtype, read_details
    from rlloop.recipes.disk import refuse_uri

    if show is not None:
        found = read_details(show) if show.is_file() else None
        if found is None:
            raise ValueError(f"{show}: no clip of rlloop generate; expected a wav or flac that it wrote")
        print(json.dumps(found, indent=2))
        return
    choose_subtype(suffix, bits)
    refuse_uri(out, "--out")

    from rlloop.config.trust import code_line
    from rlloop.recipes import generate_settings as given
    from rlloop.recipes.generate_request import request_clips
    from rlloop.recipes.generate_worker import Job
    from rlloop.recipes.postprocess import read_steps

    rows, seeds = given.given_rows(prompts or [], prompts_file), given.parse_seeds(seed)
    if submission is not None:
        given.check_submission(rows, seeds, suffix, bits)
        given.check_zip(submission)
    if actors and policy and "://" in policy:
        raise ValueError(f"--run {policy} is fetched to this machine alone; with --actors copy it to a share first")
    settings, source = given.resolve_policy(policy, version, weights, config, trust_code)
    if policy is not None and (line := code_line(settings)):
        print(f"rlloop: note: {line}", file=sys.stderr)
    changes: dict[str, Any] = {"num_steps": steps, "solver": solver or None, "guidance": guidance}
    changes |= {"negative_prompt": negative, "prompt_prefix": prefix}
    changes = {key: value for key, value in changes.items() if value is not None} | given.parse_score(score)
    texts = [row.prompt for row in rows]
    settings, note = given.usable_encoder(given.overridden(settings, changes), texts)
    given.check_features(settings, texts)
    job = Job(
        settings,
        source,
        str(out.resolve()),
        best_of=best_of,
        rewards=given.chosen_rewards(given.words(rewards), best_of, settings),
        postprocess=tuple(read_steps(given.words(postprocess) if postprocess else settings.postprocess)),
        seconds=seconds,
        fit_seconds=given.SUBMISSION_SECONDS if submission else None,
        bits=bits,
        batch=batch,
    )
    for line in filter(None, (note, given.unused_negative(negative, settings.sampling))):
        print(f"rlloop: note: {line}", file=sys.stderr)
    clips = list(dict.fromkeys(request_clips(rows, seeds, suffix)))
    missing = claim_folder(job, clips, out, overwrite)
    failed = draw(job, missing, out, clips, actors, cpus, gpus)
    finish(job, clips, out, len(clips) - len(missing), failed, submission)


def claim_folder(job: Job, clips: Sequence[ClipRequest], out: Path, overwrite: bool) -> list[ClipRequest]:
    """The clips to make: those that are not there, and with --overwrite those made with other settings.

    Raises:
        ValueError: the folder cannot be written to, or holds clips that would have to be overwritten.
    """
    from rlloop.recipes.generate_folder import compare, prepare

    prepare(out)
    missing, other = compare(clips, out, job.settings)
    if other and not overwrite:
        path, reason = next(iter(other.items()))
        raise ValueError(f"{out / path.path} {reason}; choose another --out, or --overwrite")
    return [clip for clip in clips if clip in {*missing, *other}]


def draw(
    job: Job,
    missing: Sequence[ClipRequest],
    out: Path,
    clips: Sequence[ClipRequest],
    actors: int,
    cpus: float,
    gpus: float | None,
) -> dict[str, str]:
    """Makes the clips, here or on actors, and brings clips.jsonl up to date whatever happens.

    Returns:
        the reason of each clip that could not be made, by path.
    """
    from rlloop.recipes.generate_folder import absent, write_index
    from rlloop.views.progress import JobProgress

    failed = {}
    try:
        with JobProgress("clips", len(missing)) as progress:
            for done in outcomes(job, [asdict(clip) for clip in missing], actors, cpus, gpus, progress):
                failed |= {done["path"]: done["reason"]} if "reason" in done else {}
                progress.advance(1, int("reason" in done))
    except KeyboardInterrupt:
        print("rlloop: stopped; the clips so far are kept, the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    finally:
        write_index(out, clips)
    lost = absent(out, [clip.path for clip in missing if clip.path not in failed])
    return failed | dict.fromkeys(lost, "a worker made it, but it is not in the folder: is that shared by all nodes?")


def outcomes(
    job: Job, rows: list[dict], actors: int, cpus: float, gpus: float | None, progress: JobProgress
) -> Iterator[dict[str, str]]:
    """What became of each row, as it is done."""
    if not rows:
        return
    if not actors:
        from rlloop.recipes.generate_worker import GenerateWorker
        from rlloop.resources import machine_gpus

        progress.phase("loading the models")
        has_gpu = bool(machine_gpus() if gpus is None else gpus)
        yield from GenerateWorker(job, max(1, int(cpus)), "cuda" if has_gpu else "cpu")(rows)
        return
    from actors.jobs.generate import generate_on_actors

    progress.phase("starting Ray and loading the models")
    yield from generate_on_actors(job, rows, actors, cpus, gpus)


def finish(
    job: Job, clips: Sequence[ClipRequest], out: Path, kept: int, failed: Mapping[str, str], submission: Path | None
) -> None:
    """Says what was made, writes the ZIP, and ends with status 1 where a clip is missing."""
    from rlloop.recipes.generate_folder import write_index, write_submission
    from rlloop.recipes.generate_settings import SUBMISSION_RATE_HZ
    from rlloop.recipes.postprocess import loudness_counts, loudness_line

    for path, reason in list(failed.items())[:NUM_SHOWN]:
        print(f"rlloop: {path}: {reason}", file=sys.stderr)
    lines = write_index(out, clips)
    unscored = sum(None in line["scores"].values() for line in lines)
    print(
        f"{len(lines)} clips in {out}, {kept} of them before, with {job.policy.described}"
        + (f"; {len(failed)} failed" if failed else "")
        + (f"; {unscored} lack a score" if unscored else "")
    )
    counts = loudness_counts([line["postprocess"] for line in lines])
    if counts:
        print(loudness_line(counts))
    if failed:
        if submission:
            print(f"rlloop: {submission} is not written: {len(failed)} clips are missing", file=sys.stderr)
        raise typer.Exit(1)
    if submission:
        rates = write_submission(submission, clips, out)
        print(f"{submission}: {len(clips)} files")
        if rates != {SUBMISSION_RATE_HZ}:
            print(
                f"rlloop: note: the challenge wants {SUBMISSION_RATE_HZ} Hz, these have {sorted(rates)}",
                file=sys.stderr,
            )
