"""The features job: prompts without features -> encoder actors, which write Parquet -> merged shards."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.jobs.pool import Pool, run_pool, start
from rlloop.data.features import FeatureFolder
from rlloop.recipes.prompt_features import EncoderFiles, FeatureWorker, Plan, plan_features, write_failures
from rlloop.views.progress import JobProgress

GIVE_UP_AFTER = 64


@dataclass(frozen=True)
class Summary:
    """What a job did. Prompts are counted once; `failures` maps a prompt to the reason; `seconds` with start-up."""

    distinct: int
    cached: int
    computed: int
    failures: dict[str, str]
    seconds: float


def compute_features(
    prompts: Sequence[str], files: EncoderFiles, folder: Path, dtype: str, batch: int, pool: Pool, progress: JobProgress
) -> Summary:
    """Computes what is missing in the folder; starts Ray only if something is.

    Args:
        prompts: exact texts, prefix included; repeated ones are computed once.
        dtype: precision of the folder.
        batch: prompts that are encoded and written at once.
    Raises:
        ValueError: what a user can set right, one line: most of it before Ray starts.
    """
    began = time.monotonic()
    pool.check(os.environ)
    progress.phase("reading the encoders' files and the keys of the features that are there")
    plan = plan_features(prompts, files, folder, dtype)
    progress.total = len(plan.missing)
    computed, failures = 0, dict(plan.failures)
    if plan.missing:
        computed, failed = _compute_missing(plan, files, folder, batch, pool, progress)
        failures |= failed
    FeatureFolder(folder, plan.spec).merge()
    write_failures(folder, failures)
    cached = plan.num_distinct - len(plan.missing) - len(plan.failures)
    return Summary(plan.num_distinct, cached, computed, failures, time.monotonic() - began)


def _compute_missing(
    plan: Plan, files: EncoderFiles, folder: Path, batch: int, pool: Pool, progress: JobProgress
) -> tuple[int, dict[str, str]]:
    progress.phase("starting Ray and loading the encoders")
    start(folder.resolve())
    computed, failures = 0, {}
    rows = [{"prompt": prompt} for prompt in plan.missing]
    args = (files, str(folder.resolve()), plan.spec, batch, pool.device, pool.threads)
    for outcome in run_pool(FeatureWorker, args, rows, batch, pool):
        computed += outcome["written"]
        failures |= outcome["failures"]
        progress.advance(outcome["written"] + len(outcome["failures"]), len(outcome["failures"]))
        if not computed and len(failures) >= GIVE_UP_AFTER:
            raise ValueError(f"the first {len(failures)} prompts failed, the last with: {list(failures.values())[-1]}")
    return computed, failures
