"""Runs `rlloop generate` in this process and reads what it leaves: for the tests of that command."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from rlloop.commands.main import app

FAKE = ["--config", "tests/fake.yaml", "--cpus", "1"]


def generate(*arguments, status=0):
    done = CliRunner().invoke(app, ["generate", *map(str, arguments)])
    assert done.exit_code == status, done.output
    return done.output


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "clips.jsonl").read_text().splitlines()]


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}
