"""docs/examples: each is run here as the loop would run it, without Ray; docs/plugging_in.md shows all of them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.startup import worker_environment
from rlloop.algorithms.base import Batch, load_algorithm, loss_and_metrics
from rlloop.algorithms.selection import Candidates
from rlloop.config import load, named_code
from rlloop.main import start
from rlloop.recipes.sampler import Sampler, network_arrays
from rlloop.recipes.scorer import Scorer

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples"
PROMPTS = ["calm piano", "loud drums", "calm piano"]


@pytest.fixture(autouse=True)
def examples_on_path(monkeypatch):
    """What PYTHONPATH=docs/examples does."""
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.mark.parametrize("name", ["own_generator", "own_reward", "own_algorithm"])
def test_a_run_of_the_example_passes_every_check_before_its_start(name, capsys):
    assert start(str(EXAMPLES / f"{name}.yaml"), ["run_dir=unused"], dry_run=True) == 0
    assert f"{name}:" in capsys.readouterr().out  # it names the code that it would run


def test_own_generator_samples_decodes_trains_and_takes_weights():
    config = load(EXAMPLES / "own_generator.yaml")
    sampler = Sampler(config, config.sampler)
    found = sampler.sample(PROMPTS, [1, 2, 3], config.sampling)
    assert found.latents.shape == (3, 32, 8) and found.audio.shape == (3, 32_000) and found.sample_rate_hz == 16_000
    assert np.abs(found.audio).max() <= 1
    alone = sampler.sample(PROMPTS[2:], [3], config.sampling)
    np.testing.assert_allclose(alone.latents[0], found.latents[2], atol=2e-3)  # of its own prompt and seed
    spectrum = np.abs(np.fft.rfft(sampler.decode(np.zeros((1, 32, 8)))[0]))
    np.testing.assert_allclose(spectrum[220 : 8 * 220 + 1 : 220], 1000, rtol=0.01)  # all eight voices half as loud
    assert np.delete(spectrum, range(220, 8 * 220 + 1, 220)).max() < 10  # bins are half a hertz apart: 110, 220, ... Hz

    generator, algorithm = sampler.generator, load_algorithm("expert_iteration")
    optimizer = torch.optim.AdamW(generator.network.parameters(), lr=1e-2)
    batch = batch_of(torch.from_numpy(found.latents).float(), generator.encode_prompts(PROMPTS))
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss, _ = loss_and_metrics(algorithm, generator.network, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]

    other = Sampler(config, config.sampler)
    other.load(network_arrays(generator.network), version=1)
    samples = [one.sample(PROMPTS, [1, 2, 3], config.sampling).latents for one in (sampler, other)]
    np.testing.assert_array_equal(*samples)
    assert np.abs(samples[0] - found.latents).max() > 0.01


def test_own_generator_ignores_the_text_where_there_is_none():
    config = load(EXAMPLES / "own_generator.yaml")
    generator = Sampler(config, config.sampler).generator
    null, empty = generator.null_conditions(2), generator.encode_prompts(["", ""])
    assert null.keys() == empty.keys() and all(torch.equal(null[name], empty[name]) for name in null)


def test_own_reward_measures_and_a_failed_score_is_missing():
    config = load(EXAMPLES / "own_reward.yaml")
    scorer = Scorer(config, config.scorer.rewards[:1], threads=1)
    seconds = np.arange(32_000) / 16_000
    low, high = (0.3 * np.sin(2 * np.pi * hz * seconds).astype(np.float32) for hz in (200, 2000))
    audio = np.stack([low, high, 0.5 * (low + high), np.zeros_like(low), low])
    scores, reasons = scorer.score(audio, 16_000, ["a", "a", "a", "a", "Bright bells"])
    assert [list(each) for each in scores] == [["warmth"]] * 5
    np.testing.assert_allclose([each["warmth"] for each in scores[:3]], [1, 0, 0.5], atol=1e-4)
    assert scores[3]["warmth"] is None and "silent" in reasons[3]["warmth"]
    assert scores[4]["warmth"] is None and "bright" in reasons[4]["warmth"]


def test_own_algorithm_selects_with_advantages_and_weighs_the_error():
    [stage] = load(EXAMPLES / "own_algorithm.yaml").stages
    algorithm = load_algorithm(stage.algorithm, stage.options)
    candidates = Candidates(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([1.0, 3.0, 2.0]))
    chosen = algorithm.select(candidates, stage.selection, None)
    unit = np.std([1, 3, 2])
    assert [(each.ticket, each.clip) for each in chosen] == [(0, 0), (0, 1)]  # a clip alone is better than nobody
    np.testing.assert_allclose([each.advantage for each in chosen], [-1 / unit, 1 / unit])

    def standing_still(x_t, t, conditions, score):
        return torch.zeros_like(x_t)

    # noise 0 and latents 1 and 2: the velocities sought are -1 and -2, so the errors are 1 and 4
    batch = Batch(
        latents=torch.tensor([1.0, 2.0])[:, None, None].expand(2, 3, 2),
        noise=torch.zeros(2, 3, 2),
        t=torch.full((2,), 0.5),
        conditions={},
        score=torch.zeros(2),
        advantage=torch.tensor([0.0, 0.5]),
    )
    loss, metrics = loss_and_metrics(algorithm, standing_still, batch)
    assert loss.item() == pytest.approx((1 + np.e * 4) / 2)  # exp(0.5 / 0.5) = e
    assert metrics["weight"].item() == pytest.approx((1 + np.e) / 2)


def test_a_bad_option_of_an_example_is_refused_in_one_line():
    for name, key in (
        ("own_generator", "generator.options.highest_hz"),
        ("own_reward", "scorer.rewards.0.options.above_hz"),
        ("own_algorithm", "stages.weighted.options.temperature"),
    ):
        with pytest.raises(ValueError, match=key.rpartition(".")[2]) as error:
            start(str(EXAMPLES / f"{name}.yaml"), [f"{key}=-1", "run_dir=unused"], dry_run=False)
        assert "\n" not in str(error.value)


def test_the_judge_of_own_reward_is_held_out():
    assert load(EXAMPLES / "own_reward.yaml").judges() == ["judge_mini", "frechet_mini"]


def test_the_page_shows_every_example_and_its_names_exist():
    page = (DOCS / "plugging_in.md").read_text()
    for file in sorted(EXAMPLES.glob("own_*.*")):
        assert f"examples/{file.name}" in page, file.name
    for path in re.findall(r"`((?:rlloop|tests|docs)/[\w/]+\.\w+)`", page):
        assert (DOCS.parent / path).is_file(), path
    paths = {path for file in EXAMPLES.glob("*.yaml") for _, path in named_code(load(file))}
    assert paths == {"own_generator:Voices", "own_reward:Warmth", "own_algorithm:WeightedRegression"}
    assert all(path in page for path in paths)


def test_the_folder_of_the_file_is_handed_to_every_process():
    assert worker_environment({"PYTHONPATH": "/my/code"})["PYTHONPATH"].endswith(":/my/code")
    job = json.dumps({"runtime_env": {"env_vars": {"PYTHONPATH": "/other"}}, "metadata": {}})
    found = worker_environment({"PYTHONPATH": "/my/code", "RAY_JOB_CONFIG_JSON_ENV_VAR": job})
    assert "PYTHONPATH" not in found and "TOKENIZERS_PARALLELISM" in found  # the job has said it


def test_examples_are_short():
    lengths = {file.name: len(file.read_text().splitlines()) for file in EXAMPLES.glob("*.py")}
    assert len(lengths) == 3 and max(lengths.values()) <= 60, lengths


def batch_of(latents, conditions):
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0.2, 0.8, len(latents))
    score = torch.tensor([0.5, 1.0, torch.nan])  # the last without a label
    return Batch(latents=latents, noise=noise, t=t, conditions=conditions, score=score)
