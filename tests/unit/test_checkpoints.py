"""Checkpoints: valid only with a marker that agrees with every file; the one before is used otherwise."""

import json
import os

import numpy as np
import pytest

from rlloop.loop import checkpoints
from rlloop.loop.points import POINTS, write_points
from tests.unit.snapshots import train_point


def write(run_dir, version, step=0, digest="d"):
    path = checkpoints.folder(run_dir, version, step)
    arrays = {"w": np.full(3, float(version))}
    checkpoints.write_arrays(path / checkpoints.WEIGHTS, arrays)
    checkpoints.write_arrays(path / "rank0.safetensors", {"m": np.zeros(2)})
    checkpoints.write_marker(
        path, version=version, step=step, stage=0, digest=digest, world_size=1,
        weights_checksum=checkpoints.arrays_checksum(arrays),
    )  # fmt: skip
    return path


def test_newest_is_by_version_then_step_and_comes_back_equal(tmp_path):
    for version, step in ((0, 0), (0, 50), (1, 0), (0, 100)):
        write(tmp_path, version, step)
    path, marker = checkpoints.newest(tmp_path, "d")
    assert (marker.version, marker.step) == (1, 0)
    weights = checkpoints.read_weights(path)
    assert checkpoints.arrays_checksum(weights) == marker.weights_checksum
    np.testing.assert_array_equal(weights["w"], np.ones(3))


def damage_truncate(path):
    data = (path / "rank0.safetensors").read_bytes()
    (path / "rank0.safetensors").write_bytes(data[:-1])


def damage_flip(path):
    data = bytearray((path / checkpoints.WEIGHTS).read_bytes())
    data[-1] ^= 1
    (path / checkpoints.WEIGHTS).write_bytes(bytes(data))


