"""A run whose copy is in an object store: interrupted, its disk gone, continued elsewhere from the copy."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from rlloop.config import load
from tests.object_store import object_store
from tests.ray import runs

pytestmark = [pytest.mark.ray, pytest.mark.long]
SLOW = ("loop.max_staleness=0", "loop.copy_every_s=2", "generator.options={step_delay_s: 0.2}")


def start(uri: str, work: str) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(runs.REPOSITORY), "HF_HUB_OFFLINE": "1", "RLLOOP_RUNS": work,
           "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
    output = open(f"{work}/run.out", "ab")
    command = [sys.executable, "-m", "rlloop.main", "--config", str(runs.FAKE), f"run_dir={uri}", *SLOW]
    return subprocess.Popen(command, cwd=runs.REPOSITORY, env=env, stdout=output, stderr=output, start_new_session=True)


def test_the_copy_goes_on_where_the_disk_is_gone(reference, tmp_path):
    undisturbed = reference[0]
    work = tmp_path / "work"
    work.mkdir()
    with object_store() as (objects, options):
        uri = f"s3://bucket/runs/mine{options}"
        driver = start(uri, str(work))
        config = load(runs.FAKE, list(SLOW))
        runs.wait_for_checkpoint(driver, work / "mine", config.digest(), 1, 0)
        runs.press_control_c(driver)
        assert driver.wait(runs.DEADLINE_S) == 130, runs.tail(work / "mine")
        assert any(name.endswith("manifest.json") for name in objects)
        shutil.rmtree(work / "mine")

        again = start(uri, str(work))
        assert again.wait(runs.DEADLINE_S) == 0, (work / "run.out").read_text()[-3000:]
        assert runs.selections(work / "mine") == runs.selections(undisturbed)
        runs.check_exactness(work / "mine", *SLOW)
        shutil.rmtree(work / "mine")

        command = [sys.executable, "-m", "rlloop.commands.main", "ledger", uri]
        env = {**os.environ, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        ledger = subprocess.run(command, cwd=runs.REPOSITORY, env=env, capture_output=True, text=True, timeout=120)
        lines = [json.loads(line) for line in ledger.stdout.splitlines()]
        assert len(lines) == 24 and all("buffered" in line["times"] for line in lines), ledger.stderr
