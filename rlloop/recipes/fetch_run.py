"""Takes a run's copy from its URI: before the run begins where nothing of it is here, or to read it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from rlloop.recipes.run_copy import RunCopy

BARS = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()


def fetch_run(uri: str, folder: Path, digest: str) -> RunCopy:
    """The copy at `uri`, with its run in `folder` if there is one; says what it does.

    Args:
        digest: of the configuration that the run shall have.
    Raises:
        ValueError: the copy is another run's, is newer than the folder, is damaged, or cannot be reached; one line.
    """
    try:
        copy = RunCopy(uri)
        found = copy.manifest()
    except OSError as error:
        raise ValueError(f"run_dir {uri} cannot be reached: {' '.join(str(error).split())[:200]}") from None
    print(f"rlloop: the run works in {folder}; its copy is kept at {uri}")
    if found is None:
        return copy
    if found.digest != digest:
        raise ValueError(f"run_dir {uri} holds a run with other settings; give them to resume it, or another run_dir")
    if (folder / "config.json").exists():
        here = max((int(path.name) for path in (folder / "epochs").glob("[0-9]*") if path.name.isdecimal()), default=0)
        if found.epoch > here:
            raise ValueError(
                f"{folder} is at start {here} of this run, its copy at {uri} at start {found.epoch}: the run went on "
                "elsewhere; remove the folder, and the copy is taken"
            )
        return copy
    restore(copy, folder)
    return copy


def restore(copy: RunCopy, folder: Path) -> None:
    """Fetches a copy's run into a folder, with a bar.

    Raises:
        ValueError: there is no copy, it is damaged, or the store does not answer.
    """
    with Progress(*BARS, transient=True, console=Console(stderr=True)) as bars:
        task = bars.add_task(f"fetching {copy.uri}", total=None)
        try:
            found = copy.restore(folder, lambda done, total: bars.update(task, completed=done, total=total))
        except OSError as error:
            raise ValueError(f"{copy.uri} cannot be fetched: {' '.join(str(error).split())[:200]}") from None
    if not found:
        raise ValueError(f"{copy.uri} holds no copy of a run; give the run_dir that a run was given")


def local_run(run: str) -> Path:
    """A run as a folder to read: itself, or where it is a URI its copy, fetched into a temporary folder.

    Raises:
        ValueError: as `restore`.
    """
    if "://" not in run:
        return Path(run)
    folder = Path(tempfile.mkdtemp(prefix="rlloop-run-")) / "run"
    restore(RunCopy(run), folder)
    return folder