def damage_marker(path):
    text = (path / checkpoints.MARKER).read_text()
    (path / checkpoints.MARKER).write_text(text[: len(text) // 2])


def damage_missing(path):
    (path / "rank0.safetensors").unlink()


def damage_unmarked(path):
    (path / checkpoints.MARKER).unlink()


def damage_foreign(path):
    (path / checkpoints.MARKER).write_text(json.dumps({"some": "thing"}))


@pytest.mark.parametrize(
    "damage", [damage_truncate, damage_flip, damage_marker, damage_missing, damage_unmarked, damage_foreign]
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_used(tmp_path, damage, caplog):
    write(tmp_path, 0)
    damage(write(tmp_path, 1))
    _, marker = checkpoints.newest(tmp_path, "d")
    assert marker.version == 0
    assert "using the one before" in caplog.text and "v000001" in caplog.text


def test_another_configurations_checkpoint_is_refused(tmp_path, caplog):
    write(tmp_path, 0)
    write(tmp_path, 1, digest="other")
    assert checkpoints.newest(tmp_path, "d")[1].version == 0
    assert "another configuration" in caplog.text


def test_pruning_keeps_the_newest_and_the_named_versions(tmp_path):
    for version in range(6):
        write(tmp_path, version, 5)
        write(tmp_path, version)
    checkpoints.prune(tmp_path, keep=2, keep_versions={0, 3})
    left = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert left == ["v000000-s000000", "v000003-s000000", "v000005-s000000", "v000005-s000005"]


def test_a_trainer_that_fell_back_keeps_what_it_makes_although_damaged_later_ones_are_there(tmp_path):
    damage_flip(write(tmp_path, 5))
    for step in (10, 20):
        write(tmp_path, 5, step)
    for step in (0, 10, 20):
        checkpoints.prune(tmp_path, keep=2, keep_versions={4}, marked=write(tmp_path, 4, step))
    left = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert left[:3] == ["v000004-s000000", "v000004-s000010", "v000004-s000020"] and len(left) == 6
    assert checkpoints.newest(tmp_path, "d")[1].step == 20


def test_checksum_sees_values_names_and_shapes():
    a = {"x": np.arange(4.0)}
    checksum = checkpoints.arrays_checksum
    assert checksum(a) == checksum({"x": np.arange(4.0)})
    assert len({checksum(a), checksum({"y": np.arange(4.0)}), checksum({"x": np.arange(4.0).reshape(2, 2)}),
                checksum({"x": np.arange(4.0) + 1e-9})}) == 4  # fmt: skip


def test_steps_that_go_on_from_a_damaged_version_are_refused_with_it(tmp_path, caplog):
    write(tmp_path, 0)
    damage_flip(write(tmp_path, 1))
    write(tmp_path, 1, step=50)
    _, marker = checkpoints.newest(tmp_path, "d")
    assert (marker.version, marker.step) == (0, 0)


def test_mapped_weights_are_those_that_are_read_and_refuse_a_cut_file(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(7, np.int64), "c": np.array([True, False]),
        "d": np.zeros((0, 4), np.float16),
    }  # fmt: skip
    checkpoints.write_arrays(tmp_path / checkpoints.WEIGHTS, arrays)
    mapped, read = checkpoints.map_weights(tmp_path), checkpoints.read_weights(tmp_path)
    assert checkpoints.arrays_checksum(mapped) == checkpoints.arrays_checksum(read)
    assert not mapped["a"].flags.writeable and type(mapped["a"]) is np.ndarray
    data = (tmp_path / checkpoints.WEIGHTS).read_bytes()
    for cut in (0, 5, 40, len(data) - 1):
        (tmp_path / checkpoints.WEIGHTS).write_bytes(data[:cut])
        with pytest.raises(ValueError, match="is no readable safetensors file"):
            checkpoints.map_weights(tmp_path)


def test_the_checksum_of_arrays_sees_a_bit_a_moved_block_a_name_and_a_shape():
    good = {"w": np.arange(100_000, dtype=np.float32), "b": np.ones(3, np.float32)}
    checksum = checkpoints.arrays_checksum(good)
    bit, moved = good["w"].copy(), good["w"].copy()
    bit.view(np.uint32)[77_777] ^= 1
    moved[:8192], moved[8192:16384] = good["w"][8192:16384], good["w"][:8192]
    tail = good["w"].copy()
    tail[-1] += 1
    others = [{"w": wrong, "b": good["b"]} for wrong in (bit, moved, tail, good["w"].reshape(1000, 100))]
    others += [{"v": good["w"], "b": good["b"]}, {"w": good["w"], "b": np.ones(3)}, {"w": good["w"]}]
    assert checksum not in [checkpoints.arrays_checksum(other) for other in others]
    assert checksum == checkpoints.arrays_checksum({name: good[name].copy() for name in ("b", "w")})


def test_pruning_removes_folders_that_never_got_their_marker_but_not_one_that_is_being_written(tmp_path):
    for version in range(3):
        write(tmp_path, version)
    for version, step in ((1, 7), (2, 7)):
        damage_unmarked(write(tmp_path, version, step))
    checkpoints.prune(tmp_path, keep=9, keep_versions=set())
    left = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert left == ["v000000-s000000", "v000001-s000000", "v000002-s000000", "v000002-s000007"]


def test_a_marker_that_was_never_finished_does_not_stand_in_the_way(tmp_path):
    """A process that is killed while it marks leaves the scratch file; the next one marks the same folder."""
    path = write(tmp_path, 0)
    (path / f"{checkpoints.MARKER}.tmp").write_text((path / checkpoints.MARKER).read_text()[:20])
    (path / checkpoints.MARKER).unlink()
    assert checkpoints.newest(tmp_path, "d") is None
    write(tmp_path, 0)
    _, marker = checkpoints.newest(tmp_path, "d")
    assert set(marker.files) == {checkpoints.WEIGHTS, "rank0.safetensors"}
    assert sorted(file.name for file in path.iterdir()) == sorted([*marker.files, checkpoints.MARKER])


def write_with_points(run_dir, version, steps):
    checkpoints.folder(run_dir, version).mkdir(parents=True)
    write_points(checkpoints.folder(run_dir, version), [train_point(step) for step in steps])
    return write(run_dir, version)


def test_points_come_from_the_newest_checkpoint_whose_marker_vouches_for_them(tmp_path, caplog):
    write(tmp_path, 0)
    assert checkpoints.stored_points(tmp_path) == []
    write_with_points(tmp_path, 1, [1, 2])
    path = write_with_points(tmp_path, 2, [1, 2, 3])
    assert [point.step for point in checkpoints.stored_points(tmp_path)] == [1, 2, 3]
    whole = (path / POINTS).read_bytes()
    for damaged in (b"{", whole.replace(b"3", b"4"), b""):
        (path / POINTS).write_bytes(damaged)
        assert [point.step for point in checkpoints.stored_points(tmp_path)] == [1, 2]
    damage_marker(path)
    assert [point.step for point in checkpoints.stored_points(tmp_path)] == [1, 2]
    assert "using those of the checkpoint before" in caplog.text


def test_a_mark_below_a_later_one_is_seen(tmp_path):
    assert checkpoints.marked_at(tmp_path) == 0
    write(tmp_path, 2)
    before = checkpoints.marked_at(tmp_path)
    write(tmp_path, 1, step=4)
    assert checkpoints.marked_at(tmp_path) > before


def test_all_that_a_marker_vouches_for_is_on_disk_before_it_and_it_before_the_answer(tmp_path, monkeypatch):
    """What is published after that must survive a loss of power: files, their names, the marker, its name."""
    done, fsync, replace = [], os.fsync, os.replace

    def synced(descriptor):
        done.append(os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), tmp_path))
        fsync(descriptor)

    def renamed(source, target):
        done.append(f"to {os.path.relpath(target, tmp_path)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    where = os.path.relpath(write_with_points(tmp_path, 1, [1]), tmp_path)
    files = [f"{where}/{POINTS}.tmp", f"{where}/{checkpoints.WEIGHTS}", f"{where}/rank0.safetensors"]
    marked = done.index(f"to {where}/{checkpoints.MARKER}")
    assert done.index(f"{where}/{POINTS}.tmp") < done.index(f"to {where}/{POINTS}")
    last_file = max(done.index(name) for name in files)
    assert {where, "checkpoints", "."} <= set(done[last_file + 1 : marked])
    assert done[marked - 1] == f"{where}/{checkpoints.MARKER}.tmp" and done[marked + 1] == where
