"""What `rlloop evaluate` is asked for, and what of it is refused before a model is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlloop.config import Config
from rlloop.recipes.clip_files import ClipFile, ScoreLine, list_clips, read_lines
from rlloop.recipes.clip_hearing import is_mini
from rlloop.recipes.embedders import NAMES


@dataclass(frozen=True)
class Listed:
    """The clips of one system, and the file and lines of their scores where those are known already."""

    source: Path
    clips: Sequence[ClipFile]
    scores: Path | None
    lines: Sequence[ScoreLine] | None


@dataclass(frozen=True)
class Request:
    """What `rlloop evaluate` was asked for; its help says what each is."""

    clips: Listed
    against: Listed | None
    reference: str  # mini, a folder or list, none, or "": mini where the configuration's generator is
    ears: Sequence[str]
    rewards: Sequence[str]
    config: str
    cache: Path
    crop_seed: int
    batch: int
    allow_other_n: bool

    @property
    def systems(self) -> list[Listed]:
        return [self.clips, *([self.against] if self.against else [])]

    @property
    def has_all_scores(self) -> bool:
        return all(system.lines is not None for system in self.systems)


def listed(source: Path, scores: Path | None) -> Listed:
    """Lists a folder or clips.jsonl, with the lines of a scores file.

    Raises:
        ValueError: nothing is there, or the scores are of other clips.
    """
    clips = list_clips(source)
    return Listed(source, clips, scores, read_scores(scores, clips) if scores else None)


def read_scores(path: Path, clips: Sequence[ClipFile]) -> list[ScoreLine]:
    """The lines of these clips in a scores.jsonl of `rlloop score`.

    Raises:
        ValueError: a line is none, or a clip has none; says how many and which comes first.
    """
    found = {}
    for number, row in read_lines(path):
        try:
            line = ScoreLine(**row)
        except TypeError as error:
            raise ValueError(
                f"{path}:{number}: is no line of scores ({error}); expected what rlloop score wrote"
            ) from None
        if not isinstance(line.scores, dict) or not all(is_score(value) for value in line.scores.values()):
            raise ValueError(f"{path}:{number}: scores are {line.scores}; expected name to a finite number or null")
        found[line.path, line.prompt] = line
    lacking = [clip.path for clip in clips if (clip.path, clip.prompt) not in found]
    if lacking:
        raise ValueError(
            f"{path} lacks {len(lacking)} of {len(clips)} clips, {lacking[0]} first; score the same clips again"
        )
    return [found[clip.path, clip.prompt] for clip in clips]


def is_score(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def outputs(out: Path) -> tuple[Path, Path]:
    """The files of the scores of the clips and of the other system."""
    return out / "scores.jsonl", out / "against.jsonl"


def choose_reference(request: Request, config: Config) -> tuple[str, list[str]]:
    """The reference that is meant, and what has to be said about it."""
    if request.reference:
        return request.reference, []
    if is_mini(config):
        return "mini", []
    return "none", [
        f"no distance: the generator of {request.config} is {config.generator.target}, and the shipped reference is of "
        "the mini stack's training clips; give --reference FOLDER, or mini to take that one all the same"
    ]


def refuse(request: Request, reference: str, out: Path) -> None:
    """Refuses what would be left out without a word, compared in vain, or written over.

    Raises:
        ValueError: the first of these.
    """
    sizes = [len(system.clips) for system in request.systems]
    if reference != "none" and len(set(sizes)) > 1 and not request.allow_other_n:
        raise ValueError(
            f"{request.clips.source} has {sizes[0]} clips and {request.systems[1].source} has {sizes[1]}: distances "
            "depend on n; give sets of one size, --reference none, or --allow-other-n"
        )
    if not request.ears or (reference in ("mini", "none") and list(request.ears) != ["musicnn"]):
        raise ValueError(
            f"--embedding '{','.join(request.ears)}' with --reference {reference}: the shipped statistics are by "
            f"musicnn; give --reference FOLDER and one or more of {', '.join(NAMES)}"
        )
    if request.has_all_scores and list(request.rewards) not in ([], ["none"]):
        raise ValueError("--rewards has nothing to score, as all scores are given; leave it or --scores out")
    read = {system.source.resolve() for system in request.systems}
    for system, file in zip(request.systems, outputs(out), strict=False):
        if file.resolve() in read and system.lines is None:
            raise ValueError(f"{file} is read as a list of clips and would be written over; choose another --out")
