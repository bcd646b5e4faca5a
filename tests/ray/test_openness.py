"""What a Ray of our own opens: nothing outside of loopback, nothing without its token; no secret for its workers."""

import json
import os
import stat
import subprocess
import sys

import pytest

from tests.ray import runs

pytestmark = pytest.mark.ray
HEAD = """
import json, os, sys
import psutil
from actors.startup import start_ray
start_ray()
import ray

@ray.remote(num_cpus=0)
class Actor:
    def environment(self):
        return dict(os.environ)

actor = Actor.remote()
environment = ray.get(actor.environment.remote(), timeout=100)
here = psutil.Process()
sockets = [
    [process.name(), connection.laddr.ip]
    for process in (here, *here.children(recursive=True))
    for connection in process.net_connections(kind="inet")
    if connection.status == psutil.CONN_LISTEN
]
about = {
    "address": ray.get_runtime_context().gcs_address,
    "sockets": sockets,
    "runtime_env": ray.get_runtime_context().get_runtime_env_string(),
    "mode": environment.get("RAY_AUTH_MODE"),
}
print("ABOUT " + json.dumps(about), flush=True)
sys.stdin.read()
"""
JOIN = "from actors.startup import start_ray\nstart_ray()\nprint('joined')"
SECRETS = {"HF_TOKEN": "hf_secret", "AWS_SECRET_ACCESS_KEY": "aws_secret"}


def run_python(code: str, **environment: str) -> subprocess.Popen:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=runs.REPOSITORY, env={**kept, **SECRETS, **environment}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_our_own_ray_is_on_loopback_with_a_token_that_nobody_else_reads(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    token = home / ".ray" / "auth_token"
    head = run_python(HEAD, HOME=str(home))
    try:
        lines = iter(head.stdout.readline, "")
        about = json.loads(next(line for line in lines if line.startswith("ABOUT "))[6:])
        assert len(about["sockets"]) > 5
        outside = [found for found in about["sockets"] if found[1] not in ("127.0.0.1", "::ffff:127.0.0.1", "::1")]
        assert not outside, outside
        assert about["mode"] == "token" and stat.S_IMODE(token.stat().st_mode) == 0o600
        assert "secret" not in about["runtime_env"] and token.read_text() not in about["runtime_env"]
        there = {"RAY_ADDRESS": about["address"], "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        wrong = tmp_path / "wrong"
        wrong.write_text("0" * 64)
        refused = run_python(JOIN, HOME=str(tmp_path), RAY_AUTH_TOKEN_PATH=str(wrong), **there)
        said = refused.communicate(timeout=200)[1]
        (line,) = [line for line in said.splitlines() if line.startswith("ValueError: ")]
        assert f"cannot join the cluster at {about['address']}" in line and "RAY_AUTH_TOKEN_PATH" in line
        assert "joined" in run_python(JOIN, HOME=str(home), **there).communicate(timeout=200)[0]
    finally:
        head.stdin.close()
        head.wait(60)
