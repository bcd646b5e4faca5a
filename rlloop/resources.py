"""What a run takes, as a table: actors, CPUs, GPUs, threads and node type of each role, and whether they are there.

Pure: `--dry-run` prints the rows, the start refuses what does not fit. CPUs are logical ones of Ray's scheduler;
threads are what torch really uses. A node type is a custom resource that its nodes have one of.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlloop.config import Config

NODE_SHARE = 0.001  # of the one that a node has of its type: a thousand actors fit


@dataclass(frozen=True)
class Row:
    """One role: `num_actors` actors, each with so many logical CPUs, GPUs and torch threads, on nodes of one type."""

    role: str
    num_actors: float  # a mean may be a fraction
    cpus_each: float
    gpus_each: float
    threads_each: int
    node: str | None = None

    @property
    def cpus(self) -> float:
        return self.num_actors * self.cpus_each

    @property
    def gpus(self) -> float:
        return self.num_actors * self.gpus_each


@dataclass(frozen=True)
class Nodes:
    """`count` nodes alike: what each has, and which types it is of."""

    count: int
    cpus_each: float
    gpus_each: float
    types: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Sizes:
    """What follows from a configuration, in counts over the whole run where not said otherwise."""

    versions: int
    tickets: int
    candidates: int
    candidates_per_generation: Mapping[str, int]  # stage -> clips
    selected_per_generation: Mapping[str, int]  # stage -> clips, at most
    updates: int
    clips_per_evaluation: int
    evaluations: int  # those always made: version 0 and the last of every stage


def resources(config: Config, sizes: Mapping[str, float] | None = None) -> list[Row]:
    """The rows of the resource table; a pool that scales is counted at its most.

    Gate, pump, buffer and policy store take no CPU: they wait for others.

    Args:
        sizes: actors of pools that have another number than the configuration says; a mean may be a fraction.
    """
    bounds, pools = config.sampler.autoscale, {"sampler": config.sampler, **config.scorer.all_pools}
    counts = {name: role.num_actors for name, role in pools.items()}
    counts |= {**({"sampler": bounds.max} if bounds else {}), **(sizes or {})}
    rows = [Row(name, counts[name], r.num_cpus, r.num_gpus, r.threads, r.node) for name, r in pools.items()]
    trainer, evaluation = config.trainer, config.evaluation
    rows.append(Row("trainer", trainer.num_workers, trainer.num_cpus, trainer.num_gpus, trainer.threads, trainer.node))
    rows.append(Row("evaluator", 1, evaluation.num_cpus, evaluation.num_gpus, evaluation.threads, evaluation.node))
    return [*rows, Row("control", 4, 0.0, 0.0, 1)]


def rows_on(config: Config, possible: Sequence[Nodes]) -> list[Row]:
    """The rows that a cluster must have room for before a start.

    Where nobody says which nodes may still come, a pool that scales counts as it starts: the actors that are added
    later wait for their nodes, and a cluster that has just come up has its least nodes only.

    Args:
        possible: the nodes that an autoscaler may have in all; empty where that is unknown or there is none.
    """
    return resources(config) if possible else resources(config, {"sampler": config.sampler.num_actors})


def node_types(config: Config) -> list[str]:
    """The node types that roles ask for."""
    return sorted({row.node for row in resources(config) if row.node})


def node_request(node: str | None) -> dict[str, float]:
    """What an actor asks of Ray to land on a node type: a little of its custom resource."""
    return {node: NODE_SHARE} if node else {}


def check_nodes(rows: Sequence[Row], alive: Sequence[Nodes], possible: Sequence[Nodes] = ()) -> str | None:
    """One line if a cluster lacks a node type, or CPUs or GPUs of one or in all; None if all fits.

    Args:
        alive: the nodes that are there; possible: those that an autoscaler may have in all, if there is one.
    """
    every = [*alive, *possible]
    for node in sorted({row.node for row in rows if row.node}):
        wanting = [row for row in rows if row.node == node]
        if not any(node in each.types for each in every):
            known = sorted(frozenset().union(*(each.types for each in every)))
            start = f"--resources '{{\"{node}\": 1}}'"
            return (
                f"{wanting[0].role} wants nodes of type '{node}', no node is (types there are: "
                f"{', '.join(known) or 'none'}); start Ray on some with {start}, or set node: null"
            )
        there = most([each for each in alive if node in each.types], [each for each in possible if node in each.types])
        if problem := check_fits(wanting, *there):
            return f"on nodes of type '{node}', {problem}, or add nodes of that type"
    return check_fits(rows, *most(alive, possible))


def most(alive: Sequence[Nodes], possible: Sequence[Nodes]) -> tuple[float, float]:
    """CPUs and GPUs that there are, or can be if that is more."""
    sums = [
        (sum(n.count * n.cpus_each for n in nodes), sum(n.count * n.gpus_each for n in nodes))
        for nodes in (alive, possible)
    ]
    return max(cpus for cpus, _ in sums), max(gpus for _, gpus in sums)


def check_fits(rows: Sequence[Row], cpus: float, gpus: float) -> str | None:
    """One line with both numbers if the sum of the rows is above what there is; None if all fits."""
    for what, have, key in (("CPUs", cpus, "num_cpus"), ("GPUs", gpus, "num_gpus")):
        takes = [(row.role, row.cpus if what == "CPUs" else row.gpus) for row in rows]
        total = sum(amount for _, amount in takes)
        if total > have + 1e-6:
            parts = " + ".join(f"{role} {amount:g}" for role, amount in takes if amount)
            return f"the roles take {total:g} {what} ({parts}), there are {have:g}; lower num_actors or {key} of one"
    return None


def machine_cpus() -> int:
    """Logical CPUs that Ray is started with on one machine: at least 2, so that no role waits for a single one."""
    return max(2, os.cpu_count() or 1)


def machine_gpus() -> int:
    """GPUs that a process here may use: those of CUDA_VISIBLE_DEVICES, else those of the NVIDIA driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    driver = Path("/proc/driver/nvidia/gpus")
    return len(list(driver.iterdir())) if driver.is_dir() else 0


def sizes(config: Config) -> Sizes:
    """Counts that follow from the configuration."""
    from rlloop.algorithms.checks import most_clips

    clips, stages = config.sampler.clips_per_prompt, config.stages
    candidates = {stage.name: stage.tickets * clips for stage in stages}
    selected = {stage.name: most_clips(config, stage) for stage in stages}
    return Sizes(
        versions=sum(stage.generations for stage in stages),
        tickets=sum(stage.generations * stage.tickets for stage in stages),
        candidates=sum(stage.generations * candidates[stage.name] for stage in stages),
        candidates_per_generation=candidates,
        selected_per_generation=selected,
        updates=sum(stage.generations * sum(phase.updates for phase in stage.phases) for stage in stages),
        clips_per_evaluation=config.evaluation.num_prompts * config.evaluation.seeds_per_prompt,
        evaluations=1 + len(stages),
    )


def show_bytes(count: float) -> str:
    """A size with its unit, for people."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if unit == "GiB" else f"{count / size:.0f} {unit}"
    return f"{count:.0f} B"
