"""Nodes of trainer workers are taken away and return: a notice leads to a checkpoint, the group shrinks and grows."""

import runpy
import time
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from rlloop.loop import checkpoints
from tests.ray import runs

pytestmark = [pytest.mark.ray, pytest.mark.long]
EVERY = 25
drain = runpy.run_path(str(Path(__file__).parents[2] / "cluster" / "notice.py"))["drain"]
GRACE_S = 30.0  # the shortest that a cloud gives; AWS gives two minutes
ELASTIC = (
    "loop.max_staleness=0", "stages.0.generations=1", "stages.0.phases.0.updates=2000",
    "generator.options={step_delay_s: 0.3}", "trainer.num_workers=2", "trainer.min_workers=1", "trainer.num_cpus=1",
    f"trainer.checkpoint_every={EVERY}", "trainer.node=trainer", "sampler.node=head", "scorer.node=head",
    "evaluation.node=head", "evaluation.in_between=false", "loop.stall_timeout_s=600",
)  # fmt: skip


@pytest.fixture
def cluster(monkeypatch):
    """A head without room for a trainer's worker, and two nodes with room for one each."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    head = {"num_cpus": 2, "include_dashboard": False, "resources": {"head": 1}}
    found = Cluster(initialize_head=True, head_node_args=head)
    monkeypatch.setenv("RAY_ADDRESS", found.address)
    yield found
    found.shutdown()


def add_trainer(cluster):
    return cluster.add_node(num_cpus=1, resources={"trainer": 1})


def wait_for(driver, run_dir, digest, ranks, condition):
    """The step of the newest checkpoint, once `ranks` ranks wrote it and the condition holds of its step."""
    deadline = time.monotonic() + runs.DEADLINE_S
    while True:
        found = checkpoints.newest(run_dir, digest)
        if found and found[1].world_size == ranks and found[1].step and condition(found[1].step):
            return found[1].step
        assert driver.poll() is None, runs.tail(run_dir)
        assert time.monotonic() < deadline, f"newest is {found and found[1]}:\n{runs.tail(run_dir)}"
        time.sleep(0.3)


def announce_preemption(node):
    """What cluster/notice.py makes of a cloud's notice: the node is drained, and gone in two minutes."""
    drain(node.node_id, 120.0)


def test_trainer_workers_shrink_and_grow_and_a_notice_makes_a_checkpoint(cluster, tmp_path):
    run_dir, digest = tmp_path / "run", runs.load(runs.FAKE, list(ELASTIC)).digest()
    add_trainer(cluster)
    second = add_trainer(cluster)
    driver = runs.start(run_dir, *ELASTIC)
    step = wait_for(driver, run_dir, digest, 2, lambda step: step >= EVERY)
    announce_preemption(second)
    announced = time.monotonic()
    noticed = wait_for(driver, run_dir, digest, 2, lambda found: found > step and found % EVERY)
    assert time.monotonic() - announced < GRACE_S
    cluster.remove_node(second, allow_graceful=False)
    alone = wait_for(driver, run_dir, digest, 1, lambda found: found > noticed)
    add_trainer(cluster)
    wait_for(driver, run_dir, digest, 2, lambda found: found > alone)
    driver.terminate()
    summary = runs.finish(driver, run_dir, status=143)
    assert summary["status"] == "stopped" and summary["restarts"]["trainer"] >= 2
