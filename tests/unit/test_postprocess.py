"""Post-processing: loudness against a measurement of its own, Demucs against its own loader, and the commands."""

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from demucs.apply import apply_model
from demucs.demucs import Demucs
from demucs.hdemucs import HDemucs
from demucs.pretrained import get_model
from typer.testing import CliRunner

from rlloop.audio.levelling import level, measure_itu_lufs
from rlloop.audio.loudness import measure_lufs
from rlloop.audio.separation import drop_vocals
from rlloop.audio.tagged import read_details
from rlloop.commands.main import app
from rlloop.config import build, load
from rlloop.data.prompts import shipped_prompts
from rlloop.models.separator import load_separator
from rlloop.recipes.postprocess import Chain, loudness_counts, loudness_line, read_steps
from rlloop.recipes.sampler import Sampler
from tests.unit.bs1770 import integrated_lufs

SOURCES = ["drums", "bass", "other", "vocals"]
RATE = 8000


def run(*arguments, status=0):
    done = CliRunner().invoke(app, ["postprocess", *map(str, arguments)])
    assert done.exit_code == status, done.output
    return done.output


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "clips.jsonl").read_text().splitlines()]


def tone(seconds, rate, level=0.1, hz=997.0):
    return level * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)


@pytest.fixture(scope="module")
def music() -> tuple[np.ndarray, int]:
    """Eight clips of the mini stack [8, T], and their rate."""
    config = load("mini")
    drawn = Sampler(config, config.sampler).sample(shipped_prompts("heldout")[:8], list(range(8)), config.sampling)
    return drawn.audio, drawn.sample_rate_hz


def test_the_measurement_of_its_own_agrees_with_the_recommendation():
    """A 997 Hz sine at full scale in one channel measures -3.01 LKFS (ITU-R BS.1770-4), at any rate of the file."""
    for rate in (48_000, 44_100, 16_000):
        assert integrated_lufs(tone(3, rate, level=1.0), rate) == pytest.approx(-3.01, abs=0.03)


@pytest.mark.parametrize("target", [-16.5, -24.0])
def test_every_clip_that_the_peak_rule_leaves_free_has_the_target_loudness(tmp_path, music, target):
    waves, rate = music
    (tmp_path / "in").mkdir()
    for number, wave in enumerate(waves):
        soundfile.write(tmp_path / "in" / f"{number}.wav", wave, rate)
        squashed = np.tanh(20 * wave) * 0.5  # small peaks for its loudness: the rule leaves it free
        soundfile.write(tmp_path / "in" / f"{number}-squashed.flac", squashed, rate)
    said = run("loudness", tmp_path / "in", "--out", tmp_path / "out", "--target", target)
    rows = lines(tmp_path / "out")
    held = [row for row in rows if row["postprocess"]["loudness"]["is_held_back"]]
    free = [row for row in rows if row not in held]
    assert len(rows) == 16 and len(free) >= 8
    for row in rows:
        heard, _ = soundfile.read(tmp_path / "out" / row["path"])
        found, facts = integrated_lufs(heard, rate), row["postprocess"]["loudness"]
        assert facts["lufs"] == pytest.approx(found, abs=0.1)
        assert facts["lufs_before"] == pytest.approx(
            integrated_lufs(soundfile.read(tmp_path / "in" / row["path"])[0], rate), abs=0.1
        )
        if row in held:
            assert np.abs(heard).max() == pytest.approx(0.95, abs=1e-4) and found < target
        else:
            assert found == pytest.approx(target, abs=0.1) and np.abs(heard).max() <= 0.99 + 1e-4
    if target == -16.5:
        assert held and f"{len(free)} of 16 clips at -16.5 LUFS, {len(held)} kept below it by the peak rule" in said


def test_the_peak_rule_by_hand():
    """A 997 Hz sine of peak a measures 20 log10(a) - 3.01 LUFS: at -4 LUFS its peak is 0.89, at -3 LUFS 1.00."""
    audio = tone(2, 48_000)
    free, held = level(audio, 48_000, target_lufs=-4.0), level(audio, 48_000, target_lufs=-3.0)
    assert (free.lufs_before, free.lufs) == (pytest.approx(-23.01, abs=0.03), -4.0) and not free.is_held_back
    assert np.abs(free.audio).max() == pytest.approx(10 ** (-0.99 / 20), abs=0.005)
    assert held.is_held_back and np.abs(held.audio).max() == pytest.approx(0.95, abs=1e-6)
    assert held.lufs == pytest.approx(-3.01 + 20 * np.log10(0.95), abs=0.03)
    silent = level(np.zeros(48_000), 48_000)
    assert (silent.lufs, silent.lufs_before, silent.is_held_back) == (None, None, False) and not silent.audio.any()
    assert measure_itu_lufs(tone(0.3, 48_000), 48_000) == -np.inf  # too short for one block


