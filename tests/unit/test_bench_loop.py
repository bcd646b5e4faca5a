"""The benches of the loop, in the small: what they count, and that the stand-ins need no torch. No Ray is started."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from bench import overlap, scaling, selection, throughput
from bench.stream import STANDINS, Watch, title
from rlloop.config import load
from rlloop.loop import records as r
from rlloop.loop.journal import Journal

NO_TORCH = """
import sys, actors.pools
from rlloop.config import load
from rlloop.recipes.build import load_target
config = load("bench/standins.yaml", ["generator.options.delay_s=0.01"])
sampler = load_target(config.sampler.target)(config, config.sampler)
scorer = load_target(config.scorer.target)(config, config.scorer.rewards, 1)
sampler.load({}, 3)
one, two = (sampler.sample(["a", "b"], [5, 6], config.sampling) for _ in range(2))
assert (one.latents == two.latents).all() and one.latents.shape == (2, 8, 4) and sampler.version == 3
scores, reasons = scorer.score(one.audio, one.sample_rate_hz, ["a", "b"])
assert [set(row) for row in scores] == [{"Loudness"}] * 2 and reasons == [{}, {}] and scores[0] != scores[1]
print("torch" in sys.modules)
"""


def test_stand_ins_are_seeded_and_import_no_torch():
    found = subprocess.run([sys.executable, "-c", NO_TORCH], cwd=STANDINS.parents[1], capture_output=True, text=True)
    assert found.stdout.strip() == "False", found.stderr


@pytest.mark.parametrize("samplers", [1, 8, 64])
def test_the_plan_outlasts_the_measurement(samplers):
    config = load(STANDINS, throughput.overrides(samplers, 1.0, 120.0, 8, 64))
    assert config.sampler.num_actors == samplers and config.scorer.num_actors == max(1, samplers // 4)
    tickets = config.stages[0].tickets * config.stages[0].generations
    assert min(tickets, config.loop.segment_slots) >= samplers * (240 + 64)
    assert config.stages[0].tickets == samplers * 64


def test_the_share_of_the_ideal_is_hand_computed():
    cpu_s = {"SamplerStage": 9.12, "Buffer": 4.56, "raylet": 4.56}
    steady = throughput.Steady(8, 1, 64, 120.0, 912, 912, 7, 0, 20.0, 30.0, 1.0, cpu_s)
    assert steady.share == pytest.approx(0.95)  # 912 of 8 * 120
    assert throughput.cpu_ms(steady) == "20 (10, 0, 0, 5, 0)"


def test_the_watch_reads_what_was_added_and_no_half_record(tmp_path):
    journal, watch = Journal(tmp_path / "j"), Watch(tmp_path / "j")
    for record in (r.SegmentBegan(1), r.Leased(0, 0, 1, 0), r.Started(0, "sampler-1-a", 0)):
        journal.append(record)
    watch.read()
    journal.append(r.Buffered(0, 0, (), 5, {"sampler": 1.0, "scorer": 0.25}))
    whole = journal.path.read_bytes()
    journal.append(r.Published(1))
    data = journal.path.read_bytes()
    journal.path.write_bytes(data[: len(whole) + 9])
    watch.read()
    assert watch.workers("sampler") == ["sampler-1-a"] and watch.busy == {0: {"sampler": 1.0, "scorer": 0.25}}
    assert not watch.published
    journal.path.write_bytes(data)
    watch.read()
    when = watch.buffered[0]
    assert set(watch.published) == {1} and watch.tickets_between(when, when + 1) == 1
    assert watch.slots_between(when, when + 1) == 1 and watch.slots_between(when + 1, when + 2) == 0


def test_the_parts_of_a_resize_are_read_from_the_journal():
    """Told at 100 s; the last of the old segment's tickets at 101.2, a segment at 103, samplers at 106 and 108.5."""
    watch = Watch(None)
    watch.scaled, watch.segments = [20.0, 100.0], {1: 5.0, 2: 22.0, 3: 103.0}
    watch.buffered = {0: 99.0, 1: 100.5, 2: 101.2, 3: 107.0}
    watch.started = {"sampler-1-a": 23.0, "sampler-2-b": 106.0, "scorer-3-c": 107.1, "sampler-4-d": 108.5}
    assert scaling.parts(watch, 2) == pytest.approx((1.2, 1.8, 3.0, 2.5))
    watch.buffered = {0: 99.0}  # nothing was under way
    assert scaling.parts(watch, 2) == pytest.approx((0.0, 3.0, 3.0, 2.5))


@pytest.mark.parametrize(
    ("command", "role"),
    [
        (["ray::MapWorker(MapBatches(SamplerStage)).submit"], "SamplerStage"),
        (["ray::Buffer.commit"], "Buffer"),
        (["/usr/bin/python3.11", "-m", "rlloop.main"], "driver"),
        (["/opt/ray/raylet", "--x"], "raylet"),
        ([], "gone"),
    ],
)
def test_processes_go_by_their_role(command, role):
    assert title(command) == role


def test_gains_are_against_the_synchronous_run_and_the_possible_overlap():
    """g = 8 s and t = 4 s: at best 12 / 8 = 1.5; from 12.6 to 9 s a version are 1.4, 93 % of it."""
    idle = {"sampler": 0.1, "scorer": 0.2, "trainer": 0.3}
    found = [overlap.Measured(4.0, staleness, seconds, idle) for staleness, seconds in ((0, 12.6), (1, 9.0))]
    first, second = overlap.rows("2:1", found)
    assert overlap.train_seconds("2:1") == 4.0 and overlap.train_seconds("1:2") == 16.0
    assert second == "| 2:1 | 1 | 9.0 | 1.40 | 1.50 | **93%** | 1.33 | 10% | 20% | 30% |"
    assert first.startswith("| 2:1 | 0 | 12.6 | 1.00 |  |  | 0.95 |")


def test_the_bench_of_the_buffer_fills_its_section(tmp_path):
    out = tmp_path / "results.md"
    selection.main(["--rollouts", "400", "--commits", "4", "--repeats", "2", "--out", str(out)])
    assert re.search(r"^\| 400 \| \d+ \| \d+ \| \*\*[\d.]+\*\* \| \d+ \| [\d.]+ \| \d+ \|$", out.read_text(), re.M)


def test_published_arrays_have_the_bytes_that_are_asked_for():
    from bench.publish import make_arrays

    arrays = make_arrays(0.02, 1)
    assert sum(array.nbytes for array in arrays.values()) == pytest.approx(0.02e9, rel=0.2)
    assert all(array.dtype == np.float32 for array in arrays.values()) and json.dumps(sorted(arrays))
