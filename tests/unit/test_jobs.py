"""What jobs share, without Ray: blocks, the stage around a worker, the check of resources, the view of progress."""

import io

import pyarrow as pa
import pytest
from rich.console import Console

from actors.jobs.pool import MAX_BLOCKS, Pool, Stage, batch_rows, blocks, gpu_share
from rlloop.resources import Nodes
from rlloop.views.progress import JobProgress


class Doubler:
    """Doubles the numbers of its rows, one outcome a row; refuses 13, and cannot be built with a negative limit."""

    def __init__(self, limit):
        if limit < 0:
            raise ValueError(f"limit is {limit};\n expected at least 0")

    def __call__(self, rows):
        for row in rows:
            if row["n"] == 13:
                raise RuntimeError("thirteen")
            yield {"twice": 2 * row["n"]}


def answers(stage, numbers):
    return [row for table in stage(pa.table({"n": numbers})) for row in table.to_pylist()]


def test_what_a_worker_raises_travels_as_a_row():
    assert answers(Stage(Doubler, (0,)), [1, 2]) == [
        {"outcome": '{"twice": 2}', "failure": ""},
        {"outcome": '{"twice": 4}', "failure": ""},
    ]
    assert [row["failure"] for row in answers(Stage(Doubler, (0,)), [1, 13, 2])] == ["", "RuntimeError: thirteen"]
    built_wrong = Stage(Doubler, (-1,))
    for _ in range(2):
        assert answers(built_wrong, [1, 2]) == [{"outcome": "", "failure": "limit is -1; expected at least 0"}]


@pytest.mark.parametrize(("num_rows", "per_call"), [(1, 32), (32, 32), (33, 32), (100_000, 32)])
def test_blocks_hold_whole_calls_and_every_row_once(num_rows, per_call):
    found = blocks([{"n": n} for n in range(num_rows)], per_call)
    assert [n for block in found for n in block["n"].to_pylist()] == list(range(num_rows))
    assert len(found) <= MAX_BLOCKS and all(block.num_rows % per_call == 0 for block in found[:-1])


def test_a_pool_larger_than_the_machine_is_refused():
    Pool(num_cpus=0.5).check({})
    with pytest.raises(ValueError, match="^1000 actors of 1 CPUs take 1000, .*lower --actors or --cpus"):
        Pool(num_actors=1000).check({})
    with pytest.raises(ValueError, match="GPUs take 4000"):
        Pool(num_actors=1000, num_cpus=0.001, num_gpus=4).check({})
    Pool(num_actors=1000).check({"RAY_ADDRESS": "head:6379"})  # a cluster may grow


def test_an_actor_gets_a_gpu_where_some_node_has_one():
    """The driver's own machine decides nothing: the head of a cluster has none, and GPU nodes may not be up yet."""
    head, worker, later = Nodes(1, 4, 0), Nodes(1, 8, 2), Nodes(4, 8, 1)
    assert [gpu_share(nodes) for nodes in ([], [head], [head, worker], [head, later], [Nodes(1, 1, 0.5)])] == [
        0.0, 0.0, 1.0, 1.0, 0.5
    ]  # fmt: skip


def test_progress_tells_rate_and_time_left_without_the_start():
    now, out = [0.0], io.StringIO()
    progress = JobProgress("prompts", 100, Console(file=out, width=200), clock=lambda: now[0])
    with progress:
        progress.phase("loading")
        for seconds, done, failed in ((30, 10, 0), (32, 20, 1), (34, 20, 0), (50, 20, 0), (51, 30, 0)):
            now[0] = seconds
            progress.advance(done, failed)
    assert out.getvalue().splitlines() == [
        "loading ...",
        "10 of 100 prompts",
        "70 of 100 prompts, 1 failed, 3/s, 0:10 left",  # 60 in the 20 s since the first
        "100 of 100 prompts, 1 failed, 4.29/s, 0:00 left",
    ]


def test_a_job_takes_as_many_actors_as_there_is_work_and_shares_of_this_machine(monkeypatch):
    from actors.jobs import pool

    monkeypatch.setattr(pool, "machine_cpus", lambda: 16)
    monkeypatch.setattr(pool, "machine_gpus", lambda: 1)
    assert pool.default_actors(100) == 8 and pool.default_actors(3) == 3 and pool.default_actors(0) == 1
    assert pool.default_actors(100, num_cpus=4) == 4 and pool.default_actors(100, num_cpus=64) == 1
    assert pool.default_actors(100, num_gpus=1) == 1 and pool.default_actors(100, num_gpus=0.25) == 4


def test_on_gpus_a_batch_is_a_block_by_its_number_of_rows():
    """Ray Data refuses to take whole blocks where it is asked for GPUs."""
    tables = blocks([{"n": n} for n in range(11)], 4)
    assert batch_rows(tables, Pool(2, 0.2, 0.5)) == 4 and batch_rows(tables, Pool(2, 0.2)) is None
