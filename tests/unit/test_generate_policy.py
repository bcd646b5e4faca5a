"""`rlloop generate`: whose weights and sampling it draws with: bundled, of a run, of its copy, of an exported file.

Apart from tests/unit/test_generate.py because these need a run or a published stack, not only a prompt.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from rlloop.commands.main import app
from rlloop.config import Sampling, build, load
from rlloop.data.features import FeatureFolder, FeatureSpec
from rlloop.loop import checkpoints
from rlloop.loop import records as r
from rlloop.loop.journal import Journal
from rlloop.recipes.generate_settings import check_features, unused_negative
from rlloop.recipes.policy_source import file_policy
from rlloop.recipes.run_copy import RunCopy
from rlloop.recipes.sampler import Sampler, network_arrays
from tests.unit.generating import FAKE, generate, lines


def test_the_mini_stack_draws_other_lengths_and_exported_weights(tmp_path):
    from rlloop.recipes.export_weights import export

    sampler = Sampler(load("mini"), load("mini").sampler)
    arrays = network_arrays(sampler.generator.network)
    arrays["final_layer.conv.bias"] = arrays["final_layer.conv.bias"] + 0.5
    run = tmp_path / "run"
    store(run, 3, arrays, variant="v1")
    (run / "config.json").write_text(load("mini").model_dump_json())
    export(run, tmp_path / "trained.pt")
    plain = ["drums", "--steps", 2, "--format", "flac", "--seconds", 2]
    generate(*plain, "--out", tmp_path / "bundled")
    generate(*plain, "--out", tmp_path / "run_out", "--run", run)
    generate(*plain, "--out", tmp_path / "file_out", "--weights", tmp_path / "trained.pt")
    name = "drums-s0.flac"
    bundled, of_run, of_file = (
        soundfile.read(tmp_path / folder / name)[0] for folder in ("bundled", "run_out", "file_out")
    )
    assert len(bundled) == 32_000 and np.array_equal(of_run, of_file) and np.abs(of_run - bundled).max() > 0.01
    assert lines(tmp_path / "run_out")[0]["version"] == 3


def store(run: Path, version: int, arrays, variant=None) -> Path:
    folder = checkpoints.folder(run, version)
    checkpoints.write_arrays(folder / checkpoints.WEIGHTS, arrays)
    checkpoints.write_marker(
        folder, version=version, step=0, stage=0, digest="", world_size=1, weights_checksum=version, variant=variant
    )
    return folder


def test_a_run_gives_its_result_another_version_or_one_checkpoint(tmp_path):
    config = load("tests/fake.yaml")
    arrays = network_arrays(Sampler(config, config.sampler).generator.network)
    run = tmp_path / "run"
    folders = {v: store(run, v, {name: array * (1 + 0.1 * v) for name, array in arrays.items()}) for v in (0, 1, 2)}
    (run / "config.json").write_text(config.model_dump_json())
    (run / "summary.json").write_text(json.dumps({"policy_versions": 2, "result_version": 1}))
    refused = generate("x", "--run", run, "--out", tmp_path / "none", status=2)
    assert (
        "names code that would be run, generator.target tests.fakes:tiny_generator and 3 more; give --trust" in refused
    )
    assert not (tmp_path / "none").exists()
    asked = {"result": ["--run", run], "two": ["--run", run, "--version", 2], "folder": ["--run", folders[1]],
             "zero": ["--run", run, "--version", 0], "built": FAKE}  # fmt: skip
    found, versions = {}, {}
    for name, options in asked.items():
        said = generate("x", *options, "--trust-code", "--out", tmp_path / name)
        assert ("note: the configuration names code that is run: generator.target tests." in said) == (name != "built")
        found[name] = soundfile.read(tmp_path / name / "x-s0.wav")[0]
        versions[name] = lines(tmp_path / name)[0]["version"]
    assert versions == {"result": 1, "two": 2, "folder": 1, "zero": 0, "built": None}
    assert np.array_equal(found["result"], found["folder"]) and np.array_equal(found["zero"], found["built"])
    assert not np.array_equal(found["result"], found["two"]) and not np.array_equal(found["result"], found["zero"])
    assert "made with weights" in generate(
        "x", "--run", run, "--version", 2, "--trust-code", "--out", tmp_path / "zero", status=2
    )


def test_a_run_samples_as_it_was_evaluated(tmp_path):
    raw = load("tests/fake.yaml").model_dump()
    raw["sampling"]["score"], raw["evaluation"]["sampling"] = 2.0, raw["sampling"] | {"score": 5.0, "num_steps": 3}
    config = build(raw)
    run = tmp_path / "run"
    store(run, 0, network_arrays(Sampler(config, config.sampler).generator.network))
    (run / "config.json").write_text(config.model_dump_json())
    asked = ["x", "--run", run, "--trust-code", "--out", tmp_path / "out"]
    for more, expected in (([], (5.0, 3)), (["--score", 1], (1.0, 3)), (FAKE, (1.0, 4))):
        generate(*asked, *more, "--overwrite")
        sampling = lines(tmp_path / "out")[0]["settings"]["sampling"]
        assert (sampling["score"], sampling["num_steps"]) == expected


def test_the_paper_is_evaluated_and_submitted_with_the_published_sampling():
    """reference.md section 10: 25 Euler steps, guidance 4, s = 5, the prefix and the negative prompt."""
    paper, published = load("paper"), load("official").sampling
    assert (published.solver, published.num_steps, published.guidance, published.score) == ("euler", 25, 4.0, 5.0)
    assert paper.evaluation.sampling == published and paper.sampling == published.model_copy(update={"score": 2.0})


def test_a_run_s_copy_is_generated_from_and_exported(tmp_path):
    sampler = Sampler(load("mini"), load("mini").sampler)
    run, uri = tmp_path / "run", f"file://{tmp_path}/there/run"
    store(run, 3, network_arrays(sampler.generator.network), variant="v1")
    (run / "config.json").write_text(load("mini").model_dump_json())
    (run / "epochs").mkdir()
    Journal(run / "journal" / "journal.log").append(r.EpochBegan(1))
    RunCopy(uri).update(run, 1, "d" * 64)
    plain = ["drums", "--steps", 1, "--seconds", 1]
    said = generate(*plain, "--run", uri, "--out", tmp_path / "out")
    assert f"with {uri}, version 3" in said and lines(tmp_path / "out")[0]["version"] == 3
    done = CliRunner().invoke(app, ["weights", "export", uri, str(tmp_path / "trained.pt")])
    assert done.exit_code == 0 and (tmp_path / "trained.pt").is_file(), done.output
    asked = ["sweep-score", "--weights", f"{uri}-none", "--scores", "1", "--out", str(tmp_path / "sweep")]
    assert f"{uri}-none holds no copy of a run" in CliRunner().invoke(app, asked).output
    assert "is fetched to this machine alone" in generate(*plain, "--run", uri, "--actors", 1, status=2)
    assert f"{uri}-none holds no copy of a run" in generate(*plain, "--run", f"{uri}-none", status=2)


def test_a_negative_prompt_that_nothing_hears_is_noted(tmp_path):
    asked = ["x", *FAKE, "--out", tmp_path, "--overwrite", "--negative", "noise"]
    said = generate(*asked, "--guidance", 0)
    assert "rlloop: note: --negative has no effect at guidance 0; add --guidance 3" in said.splitlines()
    assert "no effect" not in generate(*asked, "--guidance", 3)
    assert "no effect" not in generate("x", *FAKE, "--out", tmp_path, "--overwrite", "--guidance", 0)
    annealed = Sampling(guidance=0.5, guidance_end=2.0)
    assert unused_negative("noise", annealed) == ""


def test_the_official_stack_is_built_with_exported_weights(tmp_path):
    file = tmp_path / "trained.pt"
    file.write_bytes(b"weights")
    config, policy = file_policy(str(file), load("official"))
    assert config.generator.options["network"] == str(file) and config.generator.options["variant"] == "v2"
    (tmp_path / "trained.json").write_text('{"network": {"score_variant": "v4"}}')
    config, other = file_policy(str(file), load("official"))
    assert config.generator.options["variant"] == "v4" and policy.identity != other.identity
    assert other.file is None and other.version is None  # nothing is loaded over it


def test_the_official_stack_has_features_of_all_prompts_before_it_is_loaded(tmp_path):
    official = load("official")
    features, prefix = tmp_path / "features", official.sampling.prompt_prefix
    texts = [prefix + "a", official.sampling.negative_prompt]
    FeatureFolder(features, FeatureSpec("t5", "clap")).write(
        texts, np.zeros((2, 77, 8), np.float32), np.zeros((2, 4), np.float32)
    )
    generator = official.generator.model_copy(update={"options": {"prompts": str(features)}})
    config = official.model_copy(update={"generator": generator})
    check_features(config, ["a"])
    with pytest.raises(ValueError, match="features lacks features of 2 prompts, the first is 'high quality .* b'"):
        check_features(config, ["a", "b", "c"])
    check_features(load("mini"), ["b"])
