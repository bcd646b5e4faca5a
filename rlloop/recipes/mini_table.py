"""Labelled clips as arrays: the features of every view of every clip, kept on disk clip by clip."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from rlloop.audio.io import read_audio
from rlloop.audio.loudness import fix_loudness
from rlloop.data.prompts import shipped_prompts
from rlloop.models.text import normalise_prompt
from rlloop.recipes.mini_views import SAMPLE_RATE_HZ, VIEWS
from rlloop.rewards.mini import ASSETS
from rlloop.rewards.musicnn import MusiCNN

EARS = ("mtt", "msd")


@dataclass(frozen=True)
class LabelledClip:
    """A clip on disk with its real scores. `prompt_id` counts the shipped prompts."""

    path: Path
    prompt_id: int
    system: str
    prompt: str
    tunejury: float
    clap: float


@dataclass(frozen=True, eq=False)
class Table:
    """All clips as arrays of N rows: features [N, 200] by ear and view, labels, and who is held out."""

    clips: list[LabelledClip]
    features: dict[str, dict[str, np.ndarray]]
    labels: np.ndarray
    clap: np.ndarray
    prompts: np.ndarray
    systems: np.ndarray
    is_heldout: np.ndarray


def read_clips(clips_dir: Path) -> list[LabelledClip]:
    """The lines of clips.jsonl whose prompt is one of the shipped ones, which fixes who is held out."""
    numbers = {normalise_prompt(prompt): number for number, prompt in enumerate(shipped_prompts())}
    rows = [json.loads(line) for line in (clips_dir / "clips.jsonl").read_text(encoding="utf-8").splitlines()]
    clips = [
        LabelledClip(clips_dir / r["path"], numbers[key], r["system"], r["prompt"], r["tunejury"], r["clap"])
        for r in rows
        if (key := normalise_prompt(r["prompt"])) in numbers
    ]
    if not clips:
        raise ValueError(f"{clips_dir}/clips.jsonl: {len(rows)} rows, none with a shipped prompt; expected their clips")
    return clips


def load_table(clips: list[LabelledClip], work_dir: Path) -> Table:
    """Features of all clips, computed where `work_dir` does not have them."""
    ears = {name: MusiCNN.from_file(ASSETS / f"musicnn_{name}.safetensors") for name in EARS}
    work_dir.mkdir(parents=True, exist_ok=True)
    rows = [clip_features(clip, ears, work_dir) for clip in track(clips, "features of the clips")]
    prompts = np.array([clip.prompt_id for clip in clips])
    return Table(
        clips=clips,
        features={ear: {view: np.stack([row[f"{ear}_{view}"] for row in rows]) for view in VIEWS} for ear in EARS},
        labels=np.array([clip.tunejury for clip in clips]),
        clap=np.array([clip.clap for clip in clips]),
        prompts=prompts,
        systems=np.array([clip.system for clip in clips]),
        is_heldout=prompts >= len(shipped_prompts("train")),
    )


def clip_features(clip: LabelledClip, ears: dict[str, MusiCNN], work_dir: Path) -> dict[str, np.ndarray]:
    """ "<ear>_<view>" -> [200] of one clip; random choices depend on prompt, system and view only."""
    cache = work_dir / f"{clip.system}_{clip.prompt_id:02d}.npz"
    names = {f"{ear}_{view}" for ear in ears for view in VIEWS}
    if cache.exists():
        with np.load(cache, allow_pickle=False) as file:
            if set(file.files) == names:
                return {name: file[name] for name in names}
    audio, _ = read_audio(clip.path, SAMPLE_RATE_HZ)
    out = {}
    for number, (view, make) in enumerate(VIEWS.items()):
        rng = np.random.default_rng([clip.prompt_id, sum(clip.system.encode()), number])
        samples = torch.from_numpy(fix_loudness(make(audio, rng), SAMPLE_RATE_HZ))[None]
        out.update({f"{ear}_{view}": model.embed(samples)[0].numpy() for ear, model in ears.items()})
    partial = cache.with_suffix(".partial.npz")
    np.savez(partial, **out)
    partial.replace(cache)
    return out
