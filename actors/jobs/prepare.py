"""Jobs that fill a corpus: keys that are left -> worker actors, which leave parts -> the collector, in order."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.jobs.pool import Pool, run_pool, start
from rlloop.recipes.corpus_parts import Collector, Outcome
from rlloop.views.progress import JobProgress


@dataclass(frozen=True)
class Summary:
    """What a job did: `missing` counts scores that rows lack, by reason; `seconds` with start-up."""

    rows: int
    resumed: int
    failures: Mapping[str, str]
    missing: Mapping[str, int]
    seconds: float


def fill_corpus(
    collector: Collector,
    worker: type,
    job: object,
    rows: Mapping[str, Mapping],
    rows_per_call: int,
    pool: Pool,
    view: JobProgress,
) -> Summary:
    """Makes what the collector lacks, and finishes its corpus; starts Ray only if something is lacking.

    Args:
        worker, job: a class that is built of (job, threads, device) and yields Outcomes as mappings.
        rows: what it is called with, by key; small.
    Raises:
        ValueError: a worker could not be built, or nothing gave a row.
    """
    began = time.monotonic()
    todo: Sequence[Mapping] = [rows[key] for key in collector.todo()]
    view.total = len(todo)
    found = ()
    if todo:
        view.phase("starting Ray and loading the models")
        start(collector.folder)
        found = run_pool(worker, (job, pool.threads, pool.device), todo, rows_per_call, pool)
    missing = collector.collect((Outcome(**outcome) for outcome in found), view.advance)
    return Summary(collector.finish(), collector.resumed, collector.failures, missing, time.monotonic() - began)
