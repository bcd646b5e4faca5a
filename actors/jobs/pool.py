"""What every job shares: rows go through a pool of workers, and what each worker says comes back as it is done.

A worker is a class of rlloop: built once in its process, then called with a list of rows, it yields small JSON
objects. It writes its results to disk itself, so what was done before a kill is kept, and nothing large passes through
Ray.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from actors.cluster import PROBE_S, nodes_without
from actors.startup import start_ray
from rlloop.preflight import on_cluster
from rlloop.resources import Nodes, machine_cpus, machine_gpus

T = TypeVar("T")
STALL_S = 1800.0  # a call of a worker, or its start with its models, takes less
MAX_BLOCKS = 1024  # more would cost the driver more than the finer progress is worth


@dataclass(frozen=True)
class Pool:
    """Actors, each with so many logical CPUs (and torch threads) and this share of a GPU."""

    num_actors: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0

    @property
    def device(self) -> str:
        return "cuda" if self.num_gpus else "cpu"

    @property
    def threads(self) -> int:
        return max(1, int(self.num_cpus))

    def check(self, environment: Mapping[str, str]) -> None:
        """Refuses what this machine does not have; a cluster may grow, so there nothing is refused.

        Raises:
            ValueError: with both numbers.
        """
        if on_cluster(environment):
            return
        for what, each, have in (("CPUs", self.num_cpus, machine_cpus()), ("GPUs", self.num_gpus, machine_gpus())):
            if self.num_actors * each > have + 1e-6:
                raise ValueError(
                    f"{self.num_actors} actors of {each:g} {what} take {self.num_actors * each:g}, this machine has "
                    f"{have}; lower --actors or --{what.lower()}"
                )


def default_actors(blocks: int, num_cpus: float = 1.0, num_gpus: float = 0.0) -> int:
    """As many actors as there is work and this machine has shares for, at most eight."""
    shares = [machine_cpus() / num_cpus, *([machine_gpus() / num_gpus] if num_gpus else [])]
    return max(1, min(8, blocks, *(int(share + 1e-6) for share in shares)))


class Stage:
    """A worker in its actor. Its exceptions travel as rows: Ray Data would print pages and name none of them."""

    def __init__(self, worker: type, args: tuple) -> None:
        self.worker, self.failure = None, ""
        try:
            self.worker = worker(*args)
        except Exception as error:
            self.failure = one_line(error)

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        try:
            if self.worker is not None:
                for outcome in self.worker(block.to_pylist()):
                    yield pa.table({"outcome": [json.dumps(outcome)], "failure": [""]})
                return
        except Exception as error:
            self.failure = one_line(error)
        yield pa.table({"outcome": [""], "failure": [self.failure]})


def one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def start(out: Path | None = None) -> None:
    """Starts or joins Ray, quietly: what Ray logs is in its own files, and shown with RLLOOP_VERBOSE.

    Args:
        out: folder that workers write to; every node has to see it.
    Raises:
        ValueError: a node does not, or does not answer.
    """
    if not os.environ.get("RLLOOP_VERBOSE"):
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    start_ray()
    try:
        blind = nodes_without(out, PROBE_S) if out is not None else []
    except TimeoutError as error:
        raise ValueError(str(error)) from None
    if blind:
        raise ValueError(
            f"{out} is not seen by {len(blind)} nodes of the cluster ({', '.join(blind[:4])}), whose clips or rows "
            "would be lost; give a folder on a mount that all nodes share"
        )


def gpu_share(nodes: Sequence[Nodes]) -> float:
    """One GPU an actor, or what a node has of one, where any of the nodes has some; else none.

    Args:
        nodes: of the Ray that this process has joined, with those that its autoscaler may start.
    """
    return min(1.0, max((node.gpus_each for node in nodes), default=0.0))


def run_pool(worker: type, args: tuple, rows: Sequence[Mapping[str, Any]], rows_per_call: int, pool: Pool) -> Iterator:
    """Yields what the workers yield, in no order.

    Ray must have been started. A killed actor is replaced and its rows are given out again: workers may see rows twice.

    Args:
        worker, args: a class and its arguments, small: paths, not objects.
        rows: small, too; a column has one type.
        rows_per_call: rows of one call of a worker, or a multiple of it when there are very many.
    Raises:
        ValueError: a worker could not be built or raised; its words.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext, ExecutionResources

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = 0
    context.execution_options.preserve_order = False
    context.execution_options.resource_limits = ExecutionResources(
        cpu=pool.num_actors * pool.num_cpus + 0.01, gpu=pool.num_actors * pool.num_gpus
    )
    if not os.environ.get("RLLOOP_VERBOSE"):
        silence_ray_data()
    tables = blocks(rows, rows_per_call)
    outcomes = ray.data.from_arrow(tables).map_batches(
        Stage,
        batch_size=batch_rows(tables, pool),
        compute=ActorPoolStrategy(size=pool.num_actors, max_tasks_in_flight_per_actor=2),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus or None,
        fn_constructor_args=(worker, args),
        batch_format="pyarrow",
    )
    batches = outcomes.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow")
    whom = f"{pool.num_actors} actors of {worker.__name__}"
    for batch in each_within(batches, float(os.environ.get("RLLOOP_STALL_S", STALL_S)), whom):
        for row in batch.to_pylist():
            if row["failure"]:
                raise ValueError(row["failure"])
            yield json.loads(row["outcome"])


def each_within(items: Iterable[T], seconds: float, whom: str) -> Iterator[T]:
    """The same items, each within a deadline: an iterator of Ray Data waits for ever when a pool cannot start.

    Raises:
        TimeoutError: names whom the driver waits for.
    """
    there: queue.Queue = queue.Queue(1)

    def fill() -> None:
        try:
            for item in items:
                there.put((item, None))
            there.put((None, StopIteration()))
        except BaseException as error:
            there.put((None, error))

    threading.Thread(target=fill, name="rows", daemon=True).start()
    while True:
        try:
            item, error = there.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError(
                f"the driver waits for {whom} since {seconds:.0f} s; RLLOOP_STALL_S sets how long it may take"
            ) from None
        if isinstance(error, StopIteration):
            return
        if error is not None:
            raise error
        yield item


def blocks(rows: Sequence[Mapping[str, Any]], rows_per_call: int) -> list[pa.Table]:
    """Cuts rows into at most 1024 blocks of a whole number of calls each: a block is what an actor gets at once."""
    calls = -(-len(rows) // rows_per_call)
    size = rows_per_call * -(-calls // MAX_BLOCKS)
    return [pa.Table.from_pylist([dict(row) for row in rows[n : n + size]]) for n in range(0, len(rows), size)]


def batch_rows(tables: Sequence[pa.Table], pool: Pool) -> int | None:
    """Ray Data's batch size: None takes blocks as they are; on GPUs it wants a number, which is that of their rows."""
    return max((table.num_rows for table in tables), default=1) if pool.num_gpus else None


def silence_ray_data() -> None:
    """Ray Data tells the terminal every plan that it begins; its log files keep it."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
