"""Pools change their size while a run goes on: without a lost ticket, without a restart of the trainer."""

import re
import subprocess
import sys

import pytest

from rlloop.loop import records as r
from tests.ray import runs

pytestmark = pytest.mark.ray
LONG = (
    "generator.options={delay_s: 0.8}", "sampler.num_actors=1", "sampler.num_cpus=0.1", "stages.0.generations=4",
    "stages.0.tickets=16", "evaluation.in_between=false",
)  # fmt: skip


def scale(run_dir, *options):
    command = [sys.executable, "-m", "rlloop.commands.main", "scale", str(run_dir), *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=runs.REPOSITORY, timeout=120)


def test_samplers_are_scaled_from_one_to_three(tmp_path):
    run_dir = tmp_path / "run"
    driver = runs.start(run_dir, *LONG)
    runs.wait_until(driver, run_dir, lambda found: runs.count(found, r.Buffered) >= 3, "three tickets")
    refused = scale(run_dir, "--samplers", "9999")
    assert refused.returncode == 2 and re.search(r"the roles take [\d.]+ CPUs .* there are \d+;", refused.stderr), (
        refused
    )
    done = scale(run_dir, "--samplers", "3")
    assert done.returncode == 0, done.stderr
    assert "sampler: 1 actors -> 3 from the next segment on" in done.stdout
    summary = runs.finish(driver, run_dir)
    runs.check_exactness(run_dir, *LONG)
    found = runs.records(run_dir)
    assert [(x.pool, x.num_actors) for x in found if isinstance(x, r.Scaled)] == [("sampler", 3)]
    place = next(n for n, x in enumerate(found) if isinstance(x, r.Scaled))
    after = {x.worker for x in found[place:] if isinstance(x, r.Started) and x.worker.startswith("sampler")}
    assert len(after) >= 3
    assert not summary["restarts"], "no process died for it"
    ended = scale(run_dir)
    assert ended.returncode == 2 and "so the run has ended" in ended.stderr
