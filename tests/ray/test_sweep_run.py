"""`rlloop sweep` through Ray Tune: real runs with stand-in models, one setting that fails, a stop and a resume."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.ray import runs

pytestmark = [pytest.mark.ray, pytest.mark.long]
SHORT = [
    "stages.0.generations=1", "stages.0.tickets=4", "stages.0.phases.0.updates=2", "stages.0.phases.0.batch_size=4",
    "stages.0.selection.min_examples=1",
    "evaluation.num_prompts=4", "evaluation.seeds_per_prompt=1", "evaluation.in_between=false", "sampler.num_actors=1",
]  # fmt: skip
ENDINGS = """
import sys
from pathlib import Path
from actors.jobs.trials import Process, run_processes

folder = Path(sys.argv[1])
child = (sys.executable, "tests/ray/sweep_process.py")
processes = [  # seconds and exit status
    Process((*child, *how), sys.argv[2], str(folder / f"{n}.log"), 0.5, 0)
    for n, how in enumerate([("0.2", "0"), ("0.2", "7"), ("60", "0"), ("60", "0")])
]
print(run_processes(processes, 1, folder, lambda *event: print(*event, flush=True)))
"""


def start(command, output):
    env = {**os.environ, "PYTHONPATH": str(runs.REPOSITORY), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command,
        cwd=runs.REPOSITORY,
        env=env,
        stdout=output.open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def until(condition, process, output):
    deadline = time.monotonic() + runs.DEADLINE_S
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, output.read_text()
        time.sleep(0.1)


def test_control_c_ends_what_runs_with_one_sigterm_and_starts_no_more(tmp_path):
    output = tmp_path / "out.txt"
    process = start([sys.executable, "-c", ENDINGS, str(tmp_path), str(runs.REPOSITORY)], output)
    until(lambda: "running 2" in output.read_text(), process, output)
    log = tmp_path / "2.log"
    until(lambda: log.is_file() and "joins" in log.read_text(), process, output)  # its handlers are there
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    assert process.wait(runs.DEADLINE_S) == 0, output.read_text()
    said = output.read_text().splitlines()
    assert said[-1] == "False" and "ended 0 0" in said and "ended 1 7" in said and "started 3 None" not in said
    assert (tmp_path / "0.log").read_text() == "joins no Ray\n"
    assert (tmp_path / "2.log").read_text() == "joins no Ray\ncheckpointed after SIGTERM\n"
    assert not list(tmp_path.glob(".tune-*"))


def test_two_settings_by_two_seeds_with_a_failing_one_a_stop_and_a_resume(tmp_path):
    out, output = tmp_path / "sweep", tmp_path / "out.txt"
    over = "generator.target=['tests.fakes:tiny_generator', 'tests.fakes:Broken']"  # which has no network
    command = [sys.executable, "-m", "rlloop.commands.main", "sweep", str(runs.FAKE), *SHORT, "--over", over]
    command += ["--seeds", "2", "--out", str(out)]
    process = start(command, output)

    until(lambda: any(out.glob("*/seed1/journal/journal.log")), process, output)
    process.send_signal(signal.SIGTERM)
    assert process.wait(runs.DEADLINE_S) == 130, output.read_text()
    first, second, *others = [json.loads(p.read_text()) for p in sorted(out.glob("*/seed*/summary.json"))]
    assert (first["status"], second["status"], others) == ("finished", "stopped", [])
    assert "seed 1: SIGTERM received" in output.read_text()

    process = start(command, output)
    assert process.wait(runs.DEADLINE_S) == 1, output.read_text()
    said, found = output.read_text(), json.loads((out / "sweep.json").read_text())
    good, bad = found["settings"]
    assert good["seeds"] == [0, 1] and bad["n"] == 0 and len(bad["unfinished"]) == 2
    assert all("'Broken' object has no attribute 'network'" in trial["reason"] for trial in bad["unfinished"])
    gain = good["figures"]["Loudness"]["gain"]
    assert gain["n"] == 2 and gain["ci_low"] < gain["mean"] < gain["ci_high"]
    assert "seed 0: finished in" in said and "seed 0: started" not in said.split("trial 2 of 4")[0]
    assert json.loads(next(out.glob("*/seed0/summary.json")).read_text()) == first  # read, not run again
    assert "| 0 of 2 |" in (out / "sweep.md").read_text()
