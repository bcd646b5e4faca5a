"""A cloud's notice becomes a drain of the node: cluster/notice.py against a metadata service on loopback."""

import importlib.util
import json
import os
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

NOTICE = Path(__file__).parents[2] / "cluster" / "notice.py"
NODE = "6908f025837c343fe993238780bf7d6cbf8beb3fe0e2bf8d49edf88a"
spec = importlib.util.spec_from_file_location("notice", NOTICE)
notice = importlib.util.module_from_spec(spec)
spec.loader.exec_module(notice)


class Metadata(BaseHTTPRequestHandler):
    """Answers as the clouds do: AWS wants a token that was asked for by PUT, Google its header."""

    answers: dict[str, str]
    statuses: list[int]
    asked: list[str]

    def do_PUT(self):
        self.answer("secret" if self.headers["X-aws-ec2-metadata-token-ttl-seconds"] else None)

    def do_GET(self):
        allowed = "secret" in self.headers.values() or self.headers["Metadata-Flavor"] == "Google"
        self.answer(self.answers.get(self.path) if allowed else "", 200 if allowed else 401)

    def answer(self, text, status=200):
        self.asked.append(self.path)
        own = 404 if text is None else status
        self.send_response(self.statuses.pop(0) if self.statuses else own)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def service(monkeypatch):
    """Base address, and what it answers by path, statuses that its next answers have instead, and what was asked."""
    handler = type("Handler", (Metadata,), {"answers": {}, "statuses": [], "asked": []})
    monkeypatch.setattr(notice, "ANSWER_S", 60.0)  # the server's thread shares busy cores
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


def in_seconds(seconds):
    when = datetime.now(UTC) + timedelta(seconds=seconds)
    return json.dumps({"action": "terminate", "time": when.strftime("%Y-%m-%dT%H:%M:%SZ")})


def test_aws_says_when_google_says_that(service):
    base, answers = service[0], service[1].answers
    assert notice.aws_grace_s(base) is None and notice.gcp_grace_s(base) is None
    answers["/meta-data/spot/instance-action"], answers["/instance/preempted"] = in_seconds(120), "FALSE"
    end = datetime.fromisoformat(json.loads(answers["/meta-data/spot/instance-action"])["time"])
    before, grace_s, after = datetime.now(UTC), notice.aws_grace_s(base), datetime.now(UTC)
    assert (end - after).total_seconds() <= grace_s <= (end - before).total_seconds() <= 120
    assert notice.gcp_grace_s(base) is None
    answers["/meta-data/spot/instance-action"], answers["/instance/preempted"] = in_seconds(-9), "TRUE\n"
    assert notice.aws_grace_s(base) == 0.0 and notice.gcp_grace_s(base) == 30.0


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_notice_drains_this_node_also_after_failures(cloud, service, tmp_path, monkeypatch, capsys):
    """The service fails twice, says nonsense and `ray` fails once; nothing is drained before there is a notice."""
    base, cloud_says = service
    answers = cloud_says.answers
    notes = tmp_path / "notes"
    notes.touch()
    ray = tmp_path / "ray"
    ray.write_text(f'#!/bin/bash\necho "$@" >> {notes}\n[ $(wc -l < {notes}) -gt 1 ]\n')
    ray.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(notice, "node_id", lambda: NODE)
    cloud_says.statuses += [500, 500]
    answers["/meta-data/spot/instance-action"] = "[1]"  # no mapping
    watcher = threading.Thread(target=notice.watch, args=(cloud, base, 0.05), daemon=True)
    watcher.start()
    deadline = time.monotonic() + 30
    while len(cloud_says.asked) < 8 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert watcher.is_alive() and not notes.read_text() and not cloud_says.statuses
    announced = time.monotonic()
    answers["/meta-data/spot/instance-action"], answers["/instance/preempted"] = in_seconds(100), "TRUE"
    watcher.join(timeout=30)
    assert not watcher.is_alive()
    first, second = notes.read_text().splitlines()
    wanted = (
        f"drain-node --node-id {NODE} --reason DRAIN_NODE_REASON_PREEMPTION --reason-message the cloud takes it back "
        r"--deadline-remaining-seconds (\d+)"
    )
    left_s = int(re.fullmatch(wanted, second)[1])
    least = 100 - 3 - (time.monotonic() - announced)  # whole seconds are said and drained
    assert re.fullmatch(wanted, first) and (left_s == 30 if cloud == "gcp" else least < left_s <= 100)
    said = capsys.readouterr().out
    assert said.count("HTTP Error 500") == 1 and f"node {NODE} is drained" in said


def process(name, *words):
    return SimpleNamespace(info={"name": name, "cmdline": list(words)})


def test_the_node_is_that_of_the_raylet(monkeypatch):
    running = [process("python", "--node_id=aa"), process("raylet", "/ray/raylet", f"--node_id={NODE}", "--x=1")]
    monkeypatch.setattr(notice.psutil, "process_iter", lambda _: iter(running))
    assert notice.node_id() == NODE
    running.pop()
    with pytest.raises(LookupError, match="no raylet"):
        notice.node_id()
