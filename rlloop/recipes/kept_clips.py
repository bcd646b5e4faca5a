"""Which clips and which evaluated versions a long run keeps: the first, ends of stages, the best, and the newest."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from rlloop.loop.snapshot import EvaluationResult
from rlloop.views.scores import is_number, mean_score

KEPT_FILE = "kept.json"
VERSION = re.compile(r"version(\d+)-")


def best_version(results: Sequence[EvaluationResult], score: str) -> int | None:
    """The version whose held-out mean of a score is highest; the earlier one of equals. None: none has it."""
    means = {result.version: mean_score(result, score) for result in results}
    found = {version: mean for version, mean in means.items() if is_number(mean)}
    return max(sorted(found), key=lambda version: found[version], default=None)


def keep_versions(run_dir: Path, versions: Collection[int | None]) -> None:
    """Says which versions' checkpoints must stay beside the newest: the best one, and the one being evaluated."""
    path = run_dir / "evaluations" / KEPT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(sorted({version for version in versions if version is not None})))
    os.replace(scratch, path)


def versions_kept(run_dir: Path) -> set[int]:
    """Inverse of `keep_versions`; none where nothing was said yet."""
    try:
        return {int(version) for version in json.loads((run_dir / "evaluations" / KEPT_FILE).read_text())}
    except (OSError, ValueError, TypeError):
        return set()


def remove_old_clips(run_dir: Path, bound: int, versions: Collection[int], names: Collection[str]) -> int:
    """Removes the oldest clips in audio/ beyond `bound` bytes; returns the bytes that are left.

    Args:
        versions: whose held-out clips stay. names: files that stay, relative to run_dir.
    """
    folder = run_dir / "audio"
    if not folder.exists():  # evaluation.audio_clips is 0
        return 0
    files = [(entry.stat().st_mtime, entry) for entry in os.scandir(folder) if entry.name.endswith(".flac")]
    total = sum(entry.stat().st_size for _, entry in files)
    for _, entry in sorted(files, key=lambda found: (found[0], found[1].name)):
        if total <= bound:
            break
        named = VERSION.match(entry.name)
        if (named and int(named[1]) in versions) or f"audio/{entry.name}" in names:
            continue
        total -= entry.stat().st_size
        os.unlink(entry.path)
    return total