def test_the_meter_is_the_recommendation_s_at_any_rate_and_length(music):
    waves, rate = music
    found = [measure_itu_lufs(wave[: len(wave) - cut], rate) for wave in waves for cut in (0, 777)]
    expected = [integrated_lufs(wave[: len(wave) - cut], rate) for wave in waves for cut in (0, 777)]
    assert np.abs(np.subtract(found, expected)).max() < 0.02
    assert max(abs(measure_lufs(wave, rate) - integrated_lufs(wave, rate)) for wave in waves) > 0.05  # as it comes
    odd = tone(1.05, 44_101)  # a rate that cannot be resampled: measured as it is
    assert measure_itu_lufs(odd, 44_101) == pytest.approx(-23.01, abs=0.03)


def noise(kind: str, rate: int) -> np.ndarray:
    """10 s of white noise, of pink noise, or of a closed hi-hat: bursts above 0.7 of half the rate, twice a second."""
    size = 10 * rate
    bins = np.fft.rfftfreq(size, 1 / rate)
    shape = {"white": np.ones_like(bins), "pink": 1 / np.sqrt(np.maximum(bins, 20)), "hat": bins > 0.35 * rate}[kind]
    wave = np.fft.irfft(np.fft.rfft(np.random.default_rng(0).standard_normal(size)) * shape, size)
    wave *= np.exp(-(np.arange(size) % (rate // 2)) / (0.03 * rate)) if kind == "hat" else 1
    return np.float32(0.3 * wave / np.abs(wave).max())


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("kind", ["white", "pink", "hat"])
def test_treble_counts_at_any_rate(kind, rate):
    done = level(noise(kind, rate), rate, target_lufs=-30.0)
    assert not done.is_held_back
    assert integrated_lufs(done.audio, rate) == pytest.approx(-30.0, abs=0.02)


def test_counts_of_the_last_levelling():
    def facts(lufs, is_held_back):
        return {"lufs": lufs, "is_held_back": is_held_back, "target_lufs": -16.5}

    found = loudness_counts([
        {"demucs": {"passes": 3}, "loudness": facts(-20.0, True), "loudness_2": facts(-16.5, False)},
        {"loudness": facts(-18.5, True)}, {"loudness": facts(None, False)}, {"demucs": {"passes": 3}},
    ])  # fmt: skip
    expected = {
        "clips": 3,
        "at_target": 1,
        "held_back": 1,
        "silent": 1,
        "too_short": 0,
        "mean_lufs": -17.5,
        "min_lufs": -18.5,
    }
    assert found == expected | {"target_lufs": -16.5} and loudness_counts([{}]) is None
    assert loudness_line(found) == (
        "loudness: 1 of 3 clips at -16.5 LUFS, 1 kept below it by the peak rule, 1 silent; mean -17.5, lowest -18.5"
    )


def test_what_is_too_short_for_the_meter_is_not_called_silent_and_two_channels_are_noted(tmp_path):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "short.wav", tone(0.375, RATE), RATE)
    soundfile.write(tmp_path / "in" / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "in" / "two.wav", np.stack([tone(1, RATE), tone(1, RATE)], 1), RATE)
    for _ in range(2):  # made, and kept
        said = run("loudness", tmp_path / "in", "--out", tmp_path / "out")
        assert "1 silent, 1 left as they were: shorter than 0.4 s, which cannot be measured;" in said
        assert "rlloop: note: 1 clips have several channels; they are written as mono" in said
    assert soundfile.info(tmp_path / "out" / "two.wav").channels == 1
    assert np.array_equal(*(soundfile.read(tmp_path / folder / "short.wav")[0] for folder in ("in", "out")))


def save(folder: Path, signature: str, model) -> None:
    """As published: class, arguments, half-precision state and what it was trained with, named by checksum."""
    args, kwargs = model._init_args_kwargs
    state = {key: value.half() for key, value in model.state_dict().items()}
    package = {"klass": type(model), "args": args, "kwargs": {**kwargs, "gone": 1}, "state": state}
    torch.save({**package, "training_args": {"seed": 42, "dset": {"sources": SOURCES}}}, folder / "new")
    digest = hashlib.sha256((folder / "new").read_bytes()).hexdigest()[:8]
    (folder / "new").rename(folder / f"{signature}-{digest}.th")


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    """A bag of a Demucs and an HDemucs with random weights, in the layout of the published one."""
    folder = tmp_path_factory.mktemp("repo")
    torch.manual_seed(0)
    save(folder, "aaaa1111", HDemucs(SOURCES, channels=4, nfft=1024, depth=5, samplerate=RATE))
    save(folder, "bbbb2222", Demucs(SOURCES, channels=4, depth=3, samplerate=RATE))
    (folder / "mdx_extra.yaml").write_text(yaml.safe_dump({"models": ["aaaa1111", "bbbb2222"], "segment": 44}))
    return folder


@pytest.mark.filterwarnings("ignore:Dropping inexistant parameter")
def test_models_load_as_by_their_own_loader_without_it(repo):
    """Demucs' own loader un-pickles; these files are ours, so here it may."""
    ours, theirs = load_separator(str(repo)), get_model("mdx_extra", repo=repo)
    assert [type(m) for m in ours.models] == [HDemucs, Demucs] and [m.segment for m in ours.models] == [44, 44]
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())
    assert not ours.training and not any(p.requires_grad for p in ours.parameters())


class Trap:
    """What a stranger may put into a pickle."""

    def __reduce__(self):
        return (Path.touch, (Path("sprung"),))


def test_damaged_and_strange_models_are_refused(tmp_path, repo, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refused(klass=Demucs, kwargs=None, state=None, **more) -> str:
        (tmp_path / "x.yaml").write_text("models: [x]")
        torch.save({"klass": klass, "args": [SOURCES], "kwargs": kwargs or {}, "state": state or {}, **more}, "x.th")
        with pytest.raises(ValueError) as error:
            load_separator(str(tmp_path), "x")
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "is refused: its pickle wants" in refused(more=Trap()) and not Path("sprung").exists()
    assert "is refused: its pickle wants" in refused(klass=torch.nn.GRU)
    assert "is no Demucs model" in refused(klass="demucs.demucs.Demucs")
    assert "is missing, shape" in refused(kwargs={"channels": 4, "depth": 2})
    assert "quantised" in refused(state={"__quantized": True})
    assert "Demucs cannot be built with its arguments" in refused(kwargs={"depth": "deep"})
    Path("x-00000000.th").write_bytes(Path("x.th").read_bytes())
    Path("x.th").unlink()
    with pytest.raises(ValueError, match="its sha256 begins with"):
        load_separator(str(tmp_path), "x")
    with pytest.raises(ValueError, match="holds 0 files y-"):
        Path("y.yaml").write_text("models: [y]")
        load_separator(str(tmp_path), "y")
    for text in ("models: []", "[", "x"):
        Path("z.yaml").write_text(text)
        with pytest.raises(ValueError, match="z.yaml"):
            load_separator(str(tmp_path), "z")
    Path("w.yaml").write_text(yaml.safe_dump({"models": ["w"], "weights": [[1.0], [1.0]]}))
    save(tmp_path, "w", Demucs(SOURCES, channels=4, depth=2, samplerate=RATE))
    with pytest.raises(ValueError, match="its weights are not of them"):
        load_separator(str(tmp_path), "w")
    with pytest.raises(ValueError, match="mdx_q.yaml is missing"):
        load_separator(str(repo), "mdx_q")


def test_vocals_are_dropped_as_the_protocol_says(repo):
    model, audio = load_separator(str(repo)), np.random.default_rng(0).uniform(-0.3, 0.3, 9000).astype(np.float32)
    state = random.getstate()
    found = drop_vocals(audio, RATE, model, passes=2, peak=0.9, seed=5)
    assert random.getstate() == state
    random.seed(5)
    wave = torch.from_numpy(audio)
    for _ in range(2):
        stems = apply_model(model, wave.repeat(2, 1)[None])[0]
        wave = (stems[0] + stems[1] + stems[2]).mean(0)
        wave = wave / (wave.abs().max() + 1e-8) * 0.9
    random.setstate(state)
    assert found.shape == audio.shape and np.allclose(found, wave.numpy(), atol=1e-5)
    assert np.abs(found).max() == pytest.approx(0.9, abs=1e-4)
    assert np.array_equal(found, drop_vocals(audio, RATE, model, passes=2, peak=0.9, seed=5))
    assert not np.allclose(found, drop_vocals(audio, RATE, model, passes=2, peak=0.9, seed=6), atol=1e-4)
    assert drop_vocals(audio, 16_000, model, passes=1).shape == audio.shape  # there and back
    model.sources = ["drums", "rest"]
    with pytest.raises(ValueError, match="expected one that separates vocals"):
        drop_vocals(audio, RATE, model)


class Half:
    """Halves; refuses what is longer than a second."""

    def process(self, audio, sample_rate_hz):
        from rlloop.recipes.postprocess_steps import Processed

        if len(audio) > sample_rate_hz:
            raise RuntimeError("longer than a second")
        return Processed(audio / 2, {"factor": 0.5})


class Silencer:
    """Makes what is no audio."""

    def process(self, audio, sample_rate_hz):
        from rlloop.recipes.postprocess_steps import Processed

        return Processed(audio * np.nan)


def not_a_step():
    return "nothing"


HALF = "tests.unit.test_postprocess:Half"


def test_a_chain_applies_its_steps_in_their_order():
    entries = build(
        {"postprocess": [HALF, {"name": "soft", "target": "loudness", "options": {"target_lufs": -30}}, HALF]}
    )
    chain = Chain(entries.postprocess)
    done = chain(tone(0.9, 16_000), 16_000)
    assert chain.names == ["Half", "soft", "Half_2"] and list(done.facts) == chain.names
    assert integrated_lufs(done.audio, 16_000) == pytest.approx(-36.02, abs=0.1)
    with pytest.raises(ValueError, match="Silencer: made audio"):
        Chain(read_steps(["tests.unit.test_postprocess:Silencer"]))(tone(1, 8000), 8000)


def test_a_chain_decides_nothing_of_a_run():
    plain = build({})
    assert plain.digest() == build({"postprocess": ["demucs", "loudness"]}).digest()


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("reverb", "step 'reverb' is unknown; expected one of demucs, loudness, or package.module:name"),
        ("no.such:Step", "cannot be imported"),
        ({"name": "loudness", "options": {"volume": 3}}, "takes target_lufs, ceiling, peak, meter"),
        ({"options": {}}, "step"),
        (7, "step 7"),
    ],
)
def test_a_step_that_is_none_is_refused_before_anything_is_built(step, words):
    with pytest.raises(ValueError) as error:
        read_steps([step])
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"name": "loudness", "options": {"target_lufs": 5}}, "target_lufs is 5"),
        ({"name": "loudness", "options": {"target_lufs": "loud"}}, "step 'loudness'"),
        ({"name": "loudness", "options": {"peak": 1.0}}, "peak 1, ceiling 0.99"),
        ({"name": "loudness", "options": {"meter": "vu"}}, "meter 'vu'"),
        ({"name": "demucs", "options": {"passes": 0}}, "passes 0"),
        ({"name": "demucs", "options": {"repo": "/nowhere"}}, "neither an existing path nor a known name"),
        ("tests.unit.test_postprocess:not_a_step", "made no step"),
    ],
)
def test_a_step_that_cannot_be_built_is_refused(step, words):
    with pytest.raises(ValueError) as error:
        Chain(read_steps([step]))
    assert words in str(error.value)


