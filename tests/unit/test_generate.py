"""`rlloop generate` in one process: the same bytes, what is kept, best of N, the submission, and its refusals."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from typer.testing import CliRunner

from rlloop.audio.tagged import read_details, write_tagged
from rlloop.commands.main import app
from rlloop.config import Sampling, build, load
from rlloop.data.features import FeatureFolder, FeatureSpec
from rlloop.loop import checkpoints
from rlloop.loop import records as r
from rlloop.loop.journal import Journal
from rlloop.recipes.clip_files import list_clips
from rlloop.recipes.generate_folder import absent, difference
from rlloop.recipes.generate_request import Row, candidate_seed, is_file_name, prompt_name, request_clips
from rlloop.recipes.generate_settings import check_features, unused_negative
from rlloop.recipes.policy_source import file_policy
from rlloop.recipes.run_copy import RunCopy
from rlloop.recipes.sampler import Sampler, network_arrays

FAKE = ["--config", "tests/fake.yaml", "--cpus", "1"]
RATE, SAMPLES = 1600, 640  # of the tiny generator


class Picky:
    """A step that refuses loud clips and halves the others."""

    def __init__(self, above: float = 0.0):
        self.above = above

    def process(self, audio, sample_rate_hz):
        from rlloop.recipes.postprocess_steps import Processed

        if audio.mean() > self.above:
            raise RuntimeError("too loud for me")
        return Processed(audio / 2)


def generate(*arguments, status=0):
    done = CliRunner().invoke(app, ["generate", *map(str, arguments)])
    assert done.exit_code == status, done.output
    return done.output


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "clips.jsonl").read_text().splitlines()]


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_the_mini_stack_gives_the_same_bytes_twice_whatever_is_generated_beside(tmp_path):
    asked = ["--seed", 7, "--steps", 4, "--rewards", "tunejury_mini", "--postprocess", "loudness"]
    generate("a calm piano piece", *asked, "--out", tmp_path / "a")
    generate("a calm piano piece", "Fast drums", *asked, "--out", tmp_path / "b")
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert sorted(second) == ["a-calm-piano-piece-s7.wav", "clips.jsonl", "fast-drums-71fbd4-s8.wav"]
    assert first["a-calm-piano-piece-s7.wav"] == second["a-calm-piano-piece-s7.wav"]
    assert first["clips.jsonl"].splitlines() == second["clips.jsonl"].splitlines()[:1]
    assert soundfile.info(tmp_path / "a" / "a-calm-piano-piece-s7.wav").frames == 79_872
    row = lines(tmp_path / "a")[0]
    assert (row["prompt"], row["seed"], row["noise_seed"]) == ("a calm piano piece", 7, 7)
    assert row["scores"]["tunejury_mini"] is not None and row["postprocess"]["loudness"]["target_lufs"] == -16.5
    assert row["settings"]["sampling"]["num_steps"] == 4


def test_audio_that_is_not_finite_is_no_clip(tmp_path):
    said = generate("a calm piano piece", "--steps", 2, "--guidance", "1e30", "--out", tmp_path, status=1)
    assert "audio is not finite: the policy diverged" in said and not list(tmp_path.glob("*.wav"))
    with pytest.raises(ValueError, match="audio is not finite"):
        write_tagged(tmp_path / "x.wav", np.array([0.0, np.nan]), 1600, {})


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


def test_what_is_there_stays_and_other_settings_are_refused(tmp_path):
    out = tmp_path / "out"
    generate("a", "b", *FAKE, "--out", out)
    before = contents(out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.wav")}
    (out / "b-s1.wav").unlink()
    (out / "clips.jsonl").unlink()  # as a kill may leave it: a file short, one half written, no list
    (out / "b-s1.wav.part").write_bytes(b"RIFF")
    assert "2 clips in" in (said := generate("a", "b", *FAKE, "--out", out)) and "1 of them before" in said
    assert contents(out) == before and (out / "a-s0.wav").stat().st_mtime_ns == times[out / "a-s0.wav"]
    refused = generate("a", *FAKE, "--steps", 5, "--out", out, status=2)
    assert refused.strip() == (
        f"rlloop: {out}/a-s0.wav was made with sampling.num_steps 4, now 5; choose another --out, or --overwrite"
    )
    assert contents(out) == before
    generate("a", "c", *FAKE, "--steps", 5, "--out", out, "--overwrite")
    after = contents(out)
    assert after["a-s0.wav"] != before["a-s0.wav"] and after["b-s1.wav"] == before["b-s1.wav"]
    assert [(row["path"], row["settings"]["sampling"]["num_steps"]) for row in lines(out)] == [
        ("a-s0.wav", 5), ("b-s1.wav", 4), ("c-s1.wav", 5)
    ]  # fmt: skip
    (out / "d-s0.wav").write_bytes(b"mine")
    assert "is there and not of rlloop generate" in generate("d", *FAKE, "--out", out, status=2)
    assert (out / "d-s0.wav").read_bytes() == b"mine"


def test_the_list_is_of_what_is_there(tmp_path):
    generate("a", "b", *FAKE, "--out", tmp_path)
    (tmp_path / "a-s0.wav").unlink()
    generate("c", *FAKE, "--out", tmp_path)
    assert [row["path"] for row in lines(tmp_path)] == ["b-s1.wav", "c-s0.wav"]


def test_a_refusal_begins_no_list(tmp_path):
    config = tmp_path / "breaking.yaml"
    text = Path("tests/fake.yaml").read_text()
    options = f"options: {{marker: {tmp_path / 'marker'}}}"
    config.write_text(text.replace('"tests.fakes:tiny_generator"', f'"tests.unit.test_generate:third", {options}'))
    generate("c", "--config", config, "--out", tmp_path / "out", status=2)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("x" * 200, True), ("x" * 201, False), ("音" * 66, True), ("音" * 67, False), ("a\tb", False), ("a\x85b", False),
     ("a/b", False), ("a\\b", False), (".a", False), ("", False), ("a b", True)],
)  # fmt: skip
def test_an_id_is_a_file_name(name, is_one):
    assert is_file_name(name) == is_one


def test_an_error_halfway_keeps_what_was_made(tmp_path):
    config = tmp_path / "breaking.yaml"
    text = Path("tests/fake.yaml").read_text()
    options = f"options: {{marker: {tmp_path / 'marker'}}}"
    config.write_text(text.replace('"tests.fakes:tiny_generator"', f'"tests.unit.test_generate:third", {options}'))
    out = tmp_path / "out"
    said = generate("a", "b", "c", "--config", config, "--out", out, status=2)
    assert said.strip().endswith("rlloop: prompt 'c', seed 2: RuntimeError: planted")
    assert [row["path"] for row in lines(out)] == ["a-s0.wav", "b-s1.wav"]
    (tmp_path / "marker").touch()
    assert "2 of them before" in generate("a", "b", "c", "--config", config, "--out", out)


def third(marker: str):
    """A generator that breaks at the prompt c while the marker is absent."""
    from tests.fakes import TinyGenerator

    generator = TinyGenerator()
    sample = generator.sample_latents

    def draw(prompts, seeds, settings):
        if "c" in prompts and not Path(marker).exists():
            raise RuntimeError("planted")
        return sample(prompts, seeds, settings)

    generator.sample_latents = draw
    return generator


def test_the_best_of_its_candidates_is_kept_and_can_be_drawn_again(tmp_path):
    scored = ["--rewards", "tests.fakes:Loudness,tests.fakes:Softness"]
    generate("x", *FAKE, *scored, "--best-of", 5, "--seed", 3, "--out", tmp_path / "best")
    row = lines(tmp_path / "best")[0]
    seeds = [candidate_seed(3, n) for n in range(5)]
    assert seeds[0] == 3 and len(set(seeds)) == 5
    values = {}
    for seed in seeds:
        generate("x", *FAKE, *scored, "--seed", seed, "--out", tmp_path / "each")
        values[seed] = next(r for r in lines(tmp_path / "each") if r["seed"] == seed)["scores"]
    best = max(seeds, key=lambda seed: values[seed]["Loudness"])
    assert (row["seed"], row["noise_seed"], row["scores"]) == (3, best, values[best])
    again, _ = soundfile.read(tmp_path / "each" / f"x-s{best}.wav")
    assert np.array_equal(soundfile.read(tmp_path / "best" / "x-s3.wav")[0], again)
    worst = [*FAKE, "--rewards", "tests.unit.test_generate:Backwards", "--best-of", 5, "--seed", 3]
    generate("x", *worst, "--out", tmp_path / "worst")  # it has no score for the loudest three
    expected = sorted(seeds, key=lambda seed: values[seed]["Loudness"])[1]
    assert lines(tmp_path / "worst")[0]["noise_seed"] == expected
    generate("x", *FAKE, "--rewards", "tests.fakes:Broken", "--best-of", 2, "--out", tmp_path / "none")
    row = lines(tmp_path / "none")[0]
    assert row["noise_seed"] == 0 and row["scores"] == {"Broken": None} and "out of order" in row["reasons"]["Broken"]


class Backwards:
    """Gives the second quietest of a batch one, the quietest zero and the others nothing."""

    name = "Backwards"

    def score(self, clips):
        from tests.fakes import FakeScore

        order = np.argsort([clip.audio.mean() for clip in clips]).tolist()
        ranks = [order.index(n) for n in range(len(clips))]
        return [FakeScore(float(rank)) if rank < 2 else FakeScore(None, "too loud") for rank in ranks]


def test_a_submission_has_every_row_of_the_csv_at_its_seed_and_length(tmp_path):
    (tmp_path / "rows.csv").write_text('id,prompt\nt07,"drums, and bass"\nt01,piano\nt03,piano\n')
    archive = tmp_path / "made" / "submission.zip"
    asked = [*FAKE, "--prompts", tmp_path / "rows.csv", "--seed", 42]
    generate(*asked, "--out", tmp_path / "short")
    generate(*asked, "--out", tmp_path / "out", "--submission", archive)
    with zipfile.ZipFile(archive) as found:
        assert found.namelist() == ["t07.wav", "t01.wav", "t03.wav"] and found.testzip() is None
        found.extractall(tmp_path / "found")
    assert [(row["path"], row["seed"]) for row in lines(tmp_path / "out")] == [
        ("t07.wav", 42), ("t01.wav", 43), ("t03.wav", 44)
    ]  # fmt: skip
    for name in ("t07.wav", "t01.wav", "t03.wav"):
        info = soundfile.info(tmp_path / "found" / name)
        assert (info.frames, info.subtype, info.channels) == (10 * RATE, "PCM_16", 1)
        whole, short = (soundfile.read(tmp_path / folder / name)[0] for folder in ("found", "short"))
        assert np.array_equal(whole[:SAMPLES], short) and not whole[SAMPLES:].any()
    first = archive.read_bytes()
    generate(*asked, "--out", tmp_path / "out", "--submission", archive)
    assert archive.read_bytes() == first


def test_a_longer_clip_is_cut_to_the_submission():
    from rlloop.recipes.generate_worker import fit

    wave = np.arange(30.0)
    assert np.array_equal(fit(wave, 10, 2.0), wave[:20]) and np.array_equal(fit(wave, 10, 4.0)[30:], np.zeros(10))
    assert fit(wave, 10, None) is wave


def test_several_base_seeds_name_clips_apart():
    rows = [Row("piano", "a"), Row("drums", "b")]
    assert [(clip.path, clip.seed) for clip in request_clips(rows, [5, 50], "flac")] == [
        ("a-s5.flac", 5), ("b-s6.flac", 6), ("a-s50.flac", 50), ("b-s51.flac", 51)
    ]  # fmt: skip


def test_file_names_of_different_prompts_differ():
    assert prompt_name("a calm piano piece", 7) == "a-calm-piano-piece-s7"
    prompts = ["lo-fi", "lo fi", "Lo fi", "lo, fi", "x" * 300, "x" * 301, "ピアノ", "!"]
    names = [prompt_name(prompt, 0) for prompt in prompts]
    assert len(set(names)) == len(prompts) and all(len(name) < 80 and "/" not in name for name in names)


@pytest.mark.parametrize(("suffix", "bits"), [("wav", 16), ("wav", 24), ("wav", 32), ("flac", 16), ("flac", 24)])
def test_a_file_tells_how_it_was_made(tmp_path, suffix, bits):
    wave = np.random.default_rng(0).uniform(-1, 1, 1001).astype(np.float32)
    details = {"prompt": 'ピアノ "quoted" 🎵', "long": "x" * 20_000, "seed": 7}
    path = tmp_path / f"clip.{suffix}"
    write_tagged(path, wave, 16_000, details, bits)
    heard, rate = soundfile.read(path, dtype="float32")
    assert rate == 16_000 and np.abs(heard - wave).max() <= 2.0 ** (1 - bits) and read_details(path) == details
    assert json.loads(generate("--show", path)) == details
    assert list(tmp_path.iterdir()) == [path]


def test_files_of_others_have_no_details(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16_000)
    soundfile.write(tmp_path / "a.flac", np.zeros(100), 16_000)
    for name, data in (("cut.wav", b"RIFF\0\0\0\0WAVELIST"), ("empty.wav", b""), ("text.flac", b"text")):
        (tmp_path / name).write_bytes(data)
    assert [read_details(path) for path in tmp_path.iterdir()] == [None] * 5
    for name in ("a.wav", "nothing.wav"):
        assert "no clip of rlloop generate" in generate("--show", tmp_path / name, status=2)


class Thief:
    """Takes away the clips that were made before, as a folder does that is not shared."""

    def __init__(self, folder: str):
        self.folder = Path(folder)

    def process(self, audio, sample_rate_hz):
        from rlloop.recipes.postprocess_steps import Processed

        for clip in self.folder.glob("*.wav"):
            clip.unlink()
        return Processed(audio)


def test_a_clip_that_is_not_in_the_folder_is_a_failed_one(tmp_path):
    out = tmp_path / "out"
    entry = {"name": "Thief", "target": "tests.unit.test_generate:Thief", "options": {"folder": str(out)}}
    (tmp_path / "thief.yaml").write_text(Path("tests/fake.yaml").read_text() + f"postprocess: [{json.dumps(entry)}]\n")
    said = generate("a", "bb", "--config", tmp_path / "thief.yaml", "--out", out, status=1)
    assert "rlloop: a-s0.wav: a worker made it, but it is not in the folder" in said and "1 failed" in said
    assert [row["path"] for row in lines(out)] == ["bb-s1.wav"]
    generate("a", "bb", *FAKE, "--out", tmp_path / "clips")
    for clip in out.iterdir():
        clip.unlink()
    asked = ["postprocess", "chain", tmp_path / "clips", "--out", out, "--config", tmp_path / "thief.yaml"]
    done = CliRunner().invoke(app, list(map(str, asked)))
    assert done.exit_code == 1 and "1 of 2 clips in" in done.output, done.output
    assert "1 not processed: a worker made it, but it is not in the folder" in done.output
    assert [row["path"] for row in lines(out)] == ["bb-s1.wav"]


def test_what_is_absent_is_told_by_the_lists_of_the_folders(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "a.wav").touch()
    (tmp_path / "below" / "b.wav").touch()
    paths = ["a.wav", "./a.wav", "b.wav", "below/b.wav", "below/a.wav", "nowhere/a.wav"]
    assert absent(tmp_path, paths) == {"b.wav", "below/a.wav", "nowhere/a.wav"}


def test_a_step_that_refuses_a_clip_costs_that_clip(tmp_path):
    out = tmp_path / "out"
    prompts = ["a", "bb", "ccc", "dddd"]
    generate(*prompts, *FAKE, "--rewards", "tests.fakes:Loudness", "--out", tmp_path / "plain")
    means = {row["prompt"]: row["scores"]["Loudness"] for row in lines(tmp_path / "plain")}
    above = sorted(means.values())[1] + 1e-6
    loud = {prompt for prompt, mean in means.items() if mean > above}
    entry = {"name": "Picky", "target": "tests.unit.test_generate:Picky", "options": {"above": above}}
    (tmp_path / "picky.yaml").write_text(Path("tests/fake.yaml").read_text() + f"postprocess: [{json.dumps(entry)}]\n")
    said = generate(*prompts, "--config", tmp_path / "picky.yaml", "--out", out, status=1)
    assert said.count("too loud for me") == len(loud) and f"{len(loud)} failed" in said
    assert {row["prompt"] for row in lines(out)} == {*prompts} - loud
    for row in lines(out):
        halved, plain = (soundfile.read(folder / row["path"])[0] for folder in (out, tmp_path / "plain"))
        assert np.abs(halved - plain / 2).max() < 1e-4


@pytest.mark.parametrize(("value", "where"), [(np.nan, "decode"), (np.inf, "decode"), (np.inf, "sample_latents")])
def test_a_clip_that_is_not_finite_is_a_failed_one(tmp_path, value, where):
    """Infinite latents of the tiny generator decode to full scale, as with any vocoder that clamps."""
    generator = {"target": "tests.unit.test_generate:spoilt", "options": {"value": value, "where": where}}
    text = Path("tests/fake.yaml").read_text().replace('generator: {target: "tests.fakes:tiny_generator"}', "")
    (tmp_path / "spoilt.yaml").write_text(f"{text}generator: {yaml.safe_dump(generator, default_flow_style=True)}")
    asked = ["--config", tmp_path / "spoilt.yaml", "--out", tmp_path / "out", "--postprocess", "none"]
    shown = generate("a", "bb", *asked, "--seed", 6, status=1)
    assert "rlloop: bb-s7.wav: audio is not finite" in shown and "1 clips in" in shown and "1 failed" in shown
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-s6.wav", "clips.jsonl"]
    best = ["--best-of", 2, "--rewards", "tests.fakes:Broken", "--batch", 2]  # no candidate has a score
    generate("bb", *asked, *best, "--seed", 7)
    assert lines(tmp_path / "out")[-1]["noise_seed"] == candidate_seed(7, 1)  # the other candidate is whole


def spoilt(value: float, where: str):
    """A generator that makes what is no number at seed 7."""
    from tests.fakes import TinyGenerator

    generator, bad = TinyGenerator(), []
    sample, decode = generator.sample_latents, generator.decode

    def draw(prompts, seeds, settings):
        bad[:] = [n for n, seed in enumerate(seeds) if seed == 7]
        latents = sample(prompts, seeds, settings)
        latents[bad] = value if where == "sample_latents" else latents[bad]
        return latents

    def heard(latents):
        waves = decode(latents)
        waves[bad, ::2] = value if where == "decode" else waves[bad, ::2]
        return waves

    generator.sample_latents, generator.decode = draw, heard
    return generator


def test_the_list_is_one_that_other_commands_read(tmp_path):
    generate("a", "b", *FAKE, "--out", tmp_path)
    assert [(clip.path, clip.prompt) for clip in list_clips(tmp_path)] == [("a-s0.wav", "a"), ("b-s1.wav", "b")]
    assert [Path(clip.file).is_file() for clip in list_clips(tmp_path / "clips.jsonl")] == [True, True]


def test_the_first_difference_has_its_name():
    assert difference({"a": {"b": 1}, "c": 2}, {"a": {"b": 1}, "c": 2}) == ""
    assert difference({"settings": {"x": {"b": 1}}}, {"settings": {"x": {"b": [2]}}}) == "x.b 1, now [2]"
    assert difference({}, {"prompt": "p"}) == 'prompt null, now "p"'


def test_mistakes_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("RLLOOP_WEIGHTS", str(tmp_path / "no_weights"))
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "file").write_text("")
    for name, text in (
        ("noid", "prompt\npiano\n"), ("twice", "id,prompt\na,x\na,y\n"), ("slash", "id,prompt\n../a,x\n"),
        ("blank", "id,prompt\na,x\nb,\n"), ("none", "id,prompt\n"), ("columns", "a,b\n1,2\n"),
    ):  # fmt: skip
        (tmp_path / f"{name}.csv").write_text(text)
    (tmp_path / "good.csv").write_text("id,prompt\na,x\n")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    zipped = ["--submission", tmp_path / "s.zip"]
    good = ["--prompts", tmp_path / "good.csv", "--submission"]
    for options, words in (
        ([], "no prompt; give one in quotes"),
        ([" "], "a prompt is empty"),
        (["--prompts", tmp_path / "empty.txt"], "holds no prompt"),
        (["--prompts", tmp_path / "none.txt"], "does not exist"),
        (["--prompts", tmp_path / "twice.csv"], "line 3: id 'a' is that of line 2"),
        (["--prompts", tmp_path / "slash.csv"], "is no file name"),
        (["--prompts", tmp_path / "blank.csv"], "line 3: id 'b' has no prompt"),
        (["--prompts", tmp_path / "none.csv"], "holds no row"),
        (["--prompts", tmp_path / "columns.csv"], "has the columns ['a', 'b']; expected one named 'prompt'"),
        (["x", "--out", tmp_path / "file"], "file cannot be written to: File exists"),
        (["x", "--out", tmp_path / "file" / "below"], "Not a directory"),
        (["x", "--run", "s3://bucket/run", "--weights", "x"], "--run s3://bucket/run and --weights"),
        (["x", "--run", tmp_path / "nowhere"], "nowhere: no such run"),
        (["x", "--run", tmp_path / "run"], "holds no complete checkpoint"),
        (["x", "--run", tmp_path], "is no run and no complete checkpoint"),
        ([*good, tmp_path / "clips.wav"], "expected the name of a ZIP file"),
        ([*good, tmp_path], "expected the name of a ZIP file"),
        ([*good, "/proc/nope/s.zip"], "No such file or directory; choose another"),
        (["x", "--version", 3], "name it with --run"),
        (["x", "--weights", tmp_path / "none.pt"], "neither an existing path nor a known name"),
        (["x", "--weights", tmp_path / "file"], "file is empty"),
        (["x", "--config", "nothing"], "no configuration file 'nothing'"),
        (["x", "--config", "official"], "`rlloop weights fetch fluxaudio_s_44k_gclef`"),
        (["x", *FAKE, "--rewards", "tunejurry"], "tunejurry"),
        (["x", *FAKE, "--best-of", 2], "--best-of 2 needs a reward"),
        (["x", *FAKE, "--rewards", "tests.fakes:Loudness,tests.fakes:Loudness"], "two have one name"),
        (["x", *FAKE, "--postprocess", "reverb"], "step 'reverb' is unknown"),
        (["x", *FAKE, "--seed", "1,1"], "names one twice"),
        (["x", *FAKE, "--seed", "-1"], "expected whole numbers"),
        (["x", *FAKE, "--score", "high"], "is no finite number"),
        (["x", *FAKE, "--score", "nan"], "is no finite number"),
        (["x", *FAKE, "--guidance", "inf"], "finite"),
        (["x", *FAKE, "--solver", "rk4"], "options: sampling.solver"),
        (["x", *FAKE, "--seconds", 3], "has no set_clip_seconds"),
        (["x", *FAKE, "--format", "mp3"], "mp3 of 16 bits cannot be written"),
        (["x", *FAKE, "--format", "flac", "--bits", 32], "cannot be written"),
        (["x", *FAKE, *zipped], "clips by their id"),
        (["--prompts", tmp_path / "noid.csv", *FAKE, *zipped], "clips by their id"),
    ):  # fmt: skip
        out = [] if "--out" in options else ["--out", tmp_path / "out"]
        said = generate(*options, *out, status=2).strip().splitlines()
        assert words in said[-1] and said[-1].startswith("rlloop: "), (options, said)
        assert not [line for line in said[:-1] if "..." not in line and "note:" not in line], said
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    (tmp_path / "id.csv").write_text("id,prompt\na,x\n")
    for options, words in ((["--seed", "1,2"], "2 base seeds"), (["--format", "flac"], "wav files of 16 bits")):
        said = generate("--prompts", tmp_path / "id.csv", *FAKE, *zipped, *options, "--out", tmp_path / "o", status=2)
        assert words in said
