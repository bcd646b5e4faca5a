"""`rlloop scale` from outside a cluster: what is submitted, what its end tells, what is said where Ray cannot join."""

import shlex
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus
from typer.testing import CliRunner

from actors.attach import why_not
from actors.jobs import command
from rlloop.commands.main import app
from rlloop.commands.scale import job_arguments

RUN = "/mnt/rlloop/runs/a run"


def test_the_job_is_asked_the_same(monkeypatch):
    asked = []
    monkeypatch.setattr(command, "run_as_job", lambda address, arguments: asked.append((address, arguments)) or 3)
    given = ["scale", RUN, "--samplers", "3", "--pool", "scorer_clap=2", "--anyway", "--no-wait"]
    done = CliRunner().invoke(app, [*given, "--address", "http://head:8265"])
    assert done.exit_code == 3, "the status of the job is that of the command"
    ((address, arguments),) = asked
    assert address == "http://head:8265"
    assert shlex.split(command.entrypoint(arguments)) == [
        "rlloop", "scale", RUN, "--pool=sampler=3", "--pool=scorer_clap=2", "--anyway", "--no-wait"
    ]  # fmt: skip
    assert job_arguments(RUN, {}, False, True) == ["scale", RUN]


def test_a_path_of_this_machine_is_refused():
    done = CliRunner().invoke(app, ["scale", "runs/mini", "--address", "http://head:8265"])
    assert done.exit_code == 2 and "as the cluster sees it" in done.output


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [(JobStatus.SUCCEEDED, 0, 0), (JobStatus.FAILED, 2, 2), (JobStatus.FAILED, None, 1), (JobStatus.STOPPED, None, 1)],
)
def test_the_status_is_that_of_the_command(status, code, expected):
    running = SimpleNamespace(status=JobStatus.RUNNING, driver_exit_code=None)
    answers = iter([running, SimpleNamespace(status=status, driver_exit_code=code)])
    client = SimpleNamespace(get_job_info=lambda job: next(answers))
    assert command.status_of(client, "a") == expected


def test_no_dashboard_is_one_line(monkeypatch):
    monkeypatch.setenv(command.API_ADDRESS, "http://127.0.0.1:7")  # what is given goes before it
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a token")  # without one nothing is asked where tokens are on
    done = CliRunner().invoke(app, ["scale", RUN, "--address", "http://127.0.0.1:9"])
    assert done.exit_code == 2 and len(done.output.strip().splitlines()) == 1
    assert "http://127.0.0.1:9 takes no jobs" in done.output


def test_where_ray_cannot_join_the_cause_is_named():
    said = "No node info found matching attributes: 'node_ip_address=10.0.0.9' when trying to resolve node"
    assert "no node of it" in why_not(said) and "http://HOST:8265" in why_not(said)
    assert why_not("another reason\nand its trace") == "another reason"