def test_what_somebody_else_put_there_stays(tmp_path):
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    out.mkdir()
    for folder, hz in ((clips, 400.0), (out, 500.0)):
        soundfile.write(folder / "a.wav", tone(0.9, RATE, hz=hz), RATE)
    soundfile.write(clips / "b.wav", tone(0.9, RATE), RATE)
    before = (out / "a.wav").read_bytes()
    assert "not made by post-processing; choose another --out" in run("loudness", clips, "--out", out, status=1)
    assert (out / "a.wav").read_bytes() == before and (out / "b.wav").exists()
    assert "2 of 2 clips" in run("loudness", clips, "--out", out, "--overwrite")
    assert (out / "a.wav").read_bytes() != before and read_details(out / "a.wav")["postprocess"]["loudness"]
    assert "2 of them before" in run("loudness", clips, "--out", out, "--overwrite")
    said = run("loudness", clips, "--out", clips / "levelled", status=2)
    assert "whose clips the next call would take for more" in said and not (clips / "levelled").exists()


def test_the_facts_are_those_of_the_last_chain_and_earlier_ones_are_kept_apart(tmp_path):
    clips, level, half = tmp_path / "clips", tmp_path / "level", tmp_path / "half"
    clips.mkdir()
    soundfile.write(clips / "a.wav", tone(0.9, RATE), RATE)
    run("loudness", clips, "--out", level)
    for _ in range(2):
        assert "LUFS" not in run("chain", level, "--out", half, "--steps", HALF)  # the level is another one now
    found = read_details(half / "a.wav")
    assert "loudness" not in found["postprocess"]
    assert [set(facts) for facts in found["earlier_postprocess"]] == [{"loudness"}]


