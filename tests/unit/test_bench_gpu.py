"""The GPU bench on the CPU with tiny sizes: every part runs, fills its table, and what breaks costs its own part."""

import re

import numpy as np
import pytest
import torch

from bench import gpu
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
    return gpu.Card(torch.device("cpu"), **{**settings, "rewards": {"level": Level}, **changes})


def test_every_part_fills_its_table(tmp_path):
    out = tmp_path / "results_gpu.md"
    with torch.compiler.set_stance("force_eager"):
        gpu.run(card(), list(gpu.PARTS), out, "python -m bench.gpu")
    text = out.read_text()
    assert "## CPU" in text and "Failed" not in text
    assert "| golden crpo, CPU |" in text and "FAIL" not in text
    assert re.search(r"solver steps in bfloat16 on the card .* \| pass \|", text)
    assert len(re.findall(r"^\| (?:float32|TF32|bfloat16), (?:plain|compiled) \| \d \| [\d.]+ \|", text, re.M)) == 7
    assert re.search(r"^\| level \| [\d.]+ \| [\d.]+ \| \*\*[\d.]+\*\* \|", text, re.M)
    assert "Left out: no card." in text


def test_a_part_that_breaks_or_finds_no_time_says_so_and_the_others_count(tmp_path):
    def broken():
        raise RuntimeError("no such weights")

    out = tmp_path / "results_gpu.md"
    gpu.run(card(rewards={"broken": broken}), ["scoring"], out, "x")
    assert "**Failed**: RuntimeError: no such weights" in out.read_text()
    gpu.run(card(deadline=0.0), ["sampling", "scoring"], out, "x")
    assert out.read_text().count("left out") == 5


def test_the_share_of_the_peak_is_of_the_card_and_the_arithmetic(monkeypatch):
    monkeypatch.setattr(gpu.Card, "name", "NVIDIA H100 80GB HBM3")
    assert card().share(98.9e12, "bfloat16") == "10.0%" and card().share(6.7e12, "float32") == "10.0%"
    monkeypatch.setattr(gpu.Card, "name", "NVIDIA Unheard-of 9")
    assert card().share(1e12, "float32") == ""


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
