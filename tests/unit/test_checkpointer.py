"""Checkpoints of the trainer on a disk that is full, and which of them stay: without Ray, DeepSpeed or processes."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from actors.checkpointer import Checkpointer
from actors.ranks import Ranks
from actors.session import Session
from actors.startup import store_config
from actors.trainer import Stopped, Worker
from actors.turns import Turn
from rlloop.config import load
from rlloop.loop import checkpoints
from rlloop.recipes.kept_clips import keep_versions
from tests.fakes import tiny_generator
from tests.ray.runs import FAKE
from tests.unit.test_checkpoints import damage_flip

ALONE = Ranks(0, 1)
NO_ROOM = "[Errno 28] No space left on device"


class Recorded(Session):
    """A session without actors; `calls` holds what was asked of them."""

    @cached_property
    def calls(self) -> list[tuple]:
        return []

    def call(self, *args, **kwargs):
        self.calls.append(args)


@dataclass(frozen=True)
class Thread(Ranks):
    """A rank that is a thread of this process; all ranks have one table, and meet around it."""

    table: list
    meeting: threading.Barrier

    def gather(self, value):
        self.table[self.rank] = value
        self.meeting.wait()
        values = list(self.table)
        self.meeting.wait()  # nobody writes the next value before all have read this one
        return values

    def barrier(self):
        self.gather(None)


class FullDisk:
    """Averages that find no room; or, `marks`, leave none for the marker."""

    def __init__(self, marks: bool) -> None:
        self.marks = marks

    def save(self, folder: Path) -> None:
        if not self.marks:
            raise OSError(errno.ENOSPC, "No space left on device")
        (folder / f"{checkpoints.MARKER}.tmp").symlink_to("/dev/full")


class SmallDisk(Checkpointer):
    """This rank's part is the last that fits, and one byte too long."""

    def _write(self, path, points, averages):
        super()._write(path, points, averages)
        raise OSError(errno.ENOSPC, "No space left on device")


def checkpointer(run_dir, ranks=ALONE, kind=Checkpointer, overrides=()):
    """With an optimizer of three numbers; the plan has nine versions, and the last two are kept."""
    shape = ("stages.0.generations=9", "trainer.keep_checkpoints=2", "loop.max_staleness=0")
    store_config(run_dir, load(FAKE, [*shape, *overrides]))
    made = kind(Recorded(str(run_dir), 1), ranks, tiny_generator())
    optimizer = SimpleNamespace(single_partition_of_fp32_groups=[torch.ones(3)], optimizer=SimpleNamespace(state={}))
    made.engine = SimpleNamespace(module=made.generator.network, optimizer=optimizer)
    return made


def worker(made, averages):
    """One that has only its checkpoints left to make."""
    found = Worker.__new__(Worker)
    found.session, found.config, found.plan, found.ranks = made.session, made.config, made.plan, made.ranks
    found.checkpointer, found.averages = made, averages
    found.reporter = SimpleNamespace(points=[], send=lambda state: None)
    return found


def left(run_dir):
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


@pytest.mark.parametrize("marks, verb", [(False, "write"), (True, "mark")])
def test_a_full_disk_is_named_with_its_path_and_the_checkpoint_before_stays(tmp_path, marks, verb):
    made = checkpointer(tmp_path)
    assert made.save(1, 0, [], None) == ""
    path = tmp_path / "checkpoints" / "v000002-s000000"
    said = f"{path}: cannot {verb} the checkpoint ({NO_ROOM}); free space there and repeat the command"
    assert made.save(2, 0, [], FullDisk(marks)) == said
    assert checkpoints.newest(tmp_path, made.digest, refused=lambda _: None)[1].version == 1
    assert made.save(2, 0, [], None) == ""  # there is room again, and what was half written is no hindrance
    assert set(checkpoints.newest(tmp_path, made.digest)[1].files) == {
        "weights.safetensors", "rank0.safetensors", "points.json",
    }  # fmt: skip


@pytest.mark.parametrize("verb, kind, averages", [("write", SmallDisk, None), ("mark", Checkpointer, FullDisk(True))])
def test_a_full_disk_of_one_rank_stops_the_training_on_every_rank(tmp_path, verb, kind, averages):
    """The second rank's own part does not fit, or the first one's marker."""
    made, table = checkpointer(tmp_path), ([None, None], threading.Barrier(2, timeout=20))
    assert made.save(1, 0, [], None) == ""
    first, second = checkpointer(tmp_path, Thread(0, 2, *table)), checkpointer(tmp_path, Thread(1, 2, *table), kind)

    def between_steps(rank):
        with pytest.raises(Stopped) as stopped:
            worker(rank, averages)._between_steps(1, 3, Turn("", saves=True))
        return str(stopped.value)

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(between_steps, [first, second]))
    path = tmp_path / "checkpoints" / "v000001-s000003"
    said = f"{path}: cannot {verb} the checkpoint ({NO_ROOM}); free space there and repeat the command"
    assert answers == [said, said]
    assert (first.session.calls, second.session.calls) == ([("trainer", "buffer", "stop", said)], [])
    assert checkpoints.newest(tmp_path, made.digest, refused=lambda _: None)[1].step == 0


def test_the_best_version_is_kept_beside_the_newest_for_as_long_as_it_is_the_best(tmp_path):
    made = checkpointer(tmp_path)
    for version in range(4):
        assert made.save(version, 0, [], None) == ""
    keep_versions(tmp_path, {3})
    for version in (4, 5, 6):
        assert made.save(version, 0, [], None) == "" and made.save(version, 5, [], None) == ""
    assert left(tmp_path) == ["v000000-s000000", "v000003-s000000", "v000006-s000000", "v000006-s000005"]
    keep_versions(tmp_path, {6})
    for version in (7, 8):
        assert made.save(version, 0, [], None) == ""
    assert left(tmp_path) == ["v000000-s000000", "v000006-s000000", "v000007-s000000", "v000008-s000000"]


def test_a_damaged_newest_version_costs_its_own_training_alone(tmp_path):
    """Also where nothing may lag: checkpoints inside a generation keep the version that they go on from."""
    made = checkpointer(tmp_path, overrides=["trainer.keep_checkpoints=3"])
    for version in range(6):
        for step in (0, 4, 8, 12):
            assert made.save(version, step, [], None) == ""
    assert made.save(6, 0, [], None) == ""
    parts = ["v000000-s000000", "v000005-s000000", "v000005-s000008", "v000005-s000012", "v000006-s000000"]
    assert left(tmp_path) == parts
    damage_flip(checkpoints.folder(tmp_path, 6))
    marker = checkpoints.newest(tmp_path, made.digest, refused=lambda _: None)[1]
    assert (marker.version, marker.step) == (5, 12)


def test_what_an_alarm_may_roll_back_to_is_kept(tmp_path):
    made = checkpointer(tmp_path, overrides=["evaluation.alarm.action=rollback"])
    (tmp_path / "evaluations").mkdir()
    for version in range(6):
        assert made.save(version, 0, [], None) == ""
        if version in (1, 3):
            (tmp_path / "evaluations" / f"version{version:06d}.json").touch()
    assert left(tmp_path) == [f"v{version:06d}-s000000" for version in (0, 1, 3, 4, 5)]
