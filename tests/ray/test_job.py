"""`ray job submit` as users do it, against a head that this test starts: logs, status, stop, checkpoint, resumption."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from rlloop.config import load
from rlloop.loop import checkpoints
from tests.ray import runs

pytestmark = pytest.mark.ray

RAY = Path(sys.executable).with_name("ray")
TINY = (
    "loop.max_staleness=0", "stages.0.generations=1", "stages.0.phases.0.updates=600",
    "generator.options={step_delay_s: 0.05}", "trainer.checkpoint_every=50",
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """What a client of the head needs in its environment; the head's processes are one group, ended by its id.

    The environment is the one of cluster/env.sh: token authentication, and time for a checkpoint when a job is stopped.
    """
    folder = tmp_path_factory.mktemp("head")
    (folder / "token").write_text("c" * 32)
    control, dashboard = free_port(), free_port()
    short = tempfile.mkdtemp(prefix="rl")  # Ray's sockets lie below it, and their paths may have 107 characters
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": "120",
        "RLLOOP_RUNS": str(folder / "runs"),
        "HF_HUB_OFFLINE": "1",
        "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [
        str(RAY), "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1", f"--port={control}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={short}",
        f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}",
        "--disable-usage-stats",
    ]  # fmt: skip
    log = (folder / "head.out").open("wb")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    client = {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    try:
        deadline = time.monotonic() + runs.DEADLINE_S
        while job(client, "submit", "--", "true").returncode:  # the agent that takes jobs comes up last
            assert process.poll() is None and time.monotonic() < deadline, (folder / "head.out").read_text()[-3000:]
            time.sleep(1)
        yield client
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(short, ignore_errors=True)


def job(client: dict, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(RAY), "job", *arguments],
        env=client,
        cwd=runs.REPOSITORY,
        capture_output=True,
        text=True,
        timeout=runs.DEADLINE_S,
    )


def submit(client: dict, name: str, *overrides: str, options: tuple) -> subprocess.CompletedProcess:
    """Waits for the job's end; `--` ends the options of `ray job submit`."""
    config = "tests/fake.yaml" if options[0] == "--working-dir" else str(runs.FAKE)
    command = ("python", "-m", "rlloop.main", "--config", config, *overrides)
    return job(client, "submit", "--submission-id", name, *options, "--", *command)


def test_jobs_stop_with_a_checkpoint_and_resume_and_fail_with_status_one(head):
    """Submitted with --working-dir and stopped; resumed by the installed project, without; then a mistake."""
    run_dir = Path(head["RLLOOP_RUNS"]) / "fake"
    upload = ("--working-dir", str(runs.REPOSITORY))
    # On nodes that are set up nothing is uploaded: the code is found by its path, the run by RLLOOP_RUNS.
    installed = ("--runtime-env-json", json.dumps({"env_vars": {"PYTHONPATH": str(runs.REPOSITORY)}}))
    first = submit(head, "first", *TINY, options=(*upload, "--no-wait"))
    assert first.returncode == 0, first.stderr + first.stdout
    digest = load(runs.FAKE, list(TINY)).digest()
    wait_for_buffer(run_dir)
    scaled = scale_from_outside(head, run_dir)
    assert scaled.returncode == 0 and "sampler: 2 actors" in scaled.stdout, scaled.stdout + scaled.stderr
    seen, asked = wait_for_checkpoint(head, run_dir, digest, "first"), time.time()
    stopped = job(head, "stop", "first")
    assert stopped.returncode == 0 and "STOPPED" in job(head, "status", "first").stdout.upper()
    assert json.loads((run_dir / "summary.json").read_text())["status"] == "stopped"
    folder, marker = checkpoints.newest(run_dir, digest)
    assert marker.version == 0 and seen < marker.step < 600 and folder.stat().st_mtime > asked
    logs = job(head, "logs", "first").stdout
    assert "starting the actors" in logs and "SIGINT received" in logs

    again = submit(head, "again", *TINY, options=installed)
    assert again.returncode == 0, again.stdout[-3000:]
    assert "finished" in again.stdout and "succeeded" in again.stdout
    assert json.loads((run_dir / "summary.json").read_text())["status"] == "finished"
    runs.check_exactness(run_dir, *TINY)

    wrong = submit(head, "wrong", *TINY, "sampler.num_actrs=2", options=upload)
    assert wrong.returncode == 1 and "did you mean 'num_actors'" in wrong.stdout


def wait_for_buffer(run_dir: Path) -> None:
    """The buffer opens the journal."""
    deadline = time.monotonic() + runs.DEADLINE_S
    while not (run_dir / "journal" / "journal.log").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def scale_from_outside(client: dict, run_dir: Path, *options: str) -> subprocess.CompletedProcess:
    """`rlloop scale` where nothing but the dashboard is known."""
    command = [sys.executable, "-m", "rlloop.commands.main", "scale", str(run_dir), *options]
    return subprocess.run(
        [*command, "--address", client["RAY_API_SERVER_ADDRESS"]],
        env=client, cwd=runs.REPOSITORY, capture_output=True, text=True, timeout=runs.DEADLINE_S,
    )  # fmt: skip


def wait_for_checkpoint(client: dict, run_dir: Path, digest: str, name: str) -> int:
    """The step of the first checkpoint inside the generation."""
    deadline = time.monotonic() + runs.DEADLINE_S
    while True:
        found = checkpoints.newest(run_dir, digest)
        if found and found[1].step:
            return found[1].step
        assert time.monotonic() < deadline, job(client, "logs", name).stdout[-3000:]
        time.sleep(0.2)


def test_a_client_without_the_token_is_turned_away(head):
    stranger = {**head, "RAY_AUTH_MODE": "disabled"}
    assert job(head, "list").returncode == 0, "with it the same request is answered"
    assert job(stranger, "list").returncode != 0
    turned_away = scale_from_outside(stranger, Path("/run"))
    assert turned_away.returncode == 2 and "RAY_AUTH_MODE=token" in turned_away.stderr
