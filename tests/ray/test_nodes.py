"""Several nodes on one machine: each role lands on its type of node, and a node that is lost costs time only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from actors.cluster import node_name, on_nodes, sees
from actors.watchdog import _dump_other_nodes
from rlloop.loop import records as r
from tests.ray import runs

pytestmark = pytest.mark.ray

PLACED = (
    "loop.max_staleness=1",
    "sampler.node=sampler",
    "sampler.num_gpus=2",
    "sampler.num_cpus=0.2",
    "scorer.node=reward",
    "scorer.num_gpus=1",
    "trainer.node=trainer",
    "evaluation.node=reward",
)
ROLES = {"SamplerStage": "sampler", "ScorerStage": "scorer", "RayTrainWorker": "trainer", "Evaluator": "evaluator"}
NODES = {"sampler_a": "sampler", "sampler_b": "sampler", "work": "reward"}


@pytest.fixture(scope="module")
def cluster():
    """A head, two nodes for samplers, and one that is both reward and trainer; GPUs are only numbers here."""
    import ray
    from ray.cluster_utils import Cluster

    environment = pytest.MonkeyPatch()
    environment.setenv("RAY_AUTH_MODE", "disabled")
    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "resources": {"head": 1}, "labels": {"node": "head"}}
    )
    nodes.named = {name: add_node(nodes, kind) for name, kind in NODES.items()}
    nodes.wait_for_nodes(timeout=240)
    environment.setenv("RAY_ADDRESS", nodes.address)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
    yield nodes
    ray.shutdown()
    nodes.shutdown()
    environment.undo()


def add_node(nodes, kind: str):
    types = (kind, "trainer") if kind == "reward" else (kind,)
    return nodes.add_node(
        num_cpus=2, num_gpus=2, resources=dict.fromkeys(types, 1.0), labels={"node": kind}, wait=False
    )


def places(nodes) -> dict[str, set[str]]:
    """Role -> names of the nodes on which living actors of it are."""
    from ray._private.state import actors

    names = {node.node_id: name for name, node in nodes.named.items()} | {nodes.head_node.node_id: "head"}
    found: dict[str, set[str]] = {}
    for actor in actors().values():
        role = next((role for title, role in ROLES.items() if title in actor["ActorClassName"]), None)
        if role and actor["State"] == "ALIVE":
            found.setdefault(role, set()).add(names.get(actor["Address"]["NodeID"], "gone"))
    return found


def test_a_node_that_is_gone_meanwhile_is_no_obstacle_and_one_whose_task_fails_is_named(cluster):
    """A driver that starts just after a node was lost still finds it in the list of nodes."""
    import ray

    gone = {"NodeID": "ab" * 28, "NodeManagerAddress": "192.0.2.9"}
    there = cluster.named["sampler_a"].node_id
    node = next(node for node in ray.nodes() if node["NodeID"] == there)
    assert on_nodes(sees, [gone, node], __file__, timeout_s=60) == {node_name(node): True}
    with pytest.raises(ConnectionError, match=f"node .*{there[:6]}.* runs no task: .*TypeError"):
        on_nodes(sees, [node], 5, timeout_s=60)


def test_what_has_no_place_is_refused_before_anything_starts(cluster, tmp_path):
    """Both numbers by type of node; nothing of a run is left behind."""
    for overrides, said in (
        ((*PLACED, "sampler.num_actors=3"), "nodes of type 'sampler', the roles take 6 GPUs (sampler 6), there are 4"),
        (
            ("trainer.node=a100",),
            "trainer wants nodes of type 'a100', no node is (types there are: head, reward, sampler",
        ),
    ):
        driver = runs.start(tmp_path / "run", *overrides)
        assert driver.wait(runs.DEADLINE_S) == 2
        assert said in runs.tail(tmp_path / "run")
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["driver.lock"]


def examined(run_dir):
    """(status, findings) of the doctor's command."""
    command = [sys.executable, "-m", "rlloop.commands.main", "doctor", "--config", str(runs.FAKE), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(runs.REPOSITORY)}
    done = subprocess.run(
        [*command, f"run_dir={run_dir}"], cwd=runs.REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_the_doctor_looks_at_every_node_also_without_a_run_directory(cluster, tmp_path):
    (tmp_path / "file").touch()
    status, found = examined(tmp_path / "file" / "run")
    assert status == 1 and {finding["check"] for finding in found if finding["level"] == "fail"} == {"run_dir"}
    assert len({finding["node"] for finding in found if finding["check"] == "torch"}) == 4
    status, found = examined(tmp_path / "run")
    assert status == 0, found
    assert len({finding["node"] for finding in found if finding["check"] == "torch"}) == 4
    (nodes,) = (finding["found"] for finding in found if finding["check"] == "nodes")
    assert nodes == "4, of the types head, reward, sampler, trainer"
    assert "each of 4 nodes reaches the others" in {finding["found"] for finding in found}
    assert {finding["check"] for finding in found if finding["level"] != "ok"} <= {"authentication", "disk of tmp"}
    assert not (tmp_path / "run").exists()


HANGING = """
import sys, time
from pathlib import Path
from rlloop.loop import stacks

stacks.register(Path(sys.argv[1]), "sampler")

def hangs():
    print("up", flush=True)
    time.sleep(100)

hangs()
"""


def test_the_watchdog_gets_the_stacks_of_other_nodes(cluster, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING, str(tmp_path)], cwd=runs.REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "up\n"
        folder = tmp_path / "found"
        folder.mkdir()
        _dump_other_nodes(SimpleNamespace(path=tmp_path), folder)
        (file,) = folder.iterdir()
        assert file.name.startswith("sampler-") and "in hangs" in file.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.mark.long
def test_samplers_follow_who_waits_from_one_to_four_and_back(cluster, tmp_path):
    """A stage in which the trainer waits for slow samplers, then one in which they wait for a slow trainer."""
    run_dir = tmp_path / "run"
    overrides = (
        *(each for each in PLACED if "num_gpus=2" not in each),
        "sampler.num_gpus=1",
        "sampler.num_actors=1",
        "sampler.autoscale={min: 1, max: 4, every_s: 2}",
        "generator.options={delay_s: 0.7, step_delay_s: 0.05}",
        "evaluation.in_between=false",
        "stages.0.tickets=40",
    )
    preset = two_stages(tmp_path)
    driver = runs.start(run_dir, *overrides, preset=preset)
    assert runs.finish(driver, run_dir)["status"] == "finished"
    runs.check_exactness(run_dir, *overrides, preset=preset)
    sizes = [x.num_actors for x in runs.records(run_dir) if isinstance(x, r.Scaled)]
    assert max(sizes) == 4 and sizes[-1] == 1, sizes
    top = sizes.index(4)
    assert sizes[: top + 1] == sorted(sizes[: top + 1]) and sizes[top:] == sorted(sizes[top:], reverse=True), sizes


def two_stages(folder) -> Path:
    """Few updates on many tickets, then many updates on few."""
    raw = yaml.safe_load(runs.FAKE.read_text())
    first = raw["stages"][0]
    phase = first["phases"][0]
    raw["stages"] = [
        {**first, "name": "hungry", "generations": 3, "phases": [{**phase, "updates": 4}]},
        {**first, "name": "fed", "generations": 3, "tickets": 8, "phases": [{**phase, "updates": 400}]},
    ]
    path = folder / "two.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_roles_land_on_their_nodes_and_a_lost_node_costs_time_only(cluster, tmp_path):
    """Two samplers that fill a node each; the node of one is killed while it works."""
    run_dir = tmp_path / "run"
    overrides = (*PLACED, "generator.options={delay_s: 0.5}")  # long enough for both samplers to be seen
    driver = runs.start(run_dir, *overrides)
    seen: dict[str, set[str]] = {}

    def look(found) -> bool:
        for role, on in places(cluster).items():
            seen.setdefault(role, set()).update(on)
        return runs.count(found, r.Buffered) >= 4 and set(ROLES.values()) == seen.keys() and len(seen["sampler"]) == 2

    runs.wait_until(driver, run_dir, look, "four tickets, two samplers, and one of each other role")
    assert seen["sampler"] == {"sampler_a", "sampler_b"}
    assert seen["scorer"] == seen["trainer"] == seen["evaluator"] == {"work"}
    cluster.remove_node(cluster.named.pop("sampler_b"), allow_graceful=False)
    assert runs.finish(driver, run_dir)["status"] == "finished"
    runs.check_exactness(run_dir, *overrides)


@pytest.mark.long
def test_a_sampler_whose_node_comes_later_joins_the_stream(cluster, tmp_path):
    """Lost, left out of the next segment, and back in it with a new node."""
    run_dir = tmp_path / "run"
    slow = ("generator.options={delay_s: 1.0}", "stages.0.tickets=60", "loop.segment_slots=400")
    overrides = (*PLACED, *slow, "evaluation.in_between=false")
    if "sampler_b" not in cluster.named:
        cluster.named["sampler_b"] = add_node(cluster, "sampler")
        cluster.wait_for_nodes(timeout=240)
    driver = runs.start(run_dir, *overrides)

    def samplers(found) -> set[str]:
        """Who began a ticket in the newest segment."""
        begins = max(n for n, record in enumerate(found) if isinstance(record, r.SegmentBegan))
        return {x.worker for x in found[begins:] if isinstance(x, r.Started) and x.worker.startswith("sampler")}

    runs.wait_until(
        driver, run_dir, lambda found: runs.count(found, r.SegmentBegan) and len(samplers(found)) == 2, "two"
    )
    cluster.remove_node(cluster.named.pop("sampler_b"), allow_graceful=False)
    runs.wait_until(
        driver, run_dir, lambda found: runs.count(found, r.SegmentBegan) == 2 and len(samplers(found)) == 1, "one"
    )
    cluster.named["sampler_b"] = add_node(cluster, "sampler")
    runs.wait_until(driver, run_dir, lambda found: len(samplers(found)) == 2, "two again")
    assert runs.finish(driver, run_dir)["status"] == "finished"
    assert runs.count(runs.records(run_dir), r.SegmentBegan) == 2
    runs.check_exactness(run_dir, *overrides)