def test_bad_files_cost_themselves_and_the_same_command_goes_on(tmp_path, repo):
    clips, out = tmp_path / "clips", tmp_path / "out"
    (clips / "below").mkdir(parents=True)
    for name in ("a.wav", "below/b.flac", "c.ogg"):
        soundfile.write(clips / name, tone(0.9, RATE), RATE)
    soundfile.write(clips / "long.wav", tone(1.1, RATE), RATE)
    (clips / "bad.wav").write_bytes(b"RIFF and then nothing")
    asked = ["chain", clips, "--out", out, "--steps", f"{HALF},loudness"]
    said = run(*asked, status=1)
    assert "3 of 5 clips" in said and "longer than a second" in said and "not readable as audio" in said
    assert [row["path"] for row in lines(out)] == ["a.wav", "below/b.flac", "c.wav"]
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.*")) == [
        "a.wav",
        "below/b.flac",
        "c.wav",
        "clips.jsonl",
    ]
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    (out / "c.wav").unlink()
    assert "2 of them before" in run(*asked, status=1)
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    soundfile.write(clips / "a.wav", tone(0.9, RATE, hz=500.0), RATE)  # another clip under the name
    assert "2 of them before" in run(*asked, status=1)
    assert (out / "a.wav").read_bytes() != before[out / "a.wav"]
    assert "0 of them before" in run("demucs", clips, "--out", out, "--repo", repo, "--passes", 1, status=1)


