"""`rlloop weights`: published weights: what there is, fetching, verifying, importing, and exporting ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rlloop.weights.catalogue import Entry, File
    from rlloop.weights.importing import Taken

app = typer.Typer(
    help="Published weights. They lie in $RLLOOP_WEIGHTS, else ~/.cache/rlloop/weights.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
NAMES = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Names of `rlloop weights list`, or all.")]
MANY = 5


@app.command("list")
def list_weights(
    as_json: Annotated[bool, typer.Option("--json", help="Every file, with checksums and sources.")] = False,
) -> None:
    """Shows what is published, under which licence, and what of it is here.

    Example: rlloop weights list
    """
    from rlloop.weights.catalogue import catalogue, root

    if as_json:
        print(json.dumps([describe(entry) for entry in catalogue().values()], indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "for", "size", "licence", "from", "here", title=f"weights in {root()}", title_justify="left")
    for entry in catalogue().values():
        first = next((str(source) for file in entry.files for source in file.sources), "")
        source = first.removeprefix("https://").rsplit("/", 1)[0] + (" (gated)" if entry.gated else "")
        table.add_row(entry.name, entry.purpose, gigabytes(entry.size), entry.licence, source, state_of(entry))
    console = Console()
    Console(width=console.width if console.is_terminal else 200).print(table)


def describe(entry: Entry) -> dict:
    """An entry as plain data."""
    from rlloop.weights.records import read_records, state

    records = read_records(entry)
    files = [
        {
            "name": file.name,
            "bytes": file.num_bytes,
            "about_bytes": file.size,
            "checksums": list(file.checksums),
            "sources": [str(source) for source in file.sources],
            "state": state(entry, file, records),
            "sha256_here": records[file.name].sha256 if file.name in records else None,
        }
        for file in entry.files
    ]
    about = {key: getattr(entry, key) for key in ("name", "purpose", "licence", "gated", "note")}
    return {**about, "path": str(entry.path), "here": state_of(entry), "files": files}


def state_of(entry: Entry) -> str:
    """The least that can be said of all files of an entry."""
    from rlloop.weights.records import read_records, state

    records = read_records(entry)
    states = {state(entry, file, records) for file in entry.files if not file.is_optional}
    order = ("partial", "absent", "present", "verified")
    least = next(s for s in order if s in states)
    return "partial" if least == "absent" and len(states) > 1 else least


def gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...|all", help="Names of `rlloop weights list`.")],
) -> None:
    """Fetches weights; what was interrupted goes on where it was, and nothing is used before its checksum is right.

    Honours HF_ENDPOINT, HF_HUB_OFFLINE, and HF_TOKEN for gated ones.

    Example: rlloop weights fetch vae_44k bigvgan_v2_44k
    """
    from rlloop.recipes.disk import make_writable
    from rlloop.weights.catalogue import entries, root
    from rlloop.weights.download import Network
    from rlloop.weights.fetching import fetch as fetch_entry

    chosen, network, failed = entries(names), Network.from_environment(), []
    if any(state_of(entry) in ("absent", "partial") for entry in chosen):  # where all is here, nothing is written
        make_writable(root())
    with progress() as report_of:
        for entry in chosen:
            try:
                num_files = fetch_entry(entry, network, report_of)
                print(f"{entry.name}: {f'{num_files} files fetched' if num_files else 'is here'}: {entry.path}")
            except ValueError as error:
                if len(chosen) == 1:
                    raise
                print(f"rlloop: {error}", file=sys.stderr)
                failed.append(entry.name)
    if failed:
        raise ValueError(f"{len(failed)} of {len(chosen)} were not fetched: {', '.join(failed)}")


def progress():
    """A context that gives for each file what to call with its progress: a bar on a terminal, else nothing."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(stderr=True)

    @contextmanager
    def bars():
        with Progress(*columns, console=console, disable=not console.is_terminal) as shown:

            def report_of(entry: Entry, file: File):
                task = shown.add_task(f"{entry.name}/{file.name}", total=None)
                return lambda done, total: shown.update(task, completed=done, total=total)

            yield report_of

    return bars()


