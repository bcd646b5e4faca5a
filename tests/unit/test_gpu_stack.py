"""The run of the GPU bench without a card and without Ray: its configuration, and tiny drawn models in every role."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import ClapConfig, ClapModel

from bench import gpu, gpu_stack
from rlloop import preflight
from rlloop.algorithms.base import load_algorithm, loss_and_metrics
from rlloop.config import build, load, resolve_rewards
from rlloop.data.rollouts import ScoredTicket, read_selected, rollout_path, write_rollouts
from rlloop.loop import records as r
from rlloop.loop.ledger import Ledger
from rlloop.loop.plan import Plan, clip_seeds
from rlloop.models.official import MODES
from rlloop.recipes.batches import GenerationData, units
from rlloop.recipes.build import build_generator, load_target
from rlloop.recipes.cohort import close_cohort
from rlloop.recipes.evaluations import evaluate
from rlloop.recipes.sampler import network_arrays
from rlloop.recipes.scorer import Scorer
from rlloop.resources import check_fits, resources
from rlloop.rewards.base import Clip
from rlloop.rewards.clap import ClapEmbedder
from rlloop.weights.catalogue import catalogue
from rlloop.weights.clap import to_laion
from tests import tiny_encoders
from tests.golden.cases import published
from tests.unit.test_bench import MODE
from tests.unit.test_mert import SIZES

ROLES = ("sampler", "scorer", "trainer", "evaluation")
ON_THE_CPU = [f"{role}.{setting}" for role in ROLES for setting in ("num_gpus=0", "threads=1")]
# A second of sound, the shortest that a reward scores; the ears' outputs are as wide as TuneJury's head expects.
SECOND = replace(
    MODE, spec=replace(MODE.spec, network=replace(MODE.spec.network, latent_seq_len=500), clip_seconds=1.0)
)
CLAP = ClapConfig(**{**tiny_encoders.clap_config().to_dict(), "projection_dim": 512})
MERT = {**SIZES, "hidden_size": 1024, "num_attention_heads": 16}


def noise(seed: int, prompt: str = "slow strings") -> Clip:
    wave = 0.1 * np.random.default_rng(seed).standard_normal(24_000, dtype=np.float32)
    return Clip(wave, 24_000, prompt)


def small_run(folder, *overrides):
    """The configuration of the bench's run with tiny models on the CPU."""
    sections = load("one_gpu", [*gpu.run_overrides(folder), *ON_THE_CPU, *overrides]).model_dump()
    sections["generator"]["options"] = {"mode": SECOND}
    options = {"tunejury": {"clap": CLAP, "mert_sizes": MERT}, "clap_score": {"clap": CLAP}}
    sections["scorer"]["rewards"] = [
        {"name": name, "target": f"bench.gpu_stack:{name}", "options": each} for name, each in options.items()
    ]
    return build(sections)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_the_run_passes_every_check_before_the_start_and_fits_one_card(tmp_path):
    config = load("one_gpu", gpu.run_overrides(tmp_path))
    preflight.check(config, {"RAY_ADDRESS": "this machine is not looked at"})
    assert check_fits(resources(config), cpus=4, gpus=1) is None
    assert "there are 0.9" in str(check_fits(resources(config), cpus=4, gpus=0.9))


def test_the_run_is_short_and_of_drawn_models_alone(tmp_path):
    config = load("one_gpu", gpu.run_overrides(tmp_path))
    plan = Plan.from_config(config)
    assert config.run_dir == str(tmp_path)
    assert (plan.num_tickets, config.sampler.clips_per_prompt, plan.required_versions()) == (16, 4, [0, 2])
    assert [plan.steps_of(k) for k in range(plan.num_versions)] == [4, 4]
    assert (config.evaluation.num_prompts, config.evaluation.seeds_per_prompt) == (2, 1)
    assert not config.evaluation.in_between
    assert config.generator.target == "bench.gpu_stack:generator" and config.generator.dtype == "bfloat16"
    for rewards in (config.scorer.rewards, config.evaluation.scores):
        targets = [reward.target for reward in resolve_rewards(rewards, config)]
        assert targets == ["bench.gpu_stack:tunejury", "bench.gpu_stack:clap_score"]


def test_drawn_models_have_the_published_sizes(monkeypatch):
    with torch.device("meta"):
        head, mert, clap = gpu_stack.TuneJuryHead(gpu_stack.HEAD), gpu_stack.mert("meta"), gpu_stack.DrawnClap("meta")
    assert {key: str(tuple(value.shape)) for key, value in head.state_dict().items()} == published("tunejury")
    fused = {key: ",".join(map(str, value.shape)) for key, value in to_laion(clap.model.state_dict()).items()}
    assert fused.items() <= published("laion_clap").items()
    state = {key: tuple(value.shape) for key, value in mert.model.state_dict().items()}
    weights = catalogue()["mert_v1_330m"].files[0]
    assert weights.holds.items() <= state.items() and "encoder.layers.24.final_layer_norm.weight" not in state
    assert 4 * sum(map(np.prod, state.values())) == pytest.approx(weights.about_bytes, rel=0.005)
    monkeypatch.setattr(gpu_stack, "make_generator", lambda mode: mode)  # drawing 120 million weights takes seconds
    assert gpu_stack.generator() is MODES["44k"]


