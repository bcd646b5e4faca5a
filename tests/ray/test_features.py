"""`rlloop features` end to end: Ray Data, the encoders in an actor, Parquet, and a second run that computes nothing."""

import os
import subprocess
import sys

import pytest
import torch

from rlloop.data.prompts import read_prompts
from rlloop.models.clap_text import ClapText
from rlloop.models.prompt_table import PromptTable
from rlloop.models.t5 import FlanT5
from tests import tiny_encoders
from tests.ray.runs import REPOSITORY

pytestmark = pytest.mark.ray
PREFIX = "high quality instrumental music, "


def features(path, out, encoders, *options):
    """Runs the command; returns what it finished with and printed."""
    given = [f"--{name}={folder}" for name, folder in encoders.items()]
    return subprocess.run(
        [sys.executable, "-m", "rlloop.commands.main", "features", str(path), "--out", str(out), *given, *options],
        capture_output=True, text=True, cwd=REPOSITORY, env={**os.environ, "HF_HUB_OFFLINE": "1"}, timeout=240,
    )  # fmt: skip


def times(out):
    return {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


def test_every_prompt_is_computed_once(tmp_path):
    encoders, out, path = tiny_encoders.make_all(tmp_path / "encoders"), tmp_path / "out", tmp_path / "prompts.tsv"
    rows = [f"{n}\tslow jazz number {n % 36}\n" for n in range(44)]
    path.write_text("id\tcaption\n" + "".join(rows))
    options = ("--column=caption", f"--prefix={PREFIX}", "--prefix=", "--batch=8", "--negative=noise")

    first = features(path, out, encoders, *options)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(f"features of 73 distinct prompts in {out}: 0 were there, 73 computed, 0 failed")
    assert "73 of 73 prompts" in first.stderr
    assert len(list(out.glob("shard-*"))) == 1 and not list(out.glob("part-*")) and not list(out.glob("*.tmp"))

    captions = read_prompts(path, "caption")
    table, prompts = PromptTable(out), [*captions, *(PREFIX + caption for caption in captions), "noise"]
    assert len(table) == 73 == len(prompts)
    found = table.encode(prompts)
    direct = FlanT5(encoders["t5"]).encode(prompts)
    torch.testing.assert_close(found["text"], direct, atol=1e-6, rtol=0)
    direct = ClapText(encoders["clap"], encoders["tokenizer"]).encode(prompts)
    torch.testing.assert_close(found["text_c"], direct, atol=1e-6, rtol=0)

    before = times(out)
    second = features(path, out, encoders, *options)
    assert second.returncode == 0 and "73 were there, 0 computed" in second.stdout
    assert times(out) == before
    assert "Ray" not in second.stderr  # it was not even started
