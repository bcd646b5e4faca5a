"""The loop end to end with stand-ins: through the real command, Ray, Ray Data, Ray Train and DeepSpeed."""

import signal
import subprocess
import time
from collections import Counter

import numpy as np
import pytest

from rlloop.loop import checkpoints
from rlloop.loop import records as r
from tests.ray import runs
from tests.ray.conftest import SYNCHRONOUS

pytestmark = pytest.mark.ray


def final_weights(run_dir, version=3):
    return checkpoints.read_weights(checkpoints.folder(run_dir, version))


def test_synchronous_run_finishes_and_the_reward_rises(reference):
    run_dir, summary = reference
    ledger = runs.check_exactness(run_dir, SYNCHRONOUS)
    assert summary["status"] == "finished" and summary["policy_versions"] == 3
    assert summary["reward_after"] > summary["reward_before"] and summary["paired_p_value"] < 0.01
    assert summary["clips_generated"] == 96 == 4 * len(ledger.tickets)
    assert sum(summary["tickets"].values()) == 24
    assert {e["version"] for e in summary["evaluations"]} >= {0, 3}


def test_asynchronous_run_stays_within_the_bound(tmp_path):
    """Slots of up to four tickets: sixteen may start at once, and two samplers are there."""
    overrides = ("loop.max_staleness=1", "loop.tickets_per_slot=4")
    summary = runs.run(tmp_path / "run", *overrides)
    runs.check_exactness(tmp_path / "run", *overrides)
    assert summary["status"] == "finished"
    hands = Counter(x.slot for x in runs.records(tmp_path / "run") if isinstance(x, r.Leased))
    assert max(hands.values()) == 4


def test_signals_checkpoint_inside_a_generation_and_the_same_command_resumes(tmp_path):
    """SIGINT to the process group, SIGTERM to the driver, then to the end; meanwhile nobody else may use the folder."""
    run_dir = tmp_path / "run"
    slow = (
        SYNCHRONOUS, "stages.0.generations=1", "stages.0.phases.0.updates=300",
        "generator.options={step_delay_s: 0.05}",
    )  # fmt: skip
    digest = runs.load(runs.FAKE, list(slow)).digest()
    driver = runs.start(run_dir, *slow)
    runs.wait_until(driver, run_dir, lambda found: runs.count(found, r.EpochBegan) >= 1, "the first epoch")
    refuse(run_dir, slow, "is in use by another run")
    step = wait_for_step(driver, run_dir, digest, 1)
    runs.press_control_c(driver)
    summary = runs.finish(driver, run_dir, status=130)
    assert summary["status"] == "stopped" and "SIGINT" in summary["reason"]
    refuse(run_dir, (*slow, "seed=1"), "seed=0, this one has seed=1")
    driver = runs.start(run_dir, *slow)
    wait_for_step(driver, run_dir, digest, step + 40)
    driver.send_signal(signal.SIGTERM)
    assert "SIGTERM" in runs.finish(driver, run_dir, status=143)["reason"]
    assert runs.run(run_dir, *slow)["status"] == "finished"
    runs.check_exactness(run_dir, *slow)


@pytest.mark.long
def test_a_published_version_with_a_damaged_checkpoint_is_made_again(tmp_path):
    """The store and the trainer fall back to version 0 while the ledger has version 1: nobody samples until both have
    it."""
    run_dir = tmp_path / "run"
    slow = (SYNCHRONOUS, "stages.0.generations=2", "generator.options={delay_s: 0.6}", "evaluation.in_between=false")
    driver = runs.start(run_dir, *slow)
    runs.wait_until(driver, run_dir, lambda found: runs.count(found, r.Published) >= 1, "version 1")
    driver.send_signal(signal.SIGTERM)
    runs.finish(driver, run_dir, status=143)
    weights = damage_weights(run_dir, 1)
    summary = runs.run(run_dir, *slow)
    said = run_dir.with_suffix(".out").read_text()
    assert summary["status"] == "finished" and f"{weights}: fails its checksum" in " ".join(said.split())
    assert "sampling waits: version 1 is published, the newest valid checkpoint is of version 0" in " ".join(
        said.split()
    )
    runs.check_exactness(run_dir, *slow)


