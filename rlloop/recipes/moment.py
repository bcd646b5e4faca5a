"""The clips of the moment: best, median and worst rollout of the newest cohort, decoded to be listened to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from rlloop.data.rollouts import read_rows, rollout_path
from rlloop.loop.files import is_inside, read_as
from rlloop.loop.snapshot import MomentClip
from rlloop.recipes.evaluations import write_clip

PLACES = ("best", "median", "worst")


def decode_extremes(
    run_dir: Path,
    k: int,
    keys: Sequence[tuple[int, int]],
    decode: Callable[[np.ndarray], np.ndarray],
    sample_rate_hz: int,
) -> dict[str, MomentClip]:
    """Decodes rollouts of cohort k into files; one whose rollouts are no longer on disk is left out.

    Args:
        keys: (ticket, clip) of PLACES.
        decode: [1, L, D] latents to [1, T] audio.
    """
    clips = {}
    for place, (ticket, number) in zip(PLACES, keys, strict=True):
        path = rollout_path(run_dir, ticket)
        try:
            row = read_rows(path, {number: ""}, "")[0]
        except FileNotFoundError:  # nobody trains on it any more
            continue
        audio = decode(np.asarray(row.latents)[None])[0]
        written = write_clip(run_dir, f"generation{k:06d}-{place}", audio, sample_rate_hz)
        clips[place] = MomentClip(written, row.prompt, row.seed, row.policy_version, row.scores)
    return clips


def write_moment(run_dir: Path, clips: Mapping[str, MomentClip]) -> None:
    """Keeps which clips these are; complete or as before."""
    path = run_dir / "audio" / "moment.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tmp").write_text(json.dumps({place: asdict(clip) for place, clip in clips.items()}))
    os.replace(path.with_suffix(".tmp"), path)


def read_moment(run_dir: Path) -> dict[str, MomentClip]:
    """The clips as they were written; none where the file is missing or of another kind: the evaluator writes it
    anew."""
    try:
        found = read_as(dict[str, MomentClip], run_dir / "audio" / "moment.json")
    except ValueError:
        return {}
    return {place: clip for place, clip in found.items() if is_inside(clip.path)}