@app.command()
def verify(names: NAMES = None) -> None:
    """Checks checksums, and that files open and hold what they should. Without names: all that is here.

    Example: rlloop weights verify vae_44k
    """
    from rlloop.weights.catalogue import catalogue, entries
    from rlloop.weights.verifying import is_good
    from rlloop.weights.verifying import verify as verify_entry

    chosen = entries(names) if names else [e for e in catalogue().values() if state_of(e) != "absent"]
    if not chosen:
        print("nothing is here; `rlloop weights list` shows what there is")
    bad = []
    for entry in chosen:
        for name, verdict in verify_entry(entry).items():
            print(f"{entry.name}/{name}: {verdict}", flush=True)
            bad += [] if is_good(verdict) else [f"{entry.name}/{name}"]
    if bad:
        raise ValueError(f"{len(bad)} files are not as published: {', '.join(bad)}; remove the wrong ones and fetch")


@app.command("import")
def import_weights(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Searched with its subfolders; or a file, with --as.")
    ],
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="Takes it as these weights.")] = None,
    link: Annotated[bool, typer.Option("--link", help="Makes symbolic links instead of copies.")] = False,
) -> None:
    """Takes over files that were fetched elsewhere, recognised by name, size and checksum; a wrong checksum is refused.

    Example: rlloop weights import /media/usb/weights
    """
    from rlloop.weights.catalogue import catalogue, entries
    from rlloop.weights.importing import import_as, import_folder

    if name is not None:
        done = import_as(entries([name])[0], folder, is_linked=link)
    else:
        done = import_folder(folder, catalogue().values(), is_linked=link)
    report(done)
    if done.refused:
        raise ValueError(f"{len(done.refused)} files were refused")
    if not done.taken and not done.had:
        raise ValueError(f"{folder} holds none of the published files; `rlloop weights list --json` names them")


def report(done: Taken) -> None:
    """Prints what was taken, refused and left."""
    for line in done.taken:
        print(f"took {line}")
    for line in done.had:
        print(f"had {line} already")
    for line in done.refused:
        print(f"refused {line}")
    for path in done.left[:MANY]:
        print(f"left {path}")
    if len(done.left) > MANY:
        print(f"left {len(done.left) - MANY} more")


@app.command()
def export(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A run, its copy's URI, one of its checkpoints, or a file.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .pt file to write; its .json says what it is.")],
    like: Annotated[
        str | None, typer.Option(help="Checkpoint whose names it takes: a path, a name, or ours. Default: the run's.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Score variant. Default: the run's, else v2.")] = None,
    frames: Annotated[int | None, typer.Option(help="Latent frames, for weights of no published size.")] = None,
) -> None:
    """Writes a trained network in the published layout: a flat torch state dict that the authors' code reads.

    Example: rlloop weights export runs/paper fluxaudio_trained.pt
    """
    from rlloop.recipes.export_weights import export as export_weights
    from rlloop.recipes.fetch_run import local_run

    for line in export_weights(local_run(checkpoint), out, like=like, variant=variant, frames=frames):
        print(line)


@app.command()
def average(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory, or the URI of a run's copy.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")],
    stage: Annotated[str, typer.Option(help="Stage whose updates are averaged.")],
    sigma: Annotated[float, typer.Option(help="Relative width of the average.")] = 0.05,
    step: Annotated[int | None, typer.Option(help="Update of the stage. Default: its last.")] = None,
) -> None:
    """Makes an average of any width from what a run with trainer.ema_sigmas stored (post-hoc EMA).

    Example: rlloop weights average runs/paper sft_ema.safetensors --stage sft --sigma 0.05
    """
    from rlloop.recipes.averages import average as average_weights
    from rlloop.recipes.fetch_run import local_run

    print(average_weights(local_run(run), stage, sigma, step, out))
