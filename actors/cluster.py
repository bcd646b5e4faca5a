"""What a cluster has, against what a run wants: node types, resources, and a run directory that every node sees."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

from rlloop.config import Config
from rlloop.resources import Nodes, check_nodes, rows_on

RESERVED = ("node:", "accelerator_type:", "bundle_group", "CPU", "GPU", "memory", "object_store_memory")
PROBE_S = 60.0
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # `ray up` leaves it on the head, where the driver of a job runs


def check_cluster(run_dir: Path, config: Config) -> None:
    """Refuses what can never be placed, and a run directory that another node does not see. Needs a connected Ray.

    Raises:
        ValueError: one line with both numbers, or the nodes that do not see it.
        TimeoutError, ConnectionError: a node does not answer.
    """
    possible = nodes_to_come()
    problem = check_nodes(rows_on(config, possible), alive_nodes(), possible)
    if problem:
        raise ValueError(problem)
    blind, count = nodes_without(run_dir, PROBE_S), len(other_nodes()) + 1
    if blind:
        raise ValueError(
            f"run_dir {run_dir} is not seen by {len(blind)} of {count} nodes ({', '.join(blind[:4])}); give a shared "
            "mount: run_dir=PATH or RLLOOP_RUNS"
        )


def alive_nodes() -> list[Nodes]:
    """What the nodes of now have."""
    import ray

    return [as_nodes(1, node["Resources"]) for node in ray.nodes() if node["Alive"]]


def possible_nodes(bootstrap: Path = BOOTSTRAP) -> list[Nodes]:
    """What an autoscaler may have in all, from the file that `ray up` started it with; [] where that is unknown.

    Ray's own record of it (`state.get_cluster_config`) is written by nothing in Ray 2.60, so it is not asked. KubeRay
    leaves no file, machines outside the head have none, and one that cannot be read tells as much as none: its
    cluster is up and was not started by us, so a run is judged by the nodes that are there.

    Args:
        bootstrap: types without resources are left out, as those of provider `local`, whose machines all are up.
    """
    import yaml

    try:
        read = yaml.safe_load(bootstrap.expanduser().read_text())
        head, types = read.get("head_node_type"), read["available_node_types"].items()
        groups = [
            (int(each.get("max_workers", 0)) + (name == head), amounts(each.get("resources"))) for name, each in types
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return []
    return [as_nodes(count, has) for count, has in groups if count > 0 and has]


def nodes_to_come() -> list[Nodes]:
    """As `possible_nodes`, where this process has joined a cluster; a Ray of its own grows no nodes."""
    from rlloop.preflight import on_cluster

    return possible_nodes() if on_cluster(os.environ) else []


def amounts(resources: dict | None) -> dict[str, float]:
    """Resources of a node type as numbers.

    Raises:
        ValueError, TypeError: one is no number.
    """
    return {str(name): float(amount) for name, amount in (resources or {}).items()}


def as_nodes(count: int, has: dict[str, float]) -> Nodes:
    """Nodes from Ray's resources; every custom resource is a type."""
    types = frozenset(name for name in has if not name.startswith(RESERVED))
    return Nodes(count, has.get("CPU", 0.0), has.get("GPU", 0.0), types)


def other_nodes() -> list[dict]:
    """Nodes that are alive, without the one of this process."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]


def nodes_without(folder: Path, timeout_s: float, failed: dict[str, str] | None = None) -> list[str]:
    """Addresses of nodes that do not see what this process writes into `folder`, or its nearest parent that exists.

    Args:
        failed: as of `on_nodes`.
    Raises:
        TimeoutError, ConnectionError: a node does not answer.
    """
    others = other_nodes()
    if not others:
        return []
    while not folder.exists():
        folder = folder.parent
    probe = folder / f".seen-{uuid.uuid4().hex[:12]}"
    probe.write_text("rlloop")
    try:
        found = on_nodes(sees, others, str(probe), timeout_s=timeout_s, failed=failed)
    finally:
        probe.unlink(missing_ok=True)
    return [address for address, is_seen in found.items() if not is_seen]


def node_name(node: dict) -> str:
    """Its address, with the start of its id, since addresses may repeat."""
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"


def on_nodes(function, nodes: list[dict], *args, timeout_s: float, failed: dict[str, str] | None = None) -> dict:
    """node -> what `function(*args)` answers there, by `node_name`.

    Nodes that are gone meanwhile are left out: they are no longer of the cluster.

    Args:
        failed: where given, nodes that give no answer are noted here, with the reason, and are left out.
    Raises:
        TimeoutError, ConnectionError: names a node that did not answer in time, or whose task failed.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task, began = ray.remote(function), time.monotonic()
    asked, answers = [], {}
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked.append(task.options(num_cpus=0, max_retries=0, scheduling_strategy=strategy).remote(*args))
    for node, answer in zip(nodes, asked, strict=True):
        name = node_name(node)
        try:
            answers[name] = ray.get(answer, timeout=max(0.1, began + timeout_s - time.monotonic()))
        except ray.exceptions.GetTimeoutError:
            problem: Exception = TimeoutError(f"driver waits for node {name} to run a task since {timeout_s:.0f} s")
        except Exception as error:  # of the task, with its own type, or of Ray, which could not start it
            problem = ConnectionError(f"node {name} runs no task: {last_line(error)}")
        else:
            continue
        if is_gone(node):
            continue
        if failed is None:
            raise problem
        failed[name] = str(problem)
    return answers


def is_gone(node: dict) -> bool:
    """Whether the cluster no longer has a node that it had."""
    import ray

    return all(other["NodeID"] != node["NodeID"] for other in ray.nodes() if other["Alive"])


def last_line(error: Exception) -> str:
    """What a trace ends with, cut to a readable length."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1][:300]


def sees(path: str) -> bool:
    """Whether a file is here; asks the folder anew, as NFS keeps names that it looked up."""
    try:
        return Path(path).name in os.listdir(Path(path).parent)
    except OSError:
        return False
