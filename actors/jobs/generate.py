"""The generating job: clips to make -> actors that draw, score, post-process and write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from actors.jobs.pool import Pool, run_pool, start
from rlloop.recipes.generate_worker import GenerateWorker, Job


def generate_on_actors(job: Job, rows: Sequence[Mapping[str, Any]], pool: Pool) -> Iterator[dict]:
    """Yields what became of each row as it is done; `job.out` is a folder that every node sees.

    Raises:
        ValueError: a worker could not be built or a clip not drawn; its words.
    """
    start()
    yield from run_pool(GenerateWorker, (job, pool.threads, pool.device), rows, job.rows_per_call, pool)
