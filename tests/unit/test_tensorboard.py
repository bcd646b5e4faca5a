"""Event files read back: every point once, also after a kill and a resume; only documented tags."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from rlloop.config import build, load
from rlloop.loop.snapshot import MomentClip, PoolStats, Storage
from rlloop.views.tags import AUDIO, LAYOUT, SCALARS, TEXT
from rlloop.views.tensorboard import RunWriter
from rlloop.views.tensorboard_layout import hyperparameters
from tests.unit.snapshots import ALIGNMENT, BEGAN, JUDGE, REWARD, cohort, evaluation, snapshot, train_point

CONFIG = build({})


def read_points(run_dir: Path) -> Counter:
    """How often each (tag, step) stands in the event files."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    points: Counter = Counter()
    for file in sorted((run_dir / "tensorboard").glob("events.*")):
        for event in EventFileLoader(str(file)).Load():
            points.update((value.tag, event.step) for value in event.summary.value)
    return points


def read_values(run_dir: Path, tag: str) -> dict[int, float]:
    """Step -> value of a scalar."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    found = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    if tag in found.Tags()["scalars"]:
        return {event.step: event.value for event in found.Scalars(tag)}
    return {event.step: float(make_ndarray(event.tensor_proto)) for event in found.Tensors(tag)}


@pytest.fixture
def run_dir(tmp_path) -> Path:
    tone = 0.1 * np.sin(np.arange(1600) * 0.2)
    for name in ("v0.flac", "best.flac", "median.flac"):
        soundfile.write(tmp_path / name, tone, 16_000)
    return tmp_path


def first(run_dir: Path):
    heard = evaluation(0, [[0.0, 0.2], [0.4, None]], audio=("v0.flac", "missing.flac"))
    clips = {
        place: MomentClip(f"{place}.flac", "slow | <b>piano", 7, 1, {REWARD: 0.5, JUDGE: None})
        for place in ("best", "median")
    }
    return snapshot(str(run_dir), evaluations=(heard,), clips=clips)


def later(run_dir: Path):
    return snapshot(
        str(run_dir),
        time=BEGAN + 400,
        cohorts=(cohort(0, 0.1), cohort(1, 0.2), cohort(2, 0.3)),
        train=(train_point(2), train_point(3)),  # a trainer that restarted repeats update 2
        evaluations=(*first(run_dir).evaluations, evaluation(2, [[0.1, 0.3], [0.7, 0.5]])),
        weight_sync_seconds={1: 0.8, 2: 0.9},
    )


EXPECTED = {
    "reward/cohort_mean": [0, 1, 2],
    "reward/cohort_top": [0, 1, 2],
    "reward/heldout": [0, 2],
    "heldout/judge_mini": [0, 2],
    "staleness/max": [0, 1, 2],
    "train/loss": [1, 2, 3],
    "train/implicit_accuracy": [1, 2, 3],
    "sync/seconds": [1, 2],
    "pools/sampler_idle": [0, 100],
    "buffer/bytes": [0, 100],
    "audio/heldout_0": [0],
    "audio/best": [0],
    "configuration": [0],
    "audio/captions": [0],
    "custom_scalars__config__": [0],
    "_hparams_/session_start_info": [0],
    "train/seconds": [1, 2, 3],
}


def check(points: Counter) -> None:
    assert max(points.values()) == 1
    for tag, steps in EXPECTED.items():
        assert sorted(step for name, step in points if name == tag) == steps, tag


def test_points_are_written_once(run_dir):
    writer = RunWriter(run_dir, CONFIG)
    for shown in (first(run_dir), first(run_dir), later(run_dir)):
        writer.write(shown)
    writer.close()
    check(read_points(run_dir))


def test_a_pool_that_is_scaled_has_a_step_in_its_curve(run_dir):
    writer = RunWriter(run_dir, CONFIG)
    for second, size in ((0, 2), (60, 2), (120, 5)):
        writer.write(snapshot(str(run_dir), time=BEGAN + second, pools={"sampler": PoolStats(size, 0, None)}))
    writer.close()
    assert read_values(run_dir, "pools/sampler_actors") == {0: 2.0, 60: 2.0, 120: 5.0}


def test_the_alarm_counts_judges(run_dir):
    """One judge that fell over the short and over the long span is one."""
    found = [{"judge": judge, "text": judge} for judge in ("judge_mini", "judge_mini", "alignment_mini")]
    rung = replace(evaluation(2, [[0.1, 0.3], [0.7, 0.5]]), alarms=found)
    writer = RunWriter(run_dir, CONFIG)
    writer.write(snapshot(str(run_dir), evaluations=(*first(run_dir).evaluations, rung)))
    writer.close()
    assert read_values(run_dir, "alarm/raised") == {0: 0.0, 2: 2.0}


def test_a_resume_doubles_nothing(run_dir):
    writer = RunWriter(run_dir, CONFIG)
    writer.write(first(run_dir))
    writer.close()
    resumed = RunWriter(run_dir, CONFIG)
    resumed.write(first(run_dir))
    resumed.write(later(run_dir))
    resumed.close()
    check(read_points(run_dir))


def test_a_kill_between_event_file_and_commit_doubles_nothing(run_dir):
    writer = RunWriter(run_dir, CONFIG)
    writer.write(first(run_dir))
    marker = writer.events.marker.read_text()
    writer.write(later(run_dir))
    writer.close()
    writer.events.marker.write_text(marker)  # as if the process had died before the second commit
    resumed = RunWriter(run_dir, CONFIG)
    resumed.write(later(run_dir))
    resumed.close()
    check(read_points(run_dir))


def test_a_kill_before_the_first_commit_leaves_nothing_behind(run_dir):
    writer = RunWriter(run_dir, CONFIG)
    writer.write(first(run_dir))
    writer.close()
    writer.events.marker.unlink()
    RunWriter(run_dir, CONFIG)
    assert not read_points(run_dir)


def test_every_tag_is_documented(run_dir):
    writer = RunWriter(run_dir, CONFIG)
    writer.write(later(run_dir))
    writer.close()
    documented = [re.sub(r"\{\w+\}", r"\\w+", tag) for tag in (*SCALARS, *AUDIO, *TEXT, *LAYOUT)]
    for tag, _ in read_points(run_dir):
        assert any(re.fullmatch(pattern, tag) for pattern in documented), tag


def test_the_stored_configuration_is_the_default(run_dir):
    (run_dir / "config.json").write_text(CONFIG.model_dump_json())
    assert RunWriter(run_dir).config == CONFIG


def values(run_dir: Path, tag: str) -> dict[int, Any]:
    """Step -> the whole value of a tag."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    found = {}
    for file in sorted((run_dir / "tensorboard").glob("events.*")):
        for data in RawEventFileLoader(str(file)).Load():
            event = Event.FromString(data)
            found.update((event.step, value) for value in event.summary.value if value.tag == tag)
    return found