def test_a_drawn_clap_has_all_that_a_loaded_one_has_but_a_tokenizer(tmp_path):
    torch.save(to_laion(ClapModel(tiny_encoders.clap_config()).state_dict()), tmp_path / "clap.pt")
    folder = tiny_encoders.make_clap_tokenizer(tmp_path / "tokenizer")
    loaded = ClapEmbedder(tmp_path / "clap.pt", folder, "cpu", config=tiny_encoders.clap_config())
    drawn = gpu_stack.DrawnClap("cpu", config=tiny_encoders.clap_config())
    assert vars(loaded).keys() - vars(drawn).keys() == {"tokenizer"}
    for name in ("crop", "seed", "quantise", "batch_size", "dim"):
        assert getattr(loaded, name) == getattr(drawn, name)


def test_a_drawn_clap_score_is_the_cosine_of_the_clip_and_one_vector():
    reward, clip = gpu_stack.clap_score("cpu", clap=CLAP), noise(0)
    heard = reward.embedder.audio([clip.audio], [clip.sample_rate_hz])[0]
    assert heard.norm() == pytest.approx(1, abs=1e-5)
    (score,) = reward.score([clip])
    assert score.value == pytest.approx(heard.sum().item() / 512**0.5, abs=1e-6) and score.value != 0
    assert gpu_stack.clap_score("cpu", clap=CLAP).score([clip])[0].value == pytest.approx(score.value, abs=1e-6)


def test_a_drawn_tunejury_scores_clips_alike_wherever_it_is_drawn():
    first, again = (gpu_stack.tunejury("cpu", clap=CLAP, mert_sizes=MERT) for _ in range(2))
    here, there = first.score([noise(0), noise(1)]), again.score([noise(1)])
    assert all(score.reason is None for score in here)
    assert here[1].value == pytest.approx(there[0].value, rel=1e-5) and here[0].value != pytest.approx(here[1].value)


def test_one_generation_of_the_run_with_tiny_models(tmp_path):
    """What sampler, scorer, buffer, trainer and evaluator do in turn, each with what the configuration names."""
    config = small_run(tmp_path, "stages.0.tickets=2", "sampling.num_steps=2", "evaluation.sampling.num_steps=2")
    plan, stage = Plan.from_config(config), config.stages[0]
    generator = build_generator(config)
    sampler = load_target(config.sampler.target)(config, config.sampler)
    assert next(sampler.generator.network.final_layer.parameters()).dtype == torch.bfloat16
    sampler.load(network_arrays(generator.network), 0, plan.variant_of(0))
    pool = config.scorer.all_pools["scorer"]
    scorer = load_target(pool.target)(config, pool.rewards, pool.threads, has_gpu=False)
    ledger = Ledger(plan)
    for ticket in plan.generations[0].tickets:
        seeds = clip_seeds(config.seed, ticket, 4)
        drawn = sampler.sample(["slow strings"] * 4, seeds, config.sampling)
        assert drawn.audio.shape == (4, 16_000) and drawn.sample_rate_hz == 16_000
        scores, reasons = scorer.score(drawn.audio, drawn.sample_rate_hz, ["slow strings"] * 4)
        assert reasons == [{}] * 4 and len({each["clap_score"] for each in scores}) == 4
        rollouts = ScoredTicket(ticket, 0, "slow strings", seeds, drawn.latents, scores)
        write_rollouts(rollout_path(tmp_path, ticket), rollouts)
        kept = tuple(r.RolloutRecord(n, *each) for n, each in enumerate(zip(seeds, scores, strict=True)))
        ledger.apply(r.Buffered(ticket, 0, kept))
    algorithm = load_algorithm(stage.algorithm, stage.options)
    selected = close_cohort(ledger, 0, algorithm)
    assert len(selected.examples) == 2 and not selected.stopped
    rows = read_selected(tmp_path, selected.examples, selected.advantages, stage.label_score)
    assert all(row.score is not None for row in rows)
    data = GenerationData(config, plan, 0, generator, {"current": units(rows, algorithm.takes_pairs)}, None)
    (batch,) = data.micro_batches(0, stage.phases[0], 0, 1)
    assert batch.latents.shape == (4, 500, 4)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = loss_and_metrics(algorithm, generator.network, batch)
    loss.backward()
    assert 0 < loss.item() < 1e3
    gradient = [p.grad.norm() for p in generator.network.parameters() if p.grad is not None]
    assert torch.stack(gradient).isfinite().all() and max(gradient) > 0
    judge = Scorer(config, config.evaluation.scores, 1, has_gpu=False)
    prompts = ["slow strings", "loud drums"]
    found = evaluate(sampler, judge, prompts, config, tmp_path, 1, stage.name, lambda *progress: None)
    assert {name: np.shape(rows) for name, rows in found.scores.items()} == {"tunejury": (2, 1), "clap_score": (2, 1)}
    assert None not in np.ravel(list(found.scores.values())).tolist() and len(found.audio) == 2
