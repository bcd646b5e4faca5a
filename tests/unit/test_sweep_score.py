"""`rlloop sweep-score`: the same seeds at every s, distances of one n, and the plot."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from rlloop.commands.main import app
from rlloop.commands.sweep_score import parse
from rlloop.config import build, load
from rlloop.loop import checkpoints
from rlloop.recipes.evaluations import evaluation_seeds
from rlloop.recipes.sampler import Sample, Sampler, network_arrays
from rlloop.recipes.score_sweep import load_policy, sweep, sweep_figure
from rlloop.views.evaluation import sweep_table

RATE = 16_000
TEXT = "{http://www.w3.org/2000/svg}text"
FAKES = {
    "scorer": {"rewards": ["tests.fakes:Loudness"]},
    "evaluation": {
        "num_prompts": 3, "seeds_per_prompt": 2, "batch": 4, "scores": ["tests.fakes:Loudness", "tests.fakes:Softness"]
    },
    "stages": [{"name": "a", "label_score": "Loudness", "selection": {"rank_by": {"Loudness": 1.0}}}],
}  # fmt: skip


class NoisePolicy:
    """Noise of the clip's seed above a level of 0.01 s; `silent` (s, seed) is silence. Keeps what it was asked for."""

    def __init__(self, silent=()):
        self.silent, self.asked = silent, []

    def sample(self, prompts, seeds, sampling):
        self.asked += [(sampling.score, prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        waves = [self.wave(seed, sampling.score) for seed in seeds]
        return Sample(np.zeros((len(seeds), 8, 4), np.float16), np.stack(waves).astype(np.float32), RATE)

    def wave(self, seed, s):
        noise = np.random.default_rng(seed).uniform(-0.1, 0.1, int(1.5 * RATE))
        return 0 * noise if (s, seed) in self.silent else noise + 0.01 * (s or 0.0)


def swept(scores, policy, target="mini"):
    return sweep(build({**FAKES, "generator": {"target": target}}), scores, policy, lambda n: None)


def panels(found) -> list[str]:
    """Titles of the plot's panels; parsing it is the proof that it is XML."""
    return [e.text for e in ElementTree.fromstring(sweep_figure(found)).iter(TEXT) if e.get("font-weight") == "bold"]


def test_every_s_has_the_same_prompts_and_seeds_those_of_the_evaluations():
    policy = NoisePolicy()
    swept([None, 0.0, 2.0], policy)
    asked = {s: [(prompt, seed) for of, prompt, seed in policy.asked if of == s] for s in (None, 0.0, 2.0)}
    assert asked[None] == asked[0.0] == asked[2.0] and len({prompt for prompt, _ in asked[0.0]}) == 3
    assert [seed for _, seed in asked[0.0]] == sum(evaluation_seeds(3, 2), [])


def test_one_panel_a_score_and_distance_and_a_table():
    found = swept([0.0, 1.0, 2.0], NoisePolicy())
    assert found["spearman"]["Loudness"]["rho"] == 1.0 and found["notes"] == []
    assert [title.split(" (")[0] for title in panels(found)] == ["Loudness", "Softness", "frechet_mini"]
    assert {row["distances"]["frechet_mini"]["n"] for row in found["points"]} == {6}
    assert sweep_table(found).row_count == 4


def test_a_clip_that_is_silent_at_one_s_leaves_the_distance_at_every_s():
    """The others' distance is that of a sweep in which the pair is silent throughout."""
    seed = evaluation_seeds(3, 2)[1][0]
    found = swept([0.0, 1.0], NoisePolicy(silent=[(1.0, seed)]))
    assert "over the 5 of 6 pairs" in found["notes"][0] and "silent" in found["notes"][0]
    throughout = swept([0.0, 1.0], NoisePolicy(silent=[(0.0, seed), (1.0, seed)]))
    for row, expected in zip(found["points"], throughout["points"], strict=True):
        far = row["distances"]["frechet_mini"]
        assert far == {"value": pytest.approx(expected["distances"]["frechet_mini"]["value"], rel=1e-6), "n": 5}


def test_nothing_to_hear_leaves_scores_alone():
    policy = NoisePolicy(silent=[(1.0, seed) for seed in sum(evaluation_seeds(3, 2), [])])
    found = swept([0.0, 1.0], policy)
    assert all(row["distances"] == {} for row in found["points"]) and "over the 0 of 6 pairs" in found["notes"][0]
    assert found["points"][0]["scores"]["Loudness"]["num_prompts"] == 3 and len(panels(found)) == 2


def test_another_generator_is_not_measured_from_the_mini_reference():
    found = swept([0.0, 1.0], NoisePolicy(), target="tests.fakes:tiny_generator")
    assert all(row["distances"] == {} for row in found["points"])
    assert found["notes"][0].startswith("no distance: the generator is tests.fakes:tiny_generator")


def test_without_any_value_of_s_the_plot_says_so():
    assert panels(swept([None], NoisePolicy())) == ["no point has a score s"]


def test_a_checkpoint_is_what_is_sampled(tmp_path):
    config = load("tests/fake.yaml")
    sampler = Sampler(config, config.evaluation)
    arrays = network_arrays(sampler.generator.network)
    save_file({name: array + 1 for name, array in arrays.items()}, tmp_path / "weights.safetensors")
    load_policy(sampler, tmp_path)
    found = network_arrays(sampler.generator.network)
    assert all(np.array_equal(found[name], array + 1) for name, array in arrays.items())
    run = tmp_path / "run"  # whose result is version 1 of 2
    for version, added in ((1, 3), (2, 5)):
        folder = checkpoints.folder(run, version)
        checkpoints.write_arrays(folder / checkpoints.WEIGHTS, {name: a + added for name, a in arrays.items()})
        checkpoints.write_marker(
            folder, version=version, step=0, stage=0, digest="", world_size=1, weights_checksum=0, variant="v2"
        )
    (run / "summary.json").write_text(json.dumps({"policy_versions": 2, "result_version": 1}))
    assert load_policy(sampler, run) == checkpoints.folder(run, 1) / checkpoints.WEIGHTS
    assert sampler.generator.network.spec.score_variant == "v2"  # as the run's stages left it
    found = network_arrays(sampler.generator.network)
    assert all(np.array_equal(found[name], array + 3) for name, array in arrays.items())
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="give a checkpoint's folder"):
            load_policy(sampler, path)


def test_the_command_writes_figures_and_a_plot(tmp_path):
    arguments = ["sweep-score", "--config", "tests/fake.yaml", "--scores", "none,0,1,2", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert [row["s"] for row in found["points"]] == [None, 0.0, 1.0, 2.0]
    assert found["spearman"]["Loudness"]["num_prompts"] == found["points"][1]["scores"]["Loudness"]["num_prompts"] > 1
    assert ElementTree.parse(tmp_path / "sweep.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert "Spearman" in done.output and "note: no distance: the generator is tests.fakes" in done.output


def test_what_a_run_stored_is_trusted_by_its_own_word(tmp_path):
    """The report says to give it as --config; whose run that is nobody knows."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(load("tests/fake.yaml").model_dump_json())
    asked = ["sweep-score", "--config", str(tmp_path / "config.json"), "--scores", "1", "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code == 2 and not (tmp_path / "out").exists()
    assert "config.json: its configuration names code that would be run, generator.target tests.f" in refused.stderr
    trusted = CliRunner().invoke(app, [*asked, "--trust-code"])
    assert trusted.exit_code == 0 and "code that is run: generator.target tests.fakes:tiny" in trusted.stderr


def test_values_of_s():
    assert parse("none, 0,1.5") == [None, 0.0, 1.5]
    for text, message in (
        ("0,a", "'a' is no number"),
        ("nan", "'nan' is no score"),
        ("1,1", "2 values"),
        ("", "0 val"),
    ):
        with pytest.raises(ValueError, match=message):
            parse(text)
