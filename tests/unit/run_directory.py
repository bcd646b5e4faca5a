"""A small run directory: two generations of four tickets of two clips, versions 0 to 2 evaluated, audio kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from rlloop.config import Config, build
from rlloop.loop import records as r
from rlloop.loop.journal import Journal
from rlloop.loop.snapshot import EvaluationResult
from rlloop.recipes.evaluations import evaluation_seeds, write_result
from tests.unit.snapshots import ALIGNMENT, JUDGE, REWARD

NASTY = "<script>document.title = 'taken'</script> & a \"quoted\" choir"
PROMPTS = [NASTY, "fast drums", "slow piano", "rain on tin"]
RATE_HZ, SECONDS = 16_000, 1.0


def config(**more: Any) -> Config:
    selection = {"top_fraction": 0.25, "min_examples": 1}
    stage = {"name": "expert_iteration", "generations": 2, "tickets": 4, "selection": selection}
    return build({"stages": [stage], "sampler": {"clips_per_prompt": 2}, **more})


def tone(path: Path, hertz: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(RATE_HZ * SECONDS)) / RATE_HZ
    noise = np.random.default_rng(int(hertz)).normal(size=len(time)) * 0.02
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * time) + noise, RATE_HZ, subtype="PCM_16")


def result(version: int, rise: float = 0.1, audio: tuple[str, ...] = (), **more: Any) -> EvaluationResult:
    """Prompt p has the reward p/10 + rise * version, the judge falls by as much."""
    up = [[p / 10 + rise * version * (1 + p / 10), p / 10 + rise * version] for p in range(len(PROMPTS))]
    down = [[-value for value in row] for row in up]
    scores = {REWARD: up, ALIGNMENT: up, JUDGE: down}
    seeds = evaluation_seeds(len(PROMPTS), 2)
    return EvaluationResult(version, "expert_iteration", PROMPTS, seeds, scores, audio, 2.0, 100.0 + version, **more)


def make_run(folder: Path, versions: int = 3, *, generations: int = 2, **more: Any) -> Path:
    """A run that has evaluated so many versions and closed so many cohorts."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config(**more).model_dump_json())
    (folder / "prompts.json").write_text(json.dumps({"train": PROMPTS, "heldout": PROMPTS}))
    for version in range(versions):
        kept = [f"audio/version{version:06d}-prompt{p:03d}.flac" for p in range(len(PROMPTS))]
        for number, path in enumerate(kept):
            tone(folder / path, 200 + 100 * version + 40 * number)
        write_result(folder, result(version, 0.1 + more.get("seed", 0) / 50, tuple(kept)))
    journal = Journal(folder / "journal" / "journal.log")
    journal.append(r.EpochBegan(1))
    journal.append(r.SegmentBegan(1))
    for k in range(generations):
        cohort(journal, k)
        for name in ("best", "median", "worst"):
            tone(folder / f"audio/generation{k:06d}-{name}.flac", 900)
    return folder


def cohort(journal: Journal, k: int) -> None:
    """Four tickets; the last clip of each cohort has no reward, with a reason that is no markup."""
    for ticket in range(4 * k, 4 * k + 4):
        scores = [{REWARD: ticket / 10}, {REWARD: None if ticket % 4 == 3 else -ticket / 10}]
        why = {REWARD: f"{REWARD}: <b>not finite</b>"}
        clips = [r.RolloutRecord(n, n, s, why if s[REWARD] is None else {}) for n, s in enumerate(scores)]
        journal.append(r.Leased(ticket, k, 1, ticket))
        journal.append(r.Buffered(ticket, k, tuple(clips), 100, {"sampler": 1.0, "scorer": 0.5}))
    journal.append(r.Selected(k, ((4 * k + 3, 0, ""),)))
    journal.append(r.Published(k + 1))
