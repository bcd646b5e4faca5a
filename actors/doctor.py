"""Facts of every node of a cluster: gathered there by tasks, with the clock's offset, whether run_dir is seen and
which nodes are reached."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from actors.cluster import alive_nodes, as_nodes, is_gone, node_name, nodes_without, on_nodes, possible_nodes
from actors.ports import unreached
from rlloop.config import Config
from rlloop.recipes.doctor import Finding, wanted_weights, weights_by_type
from rlloop.recipes.machine_facts import Facts, gather
from rlloop.resources import check_nodes, rows_on

NODE_S = 300.0  # a node's first task sets up its environment and imports torch


def cluster_facts(config: Config, run_dir: Path | None) -> tuple[list[Facts], Facts]:
    """Facts of all nodes that are up, and those of this one, which comes first. Needs a connected Ray.

    A node that gives no answer has facts that say so and nothing else.

    Args:
        run_dir: None where nothing can be written to it, so that no other node can be asked whether it sees it.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"] != here)
    types = {node["NodeID"]: as_nodes(1, node["Resources"]).types for node in nodes}
    names = {node: weights_of_node(config, types[node], node == here) for node in types}
    failed: dict[str, str] = {}
    blind = set(nodes_without(run_dir, NODE_S, failed)) if run_dir else None
    asked = [node for node in nodes if node_name(node) not in failed]
    gathered = on_nodes(gather_here, asked, names, str(run_dir or ""), timeout_s=NODE_S, failed=failed)
    apart = unreached([node for node in asked if node_name(node) in gathered], NODE_S)
    there = [node for node in nodes if node_name(node) in {**gathered, **failed} and not is_gone(node)]
    found = [whole(node, gathered, types[node["NodeID"]], blind, failed) for node in there]
    found = [replace(facts, unreached=apart.get(facts.node, ())) for facts in found]
    return found, found[0]


def whole(node: dict, gathered: dict[str, Facts], types: frozenset[str], blind: set[str] | None, failed: dict) -> Facts:
    """The facts of a node, with what is seen from here: its types, its clock and whether it sees the run directory."""
    name = node_name(node)
    if name not in gathered:
        return Facts(node=name, types=tuple(sorted(types)), error=failed[name])
    offset, error = clock_offset(node)
    return replace(
        gathered[name],
        node=name,
        types=tuple(sorted(types)),
        sees_run_dir=None if blind is None else name not in blind,
        clock_offset_s=offset,
        clock_error_s=error,
    )


def weights_of_node(config: Config, types: frozenset[str], is_driver: bool) -> list[str]:
    """What the roles of such a node load; the driver writes version 0 from the generator's weights."""
    by_type = weights_by_type(config)
    names = {name for node in (None, *types) for name in by_type.get(node, ())}
    return sorted(names | set(wanted_weights(config)["sampler"] if is_driver else ()))


def gather_here(names: dict[str, list[str]], run_dir: str) -> Facts:
    """Facts of the node that this runs on; `names` of weights by node; `run_dir` may be ''."""
    import ray

    from rlloop.weights.catalogue import root

    mine = names[ray.get_runtime_context().get_node_id()]
    return gather(mine, {"weights": str(root())} | ({"run_dir": run_dir} if run_dir else {}))


def clock_offset(node: dict) -> tuple[float, float]:
    """(seconds that the node's clock is ahead of ours, at most so many off): half of what the question took."""
    before = time.time()
    (there,) = on_nodes(now, [node], timeout_s=NODE_S).values()
    after = time.time()
    return there - (before + after) / 2, (after - before) / 2


def now() -> float:
    return time.time()  # Ray takes no built-in function


def placement(config: Config) -> Finding:
    """Whether the nodes that are there, or that an autoscaler may start, take all roles."""
    alive, possible = alive_nodes(), possible_nodes()
    problem = check_nodes(rows_on(config, possible), alive, possible)
    found = f"{sum(n.count for n in alive)} nodes up"
    if possible:
        found += f", up to {sum(n.count for n in possible)} beside the head"
    elif config.sampler.autoscale:
        found += f"; how many may come is unknown, so samplers count as they start: {config.sampler.num_actors}"
    if problem:
        return Finding(
            "fail", "placement", "cluster", problem, "every role has a place", "see the message, or --dry-run"
        )
    return Finding("ok", "placement", "cluster", found)