def test_prompts_and_how_a_clip_was_made_stay_with_it(tmp_path, repo):
    asked = ["generate", "drums", "--config", "tests/fake.yaml", "--out", str(tmp_path / "in")]
    assert CliRunner().invoke(app, asked).exit_code == 0
    run("demucs", tmp_path / "in", "--out", tmp_path / "out", "--repo", repo, "--passes", 1)
    before, after = lines(tmp_path / "in")[0], lines(tmp_path / "out")[0]
    made = after.pop("postprocessed")
    assert after == before | {"postprocess": {"demucs": {"passes": 1}}}
    assert made["steps"][0]["options"]["passes"] == 1
    inside = read_details(tmp_path / "out" / "drums-s0.wav")
    assert inside == {key: value for key, value in after.items() if key != "path"} | {"postprocessed": made}
    twice = ["demucs", str(tmp_path / "in"), "--out", str(tmp_path / "again"), "--repo", str(repo), "--passes", "1"]
    run(*twice)
    assert (tmp_path / "again" / "drums-s0.wav").read_bytes() == (tmp_path / "out" / "drums-s0.wav").read_bytes()


def test_mistakes_are_one_line(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    soundfile.write(clips / "a.wav", tone(1, RATE), RATE)
    soundfile.write(clips / "a.ogg", tone(1, RATE), RATE)
    (tmp_path / "out.jsonl").write_text('{"path": "../a.wav", "prompt": ""}\n')
    (tmp_path / "one.jsonl").write_text('{"path": "clips/a.wav", "prompt": ""}\n')
    (tmp_path / "file").write_text("")
    one, out = tmp_path / "one.jsonl", ["--out", tmp_path / "out"]
    for asked, words in (
        (["loudness", tmp_path / "nothing", *out], "no such file or folder"),
        (["loudness", clips, *out], "two clips would become a.wav"),
        (["loudness", one, "--out", tmp_path], "is the folder of the clips"),
        (["loudness", tmp_path / "out.jsonl", *out], "lies outside its folder"),
        (["loudness", one, "--out", tmp_path / "file"], "File exists"),
        (["loudness", one, *out, "--target", 3], "target_lufs is 3"),
        (["loudness", one, *out, "--bits", 32], "--bits 32"),
        (["demucs", one, *out, "--repo", tmp_path / "none"], "neither an existing path nor a known name"),
        (["chain", one, *out], "names no postprocess steps"),
        (["chain", one, *out, "--steps", "reverb"], "step 'reverb' is unknown"),
    ):
        said = run(*asked, status=2).strip().splitlines()
        assert words in said[-1] and said[-1].startswith("rlloop: "), (asked, said)
