"""The buffer as it fills: commits a second, top-decile queries and whole selections at 10^4 to 10^6 rollouts.

    python -m bench.selection                   into bench/results.md; a minute and 2 GB of memory
    python -m bench.selection --rollouts 10000 --out FILE

No Ray: the buffer is the object that its actor runs, on a disk, with as many threads as the pump has. A commit is a
ticket of four clips: its Parquet file and its journal record, both synced.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from actors import startup
from actors.buffer import Buffer
from actors.pump import COMMITS_AT_ONCE
from actors.session import Session
from bench.machine import describe
from bench.results import RESULTS, write_section
from rlloop.algorithms.base import load_algorithm
from rlloop.config import load
from rlloop.data.rollouts import ScoredTicket
from rlloop.loop import records as r
from rlloop.recipes.cohort import close_cohort, cohort_candidates

CLIPS, FRACTION, WANTED_MS = 4, 0.1, 25.0


def filled(folder: Path, rollouts: int, commits: int) -> Buffer:
    """A buffer with so many rollouts in an open cohort, `commits` of whose tickets are not there yet."""
    tickets = rollouts // CLIPS
    overrides = [f"stages.0.tickets={tickets + commits}", "stages.0.generations=1"]
    startup.store_config(folder, load("bench/standins.yaml", overrides))
    buffer = Buffer(Session(str(folder), startup.take_epoch(folder)))
    scores = np.random.default_rng(0).standard_normal((tickets, CLIPS)).tolist()
    for ticket, row in enumerate(scores):
        found = tuple(r.RolloutRecord(clip, clip, {"Loudness": score}) for clip, score in enumerate(row))
        buffer.state.fold(r.Buffered(ticket, 0, found, 1000), 0.0)
    return buffer


def scored(ticket: int) -> ScoredTicket:
    latents = np.zeros((CLIPS, 8, 4), np.float16)
    scores = [{"Loudness": (ticket + clip) % 7 / 7} for clip in range(CLIPS)]
    return ScoredTicket(ticket, 0, "a prompt", range(CLIPS), latents, scores, [{}] * CLIPS, {"sampler": 1.0})


def commits_per_second(buffer: Buffer, first: int, count: int, threads: int) -> float:
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        assert all(pool.map(lambda ticket: buffer.commit(scored(ticket)), range(first, first + count)))
        return count / (time.perf_counter() - began)


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median of several runs after one."""
    work()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        found.append(1000 * (time.perf_counter() - began))
    return float(np.median(found))


def measure(rollouts: int, commits: int, repeats: int, folder: Path) -> str:
    """One row of the table."""
    buffer = filled(folder, rollouts, 3 * commits)
    first = rollouts // CLIPS
    rates = [
        commits_per_second(buffer, first + n * commits, commits, threads)
        for n, threads in ((0, 1), (1, COMMITS_AT_ONCE))
    ]
    ledger, stage = buffer.ledger, buffer.ledger.plan.stages[0]
    best = int(rollouts * FRACTION)
    query = milliseconds(lambda: cohort_candidates(ledger, 0, stage).best(best), repeats)
    algorithm = load_algorithm(stage.algorithm, stage.options)
    close = milliseconds(lambda: close_cohort(ledger, 0, algorithm), min(repeats, 5))
    selected, began = close_cohort(ledger, 0, algorithm), time.perf_counter()
    buffer.state.fold(selected, 0.0)
    fold = 1000 * (time.perf_counter() - began)
    speeds = f"{rates[0]:.0f} | {rates[1]:.0f} | **{query:.2f}** | {1000 / query:.0f}"
    return f"| {rollouts:,} | {speeds} | {close:.1f} | {fold:.0f} |"


def main(given: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--commits", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(given)
    rows = []
    for rollouts in arguments.rollouts:
        folder = Path(tempfile.mkdtemp(prefix="rlloop-selection-"))
        rows.append(measure(rollouts, arguments.commits, arguments.repeats, folder))
        print(rows[-1], flush=True)
        shutil.rmtree(folder)
    command = f"python -m bench.selection {' '.join(given)}".strip()
    text = (
        f"`{command}`, {describe()}. One open cohort of so many rollouts, four a ticket. A query takes the "
        f"scores of the cohort from the ledger and ranks its best tenth (p50; at most {WANTED_MS:g} ms at 10^6 are "
        "wanted); closing also makes the record of the journal, and folding it in moves every ticket and sums up the "
        "cohort's figures (once). Commits by one thread and by as many as the pump has.\n\n"
        f"| rollouts | commits/s by 1 | commits/s by {COMMITS_AT_ONCE} | query ms | queries/s | close ms | fold ms |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n" + "\n".join(rows)
    )
    write_section("Buffer and selection", text, arguments.out)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
