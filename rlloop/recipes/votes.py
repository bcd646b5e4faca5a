"""Votes of a report's blind test as preference pairs: their clips are heard here, because a browser stores none.

A vote names its two clips by their files in the run, with the checksums of what was listened to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rlloop.audio.io import read_audio
from rlloop.data.columns import read_table, targets, texts
from rlloop.data.pairs import BLOCKS, TEXTS, Pairs, read_pairs
from rlloop.rewards.base import Clip
from rlloop.rewards.guards import MAX_SECONDS, refuse

EAR = "musicnn"  # of the bundled rewards
COLUMNS = ("winner", "prompt", "audio_a", "audio_b", "sha256_a", "sha256_b", "run_a", "run_b")
BATCH = 16


class Preferences(NamedTuple):
    """Pairs to train on, the names of the blocks that were taken, and how many votes were left out as not blind."""

    pairs: Pairs
    blocks: list[str]
    num_not_blind: int = 0


def read_preferences(path: Path, blocks: Sequence[str] | None, clips: Path | None = None) -> Preferences:
    """Pairs of a file that has their features, or of votes: those that were given blind.

    Args:
        blocks: see read_pairs; for votes also musicnn, alone, which is their default.
        clips: for votes: where the run lies now; of votes on two runs, the folder that both lie in.
    Raises:
        ValueError: what read_pairs refuses, or a vote whose clips are not those that were listened to.
    """
    if not is_votes(path):
        if clips is not None:
            raise ValueError(f"--clips is for votes of a blind test, and {path} holds features; leave it out")
        return Preferences(read_pairs(path, blocks), list(blocks) if blocks else ["all"])
    chosen = list(blocks or [EAR])
    pairs, num_not_blind = read_votes(path, chosen, clips)
    return Preferences(pairs, chosen, num_not_blind)


def is_votes(path: Path) -> bool:
    """Whether the first line of a .jsonl names clips instead of features."""
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        line = next((line for line in file if line.strip()), "")
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return isinstance(row, dict) and "audio_a" in row and not any(key.startswith("features_") for key in row)


def read_votes(path: Path, blocks: Sequence[str], clips: Path | None = None) -> tuple[Pairs, int]:
    """The votes with the features of their clips, each clip heard once; those after a reveal are left out.

    Returns:
        the pairs, and the number of votes left out.
    Raises:
        ValueError: no vote was given blind; or a line lacks a field, a clip is missing, is another than was listened
            to, or cannot be heard.
    """
    hear = make_ear(blocks)
    table = read_table(path)
    columns = {name: texts(table, name) for name in (*COLUMNS, *TEXTS)}
    for name in COLUMNS:
        if "" in columns[name] and name != "prompt":
            raise ValueError(f"{path}: {name} of row {columns[name].index('')} is empty; expected a report's votes")
    target = targets(path, columns["winner"])
    blind = [row for row, revealed in enumerate(texts(table, "revealed")) if revealed != "True"]
    if not blind:
        raise ValueError(f"{path}: all {len(table)} votes were given after what was what had been shown; none is blind")
    runs = sorted({*columns["run_a"], *columns["run_b"]})
    if clips is not None and len({Path(run).name for run in runs}) < len(runs) > 1:
        raise ValueError(
            f"{path}: the votes are on {' and '.join(runs)}, which --clips {clips} cannot tell apart by name; put them "
            "where they lay and leave it out, or give them other names, in run_a and run_b of the votes too"
        )
    is_one_run = len(runs) == 1
    found: dict[tuple[Path, str], int] = {}
    heard: list[Clip] = []
    rows: tuple[list[int], list[int]] = ([], [])
    for number in blind:
        prompt = columns["prompt"][number]
        for side, own in zip("ab", rows, strict=True):
            run, audio, digest = (columns[f"{name}_{side}"][number] for name in ("run", "audio", "sha256"))
            file = _place(Path(run), clips, is_one_run) / audio
            if (file, prompt) not in found:
                found[file, prompt] = len(heard)
                heard.append(_read(path, number, file, digest, prompt))
            own.append(found[file, prompt])
    features = torch.cat([hear(heard[first : first + BATCH]) for first in range(0, len(heard), BATCH)])
    told = {name: [columns[name][number] for number in blind] for name in TEXTS}
    return Pairs(features[rows[0]], features[rows[1]], target[blind], **told), len(table) - len(blind)


def _place(run: Path, clips: Path | None, is_one_run: bool) -> Path:
    """Where a run's files lie: as voted on, or where they are said to be now."""
    if clips is None:
        return run
    return clips if is_one_run else clips / run.name


def _read(votes: Path, row: int, file: Path, digest: str, prompt: str) -> Clip:
    if not file.is_file():
        raise ValueError(f"{votes}: row {row} voted on {file}, which is missing; name the run's folder with --clips")
    if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
        raise ValueError(f"{votes}: row {row} voted on another {file} than lies there; restore it or leave the row out")
    audio, rate = read_audio(file, max_seconds=MAX_SECONDS)
    clip = Clip(audio, rate, prompt)
    if reason := refuse(clip):
        raise ValueError(f"{votes}: row {row} voted on {file}, which no reward can hear: {reason}; leave the row out")
    return clip


def make_ear(blocks: Sequence[str]) -> Callable[[Sequence[Clip]], Tensor]:
    """Clips to features [B, D]: the bundled ear, or TuneJury's blocks as the reward hears them.

    Raises:
        ValueError: another block, or weights that are not on this machine.
    """
    if list(blocks) == [EAR]:
        from rlloop.rewards.mini import ASSETS, Ear

        return Ear(ASSETS / "musicnn_mtt.safetensors").hear
    if unknown := [block for block in blocks if block not in BLOCKS]:
        raise ValueError(f"features {', '.join(unknown)}: expected {EAR} alone, or some of {', '.join(BLOCKS)}")
    from rlloop.rewards.clap import shared_embedder
    from rlloop.rewards.mert import MertEmbedder
    from rlloop.rewards.tunejury import BLOCKS as WIDTHS
    from rlloop.rewards.tunejury import CLAP_BLOCKS, TuneJury, TuneJuryHead
    from rlloop.weights import resolve

    options = {"crop": "random", "seed": 0, "quantise": True, "batch_size": BATCH}
    clap = shared_embedder("clap_scoring", "roberta_base", "auto", **options) if CLAP_BLOCKS & set(blocks) else None
    mert = MertEmbedder.from_folder(resolve("mert_v1_330m"), "auto", BATCH) if "mert" in blocks else None
    # The head is not asked: this is the reward's own way from clips to features.
    return TuneJury(TuneJuryHead((sum(WIDTHS[b] for b in blocks), 1)), clap, mert, features=blocks).embed
