"""The GPU bench on the CPU with tiny sizes: every part runs, fills its table, and what breaks costs its own part."""

import json
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from actors import startup
from bench import gpu
from rlloop.config import load
from rlloop.loop import records as r
from rlloop.loop.journal import encode
from rlloop.rewards.base import Score
from tests.unit.test_bench import MODE


class Level:
    """Mean loudness through a product, so that it has operations to count."""

    name = "level"

    def score(self, clips):
        waves = torch.from_numpy(np.stack([clip.audio for clip in clips]))
        return [Score(float(x)) for x in (waves.abs() @ torch.ones(waves.shape[1], 1))[:, 0]]


def card(**changes):
    settings = dict(mode=MODE, num_steps=1, batches=(1, 2), repeats=1, clip_seconds=0.1, golden=("crpo",))
    ample = time.monotonic() + 1e5
    return gpu.Card(torch.device("cpu"), **{**settings, "rewards": {"level": Level}, "deadline": ample, **changes})


def test_every_part_fills_its_table(tmp_path):
    out = tmp_path / "results_gpu.md"
    with torch.compiler.set_stance("force_eager"):
        gpu.run(card(), list(gpu.PARTS), out, "python -m bench.gpu")
    text = out.read_text()
    assert "## CPU" in text and "Failed" not in text
    assert "| golden crpo, CPU |" in text and "FAIL" not in text
    assert re.search(r"solver steps in bfloat16 on the card .* \| pass \|", text)
    assert len(re.findall(r"^\| (?:float32|TF32|bfloat16), (?:plain|compiled) \| \d \| [\d.]+ \|", text, re.M)) == 10
    assert len(re.findall(r"^\| \w+, \w+ \| 2 \|(?: [\d.]+ \|){3} +\| (?:launches|arithmetic)", text, re.M)) == 5
    # the time that making the clips takes is taken off, and on a busy machine it may be more than all
    assert re.search(r"^\| level \|( -?[\d.]+ \|){2} \*\*-?[\d.]+\*\* \|.*\| (launches|arithmetic).*\|$", text, re.M)
    assert "Left out: no card." in text


def test_a_part_that_breaks_or_finds_no_time_says_so_and_the_others_count(tmp_path):
    def broken():
        raise RuntimeError("no such weights")

    out = tmp_path / "results_gpu.md"
    gpu.run(card(rewards={"broken": broken}), ["scoring"], out, "x")
    assert "**Failed**: RuntimeError: no such weights" in out.read_text()
    gpu.run(card(deadline=0.0), ["sampling", "scoring"], out, "x")
    assert out.read_text().count("left out") == 6


def test_a_batch_that_breaks_costs_itself_and_what_it_leaves_time_for_is_kept(monkeypatch):
    made = card(batches=(1, 2, 4))
    work = gpu.setting_row

    def out_of_memory(card, generator, kind, batch, before):
        if batch == 4:
            raise torch.cuda.OutOfMemoryError("tried to allocate | 80 GiB")
        return work(card, generator, kind, batch, before)

    monkeypatch.setattr(gpu, "setting_row", out_of_memory)
    first, second, third = gpu.setting_rows(made, "bfloat16", "plain")
    assert "| 1 | " in first and "| 2 | " in second and "4 | **Failed**: OutOfMemoryError" in third
    assert len({line.count("|") for line in (first, second, third)}) == 1
    slow = card(batches=(1, 64))
    slow.__dict__["left"] = iter([100.0, 1e-6, 1e-6]).__next__  # after the first row
    _, left_out = gpu.setting_rows(slow, "float32", "plain")
    assert "| 64 | left out: 0 s" in left_out
    assert gpu.growth((1, 4, 16), 4) == 4 and gpu.growth((1, 4), 4) == 1


def test_parts_leave_later_ones_their_time(tmp_path, monkeypatch):
    seen = {}
    for name in gpu.PARTS:
        work = lambda card, name=name: seen.update({name: card.deadline}) or ""  # noqa: E731
        monkeypatch.setitem(gpu.PARTS, name, (name, work))
    gpu.run(card(deadline=1000.0), list(gpu.PARTS), tmp_path / "out.md", "x")
    assert seen == {"conformance": 655.0, "sampling": 805.0, "scoring": 850.0, "one_gpu": 1000.0}


def hand_made_run(folder, overrides):
    """Two tickets of four clips, leased from 10 s on, committed by 20 s; of one that failed later nothing counts."""
    startup.store_config(folder, load("one_gpu", [*gpu.run_overrides(folder), *overrides]))
    clips = tuple(r.RolloutRecord(n, n, {}) for n in range(4))
    told = [(r.EpochBegan(1), 1.0), (r.Leased(0, 0, 1, 0), 10.0), (r.Leased(1, 0, 1, 1), 11.0)]
    told += [(r.Buffered(n, 0, clips, 1, {"sampler": 4.0, "scorer": 0.5}), when) for n, when in ((0, 15.0), (1, 20.0))]
    told += [(r.Leased(2, 0, 1, 2), 21.0), (r.Failed(2, "died"), 30.0)]
    (folder / "journal").mkdir()
    lines = [encode({**r.to_json(record, when), "synced": 0}) for record, when in told]
    (folder / "journal" / "journal.log").write_bytes(b"".join(lines))
    shown = {"status": "finished", "reward_gain": 0.5, "policy_versions": 2}
    (folder / "summary.json").write_text(json.dumps({**shown, "ci_low": None, "alarms": [], "scores": {}}))


