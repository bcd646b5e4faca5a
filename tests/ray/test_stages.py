"""A plan of stages with stand-ins: corpus, mixture, cross-load, pairs; killed and resumed, and on two workers."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlloop.data.corpus import CorpusRow, CorpusSpec, CorpusWriter
from rlloop.loop import checkpoints
from rlloop.loop import records as r
from rlloop.recipes.averages import snapshot_path
from tests.fakes import LENGTH, WIDTH
from tests.ray import runs

pytestmark = pytest.mark.ray
PLAN = runs.REPOSITORY / "tests" / "stages.yaml"
VERSIONS = 6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """40 rows, two of them without a score."""
    folder, rng = tmp_path_factory.mktemp("corpus") / "corpus", np.random.default_rng(0)
    spec = CorpusSpec((LENGTH, WIDTH), "stand-in", ("Loudness",))
    with CorpusWriter(folder, spec, shard_rows=16) as writer:
        for n in range(40):
            mean, std = rng.normal(size=(2, LENGTH, WIDTH)).astype(np.float32)
            scores = {"Loudness": None if n % 20 == 7 else float(mean.mean())}
            writer.add(CorpusRow(str(n), f"caption {n}", mean, np.abs(std) / 4, None, scores))
    return folder


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("stages") / "run"
    return run_dir, runs.run(run_dir, f"corpus={corpus}", preset=PLAN)


def losses(run_dir) -> dict[int, float]:
    found = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {point.step: point.value for point in found.Scalars("train/loss")}


def weights(run_dir, version=VERSIONS):
    return checkpoints.read_weights(checkpoints.folder(run_dir, version))


def test_the_chain_runs_to_its_table(undisturbed, corpus):
    run_dir, summary = undisturbed
    runs.check_exactness(run_dir, f"corpus={corpus}", preset=PLAN)
    assert summary["status"] == "finished"
    assert sorted(losses(run_dir)) == list(range(1, 12 + 2 * 10 + 10 + 6 + 1))
    names = [row["stage"] for row in summary["decomposition"]]
    assert names == ["baseline", "sft", "expert_iteration", "cross_load", "crpo", "nft"]
    before, after = weights(run_dir, 3), weights(run_dir, 4)
    assert all(np.array_equal(before[name], after[name]) for name in before)  # the cross-load trains nothing
    markers = [checkpoints.read_marker(checkpoints.folder(run_dir, version)).variant for version in (3, 4, 5, 6)]
    assert markers == [None, "v2", "v2", "v2"]
    means = [row["scores"]["Loudness"]["mean"] for row in summary["decomposition"]]
    assert means[3] != means[2]  # the same weights, another forward pass
    assert sorted(path.name for path in (run_dir / "ema" / "crpo").iterdir()) == [
        f"sigma{sigma}-step{step:09d}.safetensors" for sigma in (0.05, 0.1) for step in (5, 10)
    ]
    selected = {record.generation: record for record in runs.records(run_dir) if isinstance(record, r.Selected)}
    assert {role for _, _, role in selected[4].examples} == {"winner", "loser"} and not selected[4].advantages
    graded = selected[5]  # every clip of the prompts, better and worse than its prompt's mean
    assert len(graded.advantages) == len(graded.examples) > 8
    assert min(graded.advantages) < 0 < max(graded.advantages)


def test_killed_inside_every_stage_it_ends_with_the_same_losses_selections_and_weights(undisturbed, corpus, tmp_path):
    run_dir, override = tmp_path / "run", f"corpus={corpus}"
    digest = runs.load(PLAN, [override]).digest()
    for version, step in ((0, 8), (2, 4), (4, 4)):  # inside SFT, the second expert iteration, CRPO
        driver = runs.start(run_dir, override, preset=PLAN)
        runs.wait_for_checkpoint(driver, run_dir, digest, version, step)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert runs.run(run_dir, override, preset=PLAN)["status"] == "finished"
    assert runs.selections(run_dir) == runs.selections(undisturbed[0])
    expected, found = weights(undisturbed[0]), weights(run_dir)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    assert losses(run_dir) == losses(undisturbed[0])  # one process or four: identical, none doubled, none missing
    for stage, step in (("sft", 12), ("expert_iteration", 20), ("crpo", 10), ("nft", 6)):
        average, same = (load_file(str(snapshot_path(where, stage, 0.1, step))) for where in (run_dir, undisturbed[0]))
        assert all(np.array_equal(average[name], same[name]) for name in same)


@pytest.mark.long
def test_two_workers_match_one_at_the_same_global_batch(undisturbed, corpus, tmp_path):
    two = (f"corpus={corpus}", "trainer.num_workers=2", "trainer.num_cpus=0.3", "trainer.zero_stage=2")
    runs.run(tmp_path / "run", *two, preset=PLAN)
    one, other = losses(undisturbed[0]), losses(tmp_path / "run")
    worst = max(abs(one[step] - other[step]) for step in range(1, 23))  # SFT and the first expert iteration
    print(json.dumps({"largest difference of the loss over 22 steps": worst}))
    assert worst < 1e-4