@pytest.mark.long
def test_a_store_that_restarts_over_a_damaged_checkpoint_has_it_made_again(reference, tmp_path):
    """The trainer, which waits for the next cohort, starts anew from version 0, by itself."""
    run_dir = tmp_path / "run"
    slow = (SYNCHRONOUS, "generator.options={delay_s: 1.5}", "evaluation.in_between=false")
    driver = runs.start(run_dir, *slow)
    runs.wait_until(driver, run_dir, lambda found: runs.count(found, r.Published) >= 1, "version 1")
    damage_weights(run_dir, 1)
    assert runs.kill_role(driver, "ray::PolicyStore")
    summary = runs.finish(driver, run_dir)
    assert summary["status"] == "finished" and summary["restarts"]["trainer"] == 1
    runs.check_exactness(run_dir, *slow)
    assert runs.selections(run_dir) == runs.selections(reference[0])
    expected, found = final_weights(reference[0]), final_weights(run_dir)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def damage_weights(run_dir, version):
    """Flips a bit of a version's weights; answers their file."""
    weights = checkpoints.folder(run_dir, version) / checkpoints.WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    return weights


def refuse(run_dir, overrides, said):
    """The command ends at once with status 2 and one line."""
    done = subprocess.run(runs.command(run_dir, *overrides), capture_output=True, text=True, cwd=runs.REPOSITORY)
    assert done.returncode == 2 and said in done.stderr, done.stderr


def wait_for_step(driver, run_dir, digest, least):
    """The step of the newest checkpoint inside generation 0, once it is at least `least`."""
    while True:
        found = checkpoints.newest(run_dir, digest)
        if found and found[1].version == 0 and found[1].step >= least:
            return found[1].step
        assert driver.poll() is None, runs.tail(run_dir)
        time.sleep(0.1)


def test_two_workers_train_like_one(reference, tmp_path):
    """Same global batches on two ranks: weights agree closely after 30 updates at a learning rate of 1e-2."""
    run_dir = tmp_path / "run"
    two = (SYNCHRONOUS, "trainer.num_workers=2", "trainer.num_cpus=0.3", "trainer.zero_stage=2")
    runs.run(run_dir, *two)
    runs.check_exactness(run_dir, *two)
    expected, found = final_weights(reference[0], 1), final_weights(run_dir, 1)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4)


def test_failing_rows_and_deadly_tickets_are_tried_again(tmp_path):
    """One sampler raises, another dies, a third of a pool's scores is missing: the run finishes, nothing is zero."""
    run_dir = tmp_path / "run"
    marker = tmp_path / "died"
    overrides = (
        SYNCHRONOUS,
        "loop.tickets_per_slot=2",  # failed rows share blocks with others
        "generator.target=tests.fakes:deadly_generator",
        f"generator.options={{marker: {marker}}}",
        "scorer.pools={moody: {rewards: ['tests.fakes:Moody'], num_actors: 2, num_cpus: 0.1}}",
        "stages.0.selection.rank_by={Moody: 1.0}",
        "evaluation.scores=['tests.fakes:Moody']",
    )
    summary = runs.run(run_dir, *overrides)
    ledger = runs.check_exactness(run_dir, *overrides)
    missing = [x for t in ledger.tickets for x in t.rollouts if x.scores["Moody"] is None]
    assert missing and all("moody" in x.reasons["Moody"] for x in missing)
    assert summary["failures"]["Moody: moody"] == len(missing)
    assert all(set(x.scores) == {"Loudness", "Moody"} for t in ledger.tickets for x in t.rollouts)
    for selected in runs.selections(run_dir).values():
        for ticket, clip, _ in selected:
            assert ledger.tickets[ticket].rollouts[clip].scores["Moody"] is not None
