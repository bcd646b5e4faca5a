"""Nodes of trainer workers vanish and return: the group shrinks and grows, the optimizer's state goes along."""

import os
import subprocess
import sys
import time

import pytest
from ray.cluster_utils import Cluster

from rlloop.loop import checkpoints
from tests.ray import runs

pytestmark = pytest.mark.ray
ELASTIC = (
    "loop.max_staleness=0", "stages.0.generations=2", "stages.0.phases.0.updates=400",
    "generator.options={step_delay_s: 0.2}", "trainer.num_workers=2", "trainer.min_workers=1", "trainer.num_cpus=0.9",
    "trainer.checkpoint_every=400", "sampler.num_cpus=0.1", "scorer.num_cpus=0.1", "evaluation.in_between=false",
)  # fmt: skip


@pytest.fixture
def cluster():
    """A head that has no room for a trainer's worker, and two nodes with room for one each."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0.8, "include_dashboard": False})
    found.trainers = [found.add_node(num_cpus=1) for _ in range(2)]
    yield found
    found.shutdown()


def world_size(run_dir, step):
    """Ranks that wrote the newest checkpoint once it is at `step` of generation 0 or later."""
    found = checkpoints.newest(run_dir, runs.load(runs.FAKE, list(ELASTIC)).digest())
    return found and (found[1].version, found[1].step) >= (0, step) and found[1].world_size


def test_spike(cluster, tmp_path):
    run_dir = tmp_path / "run"
    os.environ["RAY_ADDRESS"] = cluster.address
    began = time.time()
    driver = runs.start(run_dir, *ELASTIC, "trainer.checkpoint_every=10")

    def wait(size, step):
        while True:
            found = checkpoints.newest(
                run_dir, runs.load(runs.FAKE, [*ELASTIC, "trainer.checkpoint_every=10"]).digest()
            )
            if found and (found[1].version, found[1].step) >= (0, step) and found[1].world_size == size:
                print(f"{time.time() - began:.1f} s: {found[1].version} {found[1].step} of {size} ranks", flush=True)
                return found[1].step
            assert driver.poll() is None, runs.tail(run_dir)
            time.sleep(0.3)

    step = wait(2, 10)
    cluster.remove_node(cluster.trainers[1], allow_graceful=False)
    print(f"{time.time() - began:.1f} s: node killed", flush=True)
    step = wait(1, step + 10)
    cluster.add_node(num_cpus=1)
    print(f"{time.time() - began:.1f} s: node added", flush=True)
    step = wait(2, step + 10)
    out = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--help"], capture_output=True, text=True
    )
    print(out.stdout)
    driver.terminate()
    print(runs.finish(driver, run_dir, status=143))