@pytest.mark.parametrize(
    ("overrides", "share", "idle"),
    [
        ([], "0.5%", "sampler 20%, scorer 90%"),  # 5 of an H100's 989 TFLOP/s
        (["sampler.num_actors=2", "generator.dtype=float32"], "1.0%", "sampler 60%, scorer 90%"),  # of 495, TF32
        (["generator.dtype=float32", "generator.tf32=false"], "7.5%", "sampler 20%, scorer 90%"),  # of 67
    ],
)
def test_the_run_is_told_from_its_summary_and_its_journal(tmp_path, monkeypatch, overrides, share, idle):
    hand_made_run(tmp_path, overrides)
    monkeypatch.setattr(gpu.Card, "name", "NVIDIA H100 80GB HBM3")
    made = card()
    made.__dict__["step_flops"] = 0.25e12  # 8 clips of 25 steps in 10 s: 5 TFLOP/s
    said, _, head, _, row = gpu.outcome(made, tmp_path, 41.6).splitlines()
    assert said == 'Done in 42 s: `{"status": "finished", "reward_gain": 0.5, "policy_versions": 2}`'
    assert row == f"| 8 | 10.0 | 0.80 | 5.00 | {share} | {idle} |" and head.count("|") == row.count("|")


@pytest.mark.parametrize(
    ("script", "time_s", "said"),
    [
        ("echo fine", 60, ""),
        ("echo it wants; echo 0.4 cards >&2; exit 3", 60, "**Failed** with status 3: `it wants 0.4 cards`"),
        ("echo loading; exec sleep 60", 5, "Not done within 5 s; it said last: `loading`"),
        ('test "$PYTHONPATH" = "$PWD" && test -f bench/gpu.py', 60, ""),
    ],
)
def test_a_run_that_fails_or_takes_too_long_says_its_last_words(monkeypatch, script, time_s, said):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert gpu.problem_of(["sh", "-c", script], time_s) == said


def test_the_run_is_one_of_the_preset_and_begins_only_where_there_is_time(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(gpu, "problem_of", lambda *given: asked.append(given) or "as far as this")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ample, late = card(), card(deadline=time.monotonic() + 89)
    ample.device = late.device = torch.device("cuda")
    assert gpu.one_gpu(ample) == "as far as this"
    assert re.fullmatch(r"Left out: 8\d s of the time are left\.", gpu.one_gpu(late))
    (((*program, preset), overrides, time_s),) = [(command[:5], command[5:], limit) for command, limit in asked]
    assert program == [sys.executable, "-m", "rlloop.main", "--config"] and time_s == 150
    config = load(preset, overrides)
    assert Path(config.run_dir).parent.parent == tmp_path and overrides == gpu.run_overrides(config.run_dir)


def test_without_a_card_it_refuses_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA card here"):
        gpu.main(["--out", str(tmp_path / "out.md")])
    assert not (tmp_path / "out.md").exists()


def test_the_share_of_the_peak_is_of_the_card_and_the_arithmetic(monkeypatch):
    monkeypatch.setattr(gpu.Card, "name", "NVIDIA H100 80GB HBM3")
    assert card().share(98.9e12, "bfloat16") == "10.0%" and card().share(6.7e12, "float32") == "10.0%"
    monkeypatch.setattr(gpu.Card, "name", "NVIDIA L4")
    assert card().share(12.1e12, "bfloat16") == "10.0%"
    monkeypatch.setattr(gpu.Card, "name", "NVIDIA L40")
    assert card().share(1e12, "float32") == "", "an L40 is no L4"
    monkeypatch.setattr(gpu.Card, "name", "NVIDIA Unheard-of 9")
    assert card().share(1e12, "float32") == ""


def test_scoring_that_leaves_the_card_idle_is_limited_by_what_feeds_it():
    one, many = (1, 1.0), (16, 16.0)
    assert gpu.scoring_limit(one, many, "0.4%").startswith("what feeds the card")
    assert gpu.scoring_limit(one, many, "30.0%") == gpu.scoring_limit(one, many, "") == gpu.ARITHMETIC
    assert gpu.scoring_limit(one, (16, 2.0), "0.4%").startswith("launches")


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (None, (1, 1.0), ""),
        ((1, 1.0), (4, 1.1), "launches: "),
        ((1, 1.0), (4, 2.5), "launches and"),
        ((4, 1.0), (16, 4.0), "arithmetic and"),
    ],
)
def test_what_limits_is_read_from_how_time_grows_with_the_batch(before, now, said):
    assert gpu.limit(before, now).startswith(said) and bool(gpu.limit(before, now)) == bool(said)
