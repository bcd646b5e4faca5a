"""Room on the disk of a run: how much there is, how much is kept free, and what is said when it runs out."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from rlloop.config import Config
from rlloop.config.run import Limits
from rlloop.loop.checkpoints import WEIGHTS, folder
from rlloop.loop.snapshot import Storage
from rlloop.resources import show_bytes

SPARE_BYTES = 64 * 2**20


def free_bytes(path: Path) -> int:
    """What this user may still write on the disk that holds `path`."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def refuse_uri(path: Path, option: str) -> None:
    """For what is written as plain files: s3://bucket would become a folder called s3: where one stands.

    Raises:
        ValueError: names the option.
    """
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:", path.parts[0] if path.parts else ""):  # a Path has one slash left
        found = str(path).replace(":/", "://", 1)
        raise ValueError(f"{option} {found} is a URI; expected a local path, or one on a mount, and copy it from there")


def make_writable(folder: Path) -> None:
    """Makes a folder and sees that it can be written to: before the work whose results it is for.

    Raises:
        ValueError: it cannot; one line.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"rlloop")
    except OSError as error:
        raise ValueError(f"{folder} cannot be written to: {error.strerror}; choose another folder") from None


def kept_free(run_dir: Path, config: Config) -> int:
    """limits.min_free_disk; null is one more checkpoint, so that a stop can write its own, and a little.

    A checkpoint is four times its weights (weights, master weights, two moments) and a copy for each track of the EMA.
    """
    if config.limits.min_free_disk is not None:
        return config.limits.min_free_disk
    try:
        weights = (folder(run_dir, 0) / WEIGHTS).stat().st_size
    except OSError:
        weights = 0
    return SPARE_BYTES + weights * (4 + len(config.trainer.ema_sigmas))


def full_disk(run_dir: Path, free: int, least: int) -> str:
    """Why the run ends before its disk is full, and what to do."""
    return (
        f"{run_dir}: {show_bytes(free)} are free on its disk, limits.min_free_disk keeps {show_bytes(least)}: sampling "
        f"stops, nothing is lost; free {show_bytes(least - free)} or more there and repeat the command"
    )


def over_limit(run_dir: Path | str, limits: Limits, now: Storage) -> str:
    """Why a run that takes more than it may has to end, with both numbers; '' where it does not.

    Rollouts are not among these: whoever writes them counts them.
    """
    spilled, journal, checkpoints = now.spilled or 0, now.journal or 0, now.checkpoints or 0
    if spilled > limits.spill:
        return (
            f"Ray has {show_bytes(spilled)} of objects on disk, limits.spill is {show_bytes(limits.spill)}; raise "
            "limits.object_store or limits.spill"
        )
    if journal > limits.journal:
        return (
            f"{run_dir}: its journal takes {show_bytes(journal)}, limits.journal is {show_bytes(limits.journal)}; "
            "raise it and repeat the command"
        )
    if checkpoints > limits.checkpoints:
        return (
            f"{run_dir}: its checkpoints and stored averages take {show_bytes(checkpoints)}, limits.checkpoints is "
            f"{show_bytes(limits.checkpoints)}; raise it, or lower trainer.keep_checkpoints, and repeat the command"
        )
    return ""


def folder_bytes(path: Path, pattern: str = "*") -> int:
    """Bytes of the files in a folder that match; 0 where it is not there. What vanishes meanwhile counts nothing."""
    total = 0
    for file in path.glob(pattern):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue
    return total


def checkpoint_bytes(run_dir: Path) -> int:
    """What limits.checkpoints bounds: checkpoints and stored averages."""
    return folder_bytes(run_dir / "checkpoints", "*/*") + folder_bytes(run_dir / "ema", "*/*")