@pytest.fixture
def written(run_dir) -> Path:
    writer = RunWriter(run_dir, CONFIG)
    writer.write(first(run_dir))
    writer.close()
    return run_dir


def test_custom_scalars_open_on_what_matters(written):
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    layout = Layout.FromString(values(written, "custom_scalars__config__")[0].tensor.string_val[0])
    shown = {
        category.title: (category.closed, {c.title: list(c.multiline.tag) for c in category.chart})
        for category in layout.category
    }
    assert (
        list(shown) == ["What matters", "Is it healthy"] and not shown["What matters"][0] and shown["Is it healthy"][0]
    )
    charts = shown["What matters"][1]
    assert charts["reward by policy version"] == ["^reward/heldout$", "^reward/policy_mean$"]
    assert charts[f"held-out judge: {JUDGE}"] == [f"^heldout/{JUDGE}$"] and len(charts) <= 6
    tags = [tag for tag, _ in read_points(written)]
    known = [re.sub(r"\{\w+\}", r"\\w+", tag) for tag in SCALARS]
    for pattern in [pattern for _, found in shown.values() for of in found.values() for pattern in of]:
        tag = pattern.strip("^$").replace("\\", "")
        assert any(re.fullmatch(one, tag) for one in known), tag
    assert any(re.search(charts["reward by policy version"][0], tag) for tag in tags)


