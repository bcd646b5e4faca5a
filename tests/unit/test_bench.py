"""The benches on tiny sizes: that they run, and that a section replaces its own and nothing else."""

import re
from dataclasses import replace

import numpy as np
import torch

from bench import alarm
from bench.results import replace_section, write_section
from bench.sampling import flops, main, make_generator
from rlloop.models.policy import SamplingSettings
from tests.unit.test_official import TINY

MODE = replace(TINY, spec=replace(TINY.spec, network=replace(TINY.spec.network, depth=2)))


def test_every_row_of_the_alarms_bench_has_a_seed_of_its_own():
    """Random policies: the counts of rows are of other curves, and the same rows come again."""
    rng = np.random.default_rng(0)
    scores = {name: rng.standard_normal((6, 5, 2)) for name in (alarm.REWARD, *alarm.SCORES)}
    policies = alarm.Policies(scores, rng.standard_normal((6, 5, 2, 3)), [[0, 1, 2], [3, 4, 5]])
    rows = [(length, null, name) for length in alarm.LENGTHS for null in alarm.NULLS for name in alarm.WATCHED]
    first = {alarm.row_generator(*row).integers(2**62) for row in rows}
    assert len(first) == len(rows)
    again = {alarm.row_generator(*row).integers(2**62) for row in reversed(rows)}
    assert again == first
    curves = [alarm.dealt(policies, 4, alarm.row_generator(4, "dealt", name))[1] for name in alarm.WATCHED]
    assert not np.array_equal(*curves)


def test_a_section_replaces_its_own_and_nothing_else(tmp_path):
    path = tmp_path / "results.md"
    for title, body in (("One", "first"), ("Two", "second"), ("One", "again\n\n### not a section\n")):
        write_section(title, body, path)
    assert path.read_text().endswith("## One\n\nagain\n\n### not a section\n\n## Two\n\nsecond\n")
    assert replace_section(path.read_text(), "Two", "second") == path.read_text()


def test_flops_of_a_product_and_a_convolution():
    a, b = torch.zeros(3, 5), torch.zeros(5, 7)
    assert flops(lambda: a @ b) == 2 * 3 * 5 * 7
    signal, kernel = torch.zeros(1, 4, 10), torch.zeros(6, 4, 3)
    assert flops(lambda: torch.conv1d(signal, kernel, padding=1)) == 2 * 10 * 6 * 4 * 3
    q, k, v = torch.zeros(3, 1, 2, 8, 4)
    assert flops(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v)) == 2 * 2 * 2 * 8 * 8 * 4


def test_the_arithmetic_of_a_sampling_grows_with_its_steps_and_branches():
    generator = make_generator(MODE)

    def count(num_steps: int, guidance: float) -> float:
        settings = SamplingSettings(num_steps=num_steps, guidance=guidance)
        return flops(lambda: generator.sample_latents(["x"], [1], settings))

    one, two, guided = count(1, 0.0), count(2, 0.0), count(1, 4.0)
    step = two - one
    assert step > 0 and abs(guided - 2 * one) < 0.05 * one and count(4, 0.0) == one + 3 * step


def test_the_sampling_bench_fills_its_section(tmp_path):
    out = tmp_path / "results.md"
    threads = str(torch.get_num_threads())
    with torch.compiler.set_stance("force_eager"):  # tests/unit/test_policy.py compiles
        main(["--steps", "1", "--threads", threads, "--out", str(out)], MODE)
    text = out.read_text()
    assert "## Sampling on the CPU" in text and re.search(r"ratio \*\*\d+\.\d\d\*\*", text)
    row = r"^\| (float32|bfloat16), (eager|compiled) \| [\d.]+ \| [\d.]+ \| \d* \| ([\d.e+-]+) \|$"
    settings = re.findall(row, text, re.M)
    assert len(settings) == 4 and float(settings[0][2]) == 0 and float(settings[1][2]) > 1e-4
    shares = re.findall(r"^\| \| (?:transformer|autoencoder|vocoder) \| [\d.]+ \| (\d+)% \|", text, re.M)
    assert len(shares) == 3 and abs(sum(map(int, shares)) - 100) <= 1
