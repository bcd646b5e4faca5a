"""Clips and evaluated versions that stay: the first, ends of stages, the best and the newest."""

import os

from rlloop.recipes.kept_clips import best_version, keep_versions, remove_old_clips, versions_kept
from tests.unit.snapshots import REWARD, evaluation


def test_the_best_version_is_by_the_mean_of_prompts_and_the_earlier_of_equals():
    results = [evaluation(0, [[0.1], [0.3]]), evaluation(2, [[0.4], [0.6]]), evaluation(1, [[0.5], [0.5]])]
    assert best_version(sorted(results, key=lambda r: r.version), REWARD) == 1
    assert best_version([evaluation(3, [[None], [None]])], REWARD) is None and best_version([], REWARD) is None


def test_versions_to_keep_come_back_and_a_torn_file_keeps_none(tmp_path):
    assert versions_kept(tmp_path) == set()
    keep_versions(tmp_path, {4, None, 2})
    assert versions_kept(tmp_path) == {2, 4}
    (tmp_path / "evaluations" / "kept.json").write_text("[2, ")
    assert versions_kept(tmp_path) == set()


def test_the_oldest_clips_go_but_never_those_that_are_listened_to(tmp_path):
    (tmp_path / "audio").mkdir()
    names = [f"version{v:06d}-prompt{p:03d}.flac" for v in (0, 1, 2, 3) for p in (0, 1)]
    names += [f"generation{k:06d}-best.flac" for k in (0, 1)]
    for age, name in enumerate(names):
        path = tmp_path / "audio" / name
        path.write_bytes(bytes(100))
        os.utime(path, (1000 + age, 1000 + age))
    (tmp_path / "audio" / "moment.json").write_text("{}")
    left = remove_old_clips(tmp_path, 500, versions={0, 3}, names={"audio/generation000001-best.flac"})
    kept = sorted(path.name for path in (tmp_path / "audio").glob("*.flac"))
    assert left == 500 and kept == sorted([*names[:2], *names[6:8], names[9]])
    assert remove_old_clips(tmp_path, 50, {0, 3}, {"audio/generation000001-best.flac"}) == 500  # those always stay


def test_a_run_that_keeps_no_clips_has_none_to_remove(tmp_path):
    assert remove_old_clips(tmp_path, 500, versions=set(), names=set()) == 0
