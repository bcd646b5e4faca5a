"""Which version of a run is its result, and where its checkpoint lies: for commands that are given a whole run."""

from __future__ import annotations

import json
from pathlib import Path

from rlloop.loop.checkpoints import MARKER, folder


def kept_versions(run_dir: Path) -> set[int]:
    """Versions whose own checkpoint is on disk and marked."""
    return {int(path.parent.name[1:7]) for path in (run_dir / "checkpoints").glob(f"v*-s000000/{MARKER}")}


def is_run(path: Path) -> bool:
    return (path / "checkpoints").is_dir()


def result_checkpoint(run_dir: Path) -> Path:
    """The checkpoint of the version that the run's summary calls its result; the newest's where it went on since.

    Raises:
        ValueError: there is none, or the summary cannot be read.
    """
    kept = kept_versions(run_dir)
    if not kept:
        raise ValueError(f"{run_dir} holds no complete checkpoint of a version")
    newest, path = max(kept), run_dir / "summary.json"
    if not path.is_file():
        return folder(run_dir, newest)
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        last, result = summary["policy_versions"], summary["result_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no readable summary ({type(error).__name__}: {error}); name one of its checkpoints"
        ) from None
    if newest > last:  # a summary is of the run's last end; this run has published since
        return folder(run_dir, newest)
    if result not in kept:
        raise ValueError(f"{path}: the result is version {result}, its checkpoint is gone; name one of {sorted(kept)}")
    return folder(run_dir, result)
