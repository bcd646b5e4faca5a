"""`rlloop generate`: what it refuses and what it loses: mistakes of the user, errors halfway, clips that fail.

Apart from tests/unit/test_generate.py because these need steps and generators that break; each is beside its test.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from typer.testing import CliRunner

from rlloop.audio.tagged import write_tagged
from rlloop.commands.main import app
from rlloop.recipes.generate_folder import absent, difference
from rlloop.recipes.generate_request import candidate_seed
from tests.unit.generating import FAKE, contents, generate, lines


def test_audio_that_is_not_finite_is_no_clip(tmp_path):
    said = generate("a calm piano piece", "--steps", 2, "--guidance", "1e30", "--out", tmp_path, status=1)
    assert "audio is not finite: the policy diverged" in said and not list(tmp_path.glob("*.wav"))
    with pytest.raises(ValueError, match="audio is not finite"):
        write_tagged(tmp_path / "x.wav", np.array([0.0, np.nan]), 1600, {})


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


def test_the_first_difference_has_its_name():
    assert difference({"a": {"b": 1}, "c": 2}, {"a": {"b": 1}, "c": 2}) == ""
    assert difference({"settings": {"x": {"b": 1}}}, {"settings": {"x": {"b": [2]}}}) == "x.b 1, now [2]"
    assert difference({}, {"prompt": "p"}) == 'prompt null, now "p"'


def breaking(folder):
    """A preset whose generator breaks at the prompt c until folder/marker is there."""
    config, options = folder / "breaking.yaml", f"options: {{marker: {folder / 'marker'}}}"
    text = Path("tests/fake.yaml").read_text()
    config.write_text(
        text.replace('"tests.fakes:tiny_generator"', f'"tests.unit.test_generate_refusals:third", {options}')
    )
    return config


def test_a_refusal_begins_no_list(tmp_path):
    config = breaking(tmp_path)
    generate("c", "--config", config, "--out", tmp_path / "out", status=2)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_error_halfway_keeps_what_was_made(tmp_path):
    config = breaking(tmp_path)
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
    entry = {"name": "Thief", "target": "tests.unit.test_generate_refusals:Thief", "options": {"folder": str(out)}}
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


class Picky:
    """A step that refuses loud clips and halves the others."""

    def __init__(self, above: float = 0.0):
        self.above = above

    def process(self, audio, sample_rate_hz):
        from rlloop.recipes.postprocess_steps import Processed

        if audio.mean() > self.above:
            raise RuntimeError("too loud for me")
        return Processed(audio / 2)


def test_a_step_that_refuses_a_clip_costs_that_clip(tmp_path):
    out = tmp_path / "out"
    prompts = ["a", "bb", "ccc", "dddd"]
    generate(*prompts, *FAKE, "--rewards", "tests.fakes:Loudness", "--out", tmp_path / "plain")
    means = {row["prompt"]: row["scores"]["Loudness"] for row in lines(tmp_path / "plain")}
    above = sorted(means.values())[1] + 1e-6
    loud = {prompt for prompt, mean in means.items() if mean > above}
    entry = {"name": "Picky", "target": "tests.unit.test_generate_refusals:Picky", "options": {"above": above}}
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
    generator = {"target": "tests.unit.test_generate_refusals:spoilt", "options": {"value": value, "where": where}}
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