def test_runs_are_compared_by_what_they_differ_in(written):
    from tensorboard.plugins.hparams import metadata

    start = values(written, "_hparams_/session_start_info")[0].metadata.plugin_data
    found = metadata.parse_session_start_info_plugin_data(start.content).hparams
    assert start.plugin_name == "hparams" and found["max_staleness"].number_value == CONFIG.loop.max_staleness
    assert found["largest_learning_rate"].number_value == CONFIG.stages[0].phases[0].learning_rate
    experiment = metadata.parse_experiment_plugin_data(
        values(written, "_hparams_/experiment")[0].metadata.plugin_data.content
    )
    assert [info.name.tag for info in experiment.metric_infos] == [
        "reward/heldout",
        f"heldout/{ALIGNMENT}",
        f"heldout/{JUDGE}",
    ]
    chain = hyperparameters(load("paper_mini", []))
    assert chain.keys() == found.keys() and chain["stages"] == "sft, expert_iteration, cross_load, crpo"
    assert {name: type(value) for name, value in chain.items()} == {
        name: type(value) for name, value in hyperparameters(CONFIG).items()
    }


def test_audio_has_captions(written):
    clip = values(written, "audio/heldout_0")[0].metadata
    assert clip.display_name == "held-out 0: slow piano" and "seed 1" in clip.summary_description
    captions = values(written, "audio/captions")[0].tensor.string_val[0].decode().splitlines()
    assert f"| heldout_0 | slow piano | 1 | 0 | {REWARD} +0.000, {ALIGNMENT} +0.200, {JUDGE} +0.200 |" in captions
    assert f"| best | slow \\| &lt;b>piano | 7 | 1 | {REWARD} +0.500, {JUDGE} missing |" in captions


def test_a_state_of_an_older_writer_is_taken_up(run_dir):
    writer = RunWriter(run_dir, CONFIG)
    writer.write(first(run_dir))
    writer.close()
    marker = json.loads(writer.events.marker.read_text())
    marker["state"]["has_prompts"] = marker["state"].pop("has_layout")
    writer.events.marker.write_text(json.dumps(marker))
    assert RunWriter(run_dir, CONFIG).written.evaluations == [0]


def clip_points(run_dir):
    return sorted((tag, step) for tag, step in read_points(run_dir) if tag.startswith("audio/heldout"))


def test_clips_beyond_their_bound_leave_the_oldest_event_files_and_no_curve(tmp_path):
    """Each version's clip takes 2,044 bytes (1,000 samples of 16 bits and a header); 8 KiB hold four of them."""
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "clip.wav", np.zeros(1000), 8000, subtype="PCM_16")
    config = build({"limits": {"audio": "8KiB"}})
    for start in (range(0, 6), range(6, 12)):  # two starts of the run
        writer = RunWriter(tmp_path, config)
        for version in start:
            results = tuple(
                evaluation(v, [[0.1, 0.2], [0.3, 0.4]], audio=("audio/clip.wav",)) for v in range(version + 1)
            )
            writer.write(replace(snapshot(str(tmp_path)), evaluations=results, time=BEGAN + version))
        writer.close()
    shown = [step for _, step in clip_points(tmp_path)]
    assert shown[0] == 0 and shown[-1] == 11 and 2 <= len(shown) <= 5, shown
    assert sorted(read_values(tmp_path, "reward/heldout")) == list(range(12))
    size = sum(path.stat().st_size for path in (tmp_path / "tensorboard").glob("events.*"))
    assert size < 40_000


def test_gauges_thin_out_as_a_run_gets_long_and_storage_is_among_them(tmp_path):
    writer = RunWriter(tmp_path, CONFIG)
    storage = Storage(rollouts=7, free_disk=9, object_store_limit=5)
    for second in (0, 5, 20_000, 20_005, 20_010, 20_015):
        writer.write(replace(snapshot(str(tmp_path)), time=BEGAN + second, storage=storage))
    writer.close()
    assert sorted(read_values(tmp_path, "storage/rollouts_bytes")) == [0, 5, 20_000, 20_010]
    assert read_values(tmp_path, "storage/free_disk_bytes")[0] == 9
    assert not [tag for tag, _ in read_points(tmp_path) if tag == "storage/object_store_limit_bytes"]
