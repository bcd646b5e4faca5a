"""The generating job: clips to make -> actors that draw, score, post-process and write them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.cluster import alive_nodes, nodes_to_come
from actors.jobs.pool import Pool, gpu_share, run_pool, start
from rlloop.recipes.generate_worker import GenerateWorker, Job


def generate_on_actors(
    job: Job, rows: Sequence[Mapping[str, Any]], actors: int, cpus: float, gpus: float | None
) -> Iterator[dict]:
    """Yields what became of each row as it is done; `job.out` is a folder that every node sees.

    Args:
        gpus: share of each actor; None is one where there are any.
    Raises:
        ValueError: a worker could not be built, a clip not drawn, or a node does not see the folder; its words.
    """
    Pool(actors, cpus, gpus or 0.0).check(os.environ)
    start(Path(job.out))
    pool = Pool(actors, cpus, gpu_share([*alive_nodes(), *nodes_to_come()]) if gpus is None else gpus)
    pool.check(os.environ)
    yield from run_pool(GenerateWorker, (job, pool.threads, pool.device), rows, job.rows_per_call, pool)
