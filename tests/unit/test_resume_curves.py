"""Curves over a resume: whatever moment a process dies at, each tag ends with the points of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rlloop.config import build
from rlloop.loop.snapshot import MomentClip, Snapshot
from rlloop.views.tensorboard import GAUGE_EVERY_S, RunWriter
from tests.unit.snapshots import BEGAN, cohort, evaluation, snapshot, train_point
from tests.unit.test_tensorboard import read_points

CONFIG = build({})
BY_TIME = ("pools/", "buffer/", "speed/", "storage/", "trainer/")  # gauges: their step is a second
UPDATES = 4  # a snapshot


def story(run_dir: Path) -> list[Snapshot]:
    """A run of three versions in twelve snapshots, ten seconds apart."""
    for name in ("v.flac", "best.flac"):
        soundfile.write(run_dir / name, np.zeros(160), 16_000)
    clips = {"best": MomentClip("best.flac", "p", 1, 0, {"x": 1.0})}
    told = []
    for n in range(12):
        told.append(
            snapshot(
                str(run_dir),
                time=BEGAN + 10 * n,
                cohorts=tuple(cohort(k, 0.1 * k) for k in range(min(3, n // 4 + (n % 4 == 3)))),
                train=tuple(train_point(UPDATES * n + step) for step in range(1, UPDATES + 1)),
                evaluations=tuple(
                    evaluation(k, [[0.1, 0.2], [0.3, 0.4 * k]], audio=("v.flac",)) for k in range(min(3, n // 3))
                ),
                weight_sync_seconds={k: 0.5 for k in range(1, 1 + min(2, n // 5))},
                clips=clips,
            )
        )
    return told


def resumed(told: list[Snapshot], place: int, back: int) -> list[Snapshot]:
    """What the next process is shown after one that died at `place`: updates are repeated and sent again."""
    first = told[max(0, place - back)].train[0].step
    points = [point for one in told[: place + 1] for point in one.train if point.step >= first]
    return [replace(told[place], train=tuple(points)), *told[place + 1 :]]


def die(writer: RunWriter, marker: str | None, rng: random.Random) -> None:
    """As if the process had died before the commit: some of what was written is there, the marker is the old one."""
    writer.close()
    if marker is None:
        writer.events.marker.unlink()
    else:
        writer.events.marker.write_text(marker)
    sizes = json.loads(marker)["sizes"] if marker else {}
    for file in writer.events.folder.glob("events.*"):
        uncommitted = file.stat().st_size - sizes.get(file.name, 0)
        os.truncate(file, file.stat().st_size - rng.randint(0, uncommitted))


def counted(run_dir: Path) -> tuple[Counter, dict[str, list[int]]]:
    """How often each (tag, step) that counts something stands there, and the seconds of each gauge."""
    points, gauges = read_points(run_dir), {}
    for tag, step in sorted(points):
        if tag.startswith(BY_TIME):
            gauges.setdefault(tag, []).append(step)
    return Counter({key: n for key, n in points.items() if not key[0].startswith(BY_TIME)}), gauges


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("undisturbed")
    writer = RunWriter(run_dir, CONFIG)
    for shown in story(run_dir):
        writer.write(shown)
    writer.close()
    return counted(run_dir)


def test_the_story_has_every_kind_of_point(undisturbed):
    points, gauges = undisturbed
    assert max(points.values()) == 1 and gauges
    tags = {tag for tag, _ in points}
    kinds = {"train/loss", "reward/cohort_mean", "reward/heldout", "sync/seconds", "audio/heldout_0", "audio/best",
             "decomposition/tunejury_mini", "configuration", "audio/captions"}  # fmt: skip
    assert kinds <= tags, kinds - tags
    assert sorted(step for tag, step in points if tag == "train/loss") == list(range(1, 12 * UPDATES + 1))


@pytest.mark.parametrize("seed", range(6))
def test_deaths_at_any_moment_double_and_lose_nothing(undisturbed, seed, tmp_path):
    rng, told = random.Random(seed), story(tmp_path)
    left, place = told, 0
    while left:
        writer, marker = RunWriter(tmp_path, CONFIG), None
        if writer.events.marker.exists():
            marker = writer.events.marker.read_text()
        lives = rng.randint(1, 5)
        for shown in left[:lives]:
            marker = writer.events.marker.read_text() if writer.events.marker.exists() else None
            writer.write(shown)
        place += min(lives, len(left))
        if place >= len(told):
            writer.close()
            break
        if rng.random() < 0.5:  # within the last write, so that is shown again
            die(writer, marker, rng)
            place -= 1
        else:
            writer.close()
        left = resumed(told, place, back=rng.randint(0, 2))
    points, gauges = counted(tmp_path)
    assert points == undisturbed[0]
    for tag, seconds in gauges.items():
        assert seconds == sorted(set(seconds)), tag
        assert np.diff(seconds).min(initial=GAUGE_EVERY_S) >= GAUGE_EVERY_S, tag
        assert np.diff(seconds).max(initial=0) <= 2 * 10, tag  # a snapshot every ten seconds
