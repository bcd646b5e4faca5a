"""Every command shows an example, and ends with one line and a status other than zero where it cannot begin."""

import json
from typing import get_type_hints

import numpy as np
import pytest
import soundfile
from typer.main import get_command
from typer.testing import CliRunner

from rlloop import conformance, main
from rlloop.commands.main import app
from rlloop.config import load


def commands(group, path: tuple[str, ...] = ()):
    """(words, command) of all verbs."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


VERBS = dict(commands(get_command(app)))


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_help_has_a_summary_and_an_example(words):
    shown = invoke(*words, "--help")
    assert shown.exit_code == 0 and VERBS[words].help
    assert f"rlloop {' '.join(words)}" in shown.output.split("Example", 1)[1]


@pytest.mark.parametrize("entry", [main, conformance], ids=["main", "conformance"])
def test_entry_points_have_examples(entry):
    shown = CliRunner().invoke(entry.app, ["--help"])
    assert shown.exit_code == 0 and f"python -m {entry.__name__}" in shown.output.split("Examples", 1)[1]


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_an_unknown_option_is_refused(words):
    assert invoke(*words, "--no-such-option").exit_code == 2


def assert_one_line(done, *named):
    """Status above zero and one last line that names what was found; notes and progress may stand before it."""
    assert done.exit_code > 0 and isinstance(done.exception, SystemExit), done.exception
    said = [line for line in done.stderr.splitlines() if line.startswith("rlloop: ") and "rlloop: note: " not in line]
    assert len(said) == 1 and done.stderr.splitlines()[-1] == said[0], done.output
    assert all(str(word) in said[0] for word in named), said


@pytest.fixture
def there(tmp_path):
    """Inputs that are in order: a clip, captions, prompts, pairs, comparisons; and a file that is no folder."""
    (tmp_path / "clips").mkdir()
    noise = np.random.default_rng(0).normal(size=32_000).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "clips" / "a.wav", noise, 16_000)
    (tmp_path / "clips" / "captions.tsv").write_text("path\tcaption\na.wav\ta calm piano piece\n")
    (tmp_path / "prompts.txt").write_text("a calm piano piece\n")
    one = {"prompt": "p", "winner": "model_a", "features_a": [1.0, 0.0], "features_b": [0.0, 1.0]}
    pairs = [one | {"prompt": f"p{n}", "split": split} for n, split in enumerate(["train", "val", "test"] * 4)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    row = {"reward_a": 1.0, "reward_b": 0.0, "system_a": "x", "system_b": "y", "winner": "model_a"}
    (tmp_path / "comparisons.jsonl").write_text("\n".join([json.dumps(row)] * 8))
    (tmp_path / "file").write_text("no folder")
    return tmp_path


RUN_READERS = [
    "ledger RUN",
    "stacks RUN",
    "report RUN",
    "report RUN RUN",
    "decomposition RUN",
    "scale RUN --samplers 2",
    "generate calm --run RUN --out out",
    "sweep-score --weights RUN --out out",
    "weights export RUN out.pt",
    "weights average RUN out.safetensors --stage sft",
]


@pytest.mark.parametrize("line", RUN_READERS)
@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_an_unknown_run_is_one_line(line, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    run = tmp_path / "nowhere"
    if kind == "empty":
        run.mkdir()
    assert_one_line(invoke(*line.replace("RUN", str(run)).split()), run)


def test_an_unknown_version_of_a_run_is_one_line(tmp_path):
    (tmp_path / "run").mkdir()
    assert_one_line(invoke("generate", "calm", "--run", tmp_path / "run", "--version", 3), tmp_path / "run")


@pytest.mark.parametrize(
    "line",
    [
        "generate calm --weights WEIGHTS --out out",
        "sweep-score --weights WEIGHTS --out out",
        "weights export WEIGHTS out.pt",
        "weights import WEIGHTS",
    ],
)
def test_a_missing_checkpoint_is_one_line(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "nowhere.safetensors"
    assert_one_line(invoke(*line.replace("WEIGHTS", str(path)).split()), path)


def test_missing_official_weights_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("RLLOOP_WEIGHTS", str(tmp_path))
    (tmp_path / "prompts.txt").write_text("a calm piano piece\n")
    assert_one_line(invoke("features", tmp_path / "prompts.txt", "--out", tmp_path / "out"), "rlloop weights fetch")
    assert_one_line(invoke("weights", "fetch", "no_such_weights"), "no_such_weights", "known are")


@pytest.mark.parametrize(
    "line",
    [
        "generate --prompts EMPTY --out out",
        "features EMPTY --out out",
        "reward train EMPTY --out out",
        "reward calibrate EMPTY --out out.json",
        "score EMPTY --out out.jsonl",
        "evaluate EMPTY --out out",
        "postprocess loudness EMPTY --out out",
    ],
)
@pytest.mark.parametrize("content", [None, "", "\n \n"], ids=["missing", "empty", "blank"])
def test_an_empty_or_missing_input_file_is_one_line(line, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("prompts.txt" if "generate" in line or "features" in line else "lines.jsonl")
    if content is not None:
        path.write_text(content)
    assert_one_line(invoke(*line.replace("EMPTY", str(path)).split()), path)


@pytest.mark.parametrize("key", ["prompts", "heldout_prompts"])
def test_a_run_refuses_an_empty_prompt_file(key, tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    overrides = [f"{key}={tmp_path / 'empty.txt'}", f"run_dir={tmp_path / 'run'}"]
    assert_one_line(CliRunner().invoke(main.app, overrides), tmp_path / "empty.txt")
    assert not (tmp_path / "run").exists()


def test_empty_captions_are_one_line(there):
    (there / "none.tsv").write_text("path\tcaption\n")
    done = invoke("data", "prepare", there / "clips", "--captions", there / "none.tsv", "--out", there / "out")
    assert_one_line(done, there / "none.tsv")


@pytest.mark.parametrize(
    "line",
    [
        "generate calm --out HERE/file/out",
        "generate --prompts HERE/prompts.txt --out HERE/file/out",
        "score HERE/clips --out HERE/file/scores.jsonl",
        "evaluate HERE/clips --out HERE/file/out",
        "sweep-score --out HERE/file/out",
        "data prepare HERE/clips --captions HERE/clips/captions.tsv --split all --out HERE/file/out "
        "generator.text_encoder=words",
        "data mini --out HERE/file/out",
        "postprocess loudness HERE/clips --out HERE/file/out",
        "postprocess chain HERE/clips --steps loudness --out HERE/file/out",
        "postprocess demucs HERE/clips --out HERE/file/out",
        "reward train HERE/pairs.jsonl --out HERE/file/out",
        "reward calibrate HERE/comparisons.jsonl --out HERE/file/out.json",
        "train-mini HERE/labelled --out HERE/file/out --work HERE/file/work",
        "report HERE/run --out HERE/file/report.html",
        "features HERE/prompts.txt --out HERE/file/out",
        "sweep mini --over trainer.clip_grad_norm=[1,2] --seeds 1 --out HERE/file/out",
        "weights export HERE/run HERE/file/out.pt",
        "weights average HERE/run HERE/file/out.safetensors --stage expert_iteration",
        "weights fetch vae_44k",
    ],
)
def test_an_unwritable_folder_is_one_line(line, there, monkeypatch):
    monkeypatch.setenv("RLLOOP_WEIGHTS", str(there / "file" / "weights"))
    (there / "run").mkdir()
    (there / "run" / "config.json").write_text(load("mini").model_dump_json())
    (there / "labelled").mkdir()
    (there / "labelled" / "clips.jsonl").write_text("")
    assert_one_line(invoke(*line.replace("HERE", str(there)).split()), there / "file")


def test_a_run_refuses_an_unwritable_run_dir(there):
    done = CliRunner().invoke(main.app, [f"run_dir={there / 'file' / 'run'}"])
    assert_one_line(done, there / "file" / "run", "choose another: run_dir=PATH")


@pytest.mark.parametrize(
    "line",
    [
        "config PRESET",
        "doctor --config PRESET",
        "sweep PRESET --over trainer.clip_grad_norm=[1,2] --out HERE/out",
        "generate calm --config PRESET --out HERE/out",
        "score HERE/clips --config PRESET --out HERE/scores.jsonl",
        "evaluate HERE/clips --config PRESET --out HERE/out",
        "sweep-score --config PRESET --out HERE/out",
        "data mini --config PRESET --out HERE/out",
        "postprocess chain HERE/clips --config PRESET --out HERE/out",
    ],
)
def test_an_unknown_preset_is_one_line_that_names_the_presets(line, there):
    words = line.replace("HERE", str(there)).replace("PRESET", "no_such_preset").split()
    assert_one_line(invoke(*words), "no_such_preset", "mini", "paper")


def test_entry_points_refuse_what_is_not_there():
    assert_one_line(CliRunner().invoke(main.app, ["--config", "no_such_preset"]), "no_such_preset", "mini")
    assert_one_line(CliRunner().invoke(conformance.app, ["no_such_folder"]), "no_such_folder")


NUMBERS = [
    (words, option.opts[0])
    for words, command in VERBS.items()
    for option in command.params
    if get_type_hints(command.callback).get(option.name) in (float, float | None)
]


@pytest.mark.parametrize(("words", "option"), NUMBERS, ids=[" ".join((*words, option)) for words, option in NUMBERS])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_an_option_that_is_not_finite_is_refused(words, option, value):
    """By its name, whatever else is asked for; where it has bounds, they may say so first."""
    needed = [param for param in VERBS[words].params if param.required]
    given = [word for param in needed for word in (*(o for o in param.opts[:1] if o.startswith("-")), "x")]
    done = invoke(*words, *given, option, value)
    said = done.stderr.splitlines()[-1]
    assert done.exit_code == 2 and option in said, done.output
    assert said == f"rlloop: {option} is {value}; expected a finite number" or "Invalid value for" in said


def test_options_that_are_numbers_are_found():
    assert (("generate",), "--seconds") in NUMBERS and (("postprocess", "loudness"), "--target") in NUMBERS


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("generate", "x"), "--out"),
        (("generate", "--prompts", "{rows}", "--submission", "s3://bucket/x.zip"), "--submission"),
        (("postprocess", "loudness", "{clips}"), "--out"),
        (("report", "runs/mini"), "--out"),
    ],
    ids=str,
)
def test_a_uri_makes_no_folder_of_its_name(words, option, there, tmp_path, monkeypatch):
    (tmp_path / "rows.csv").write_text("id,prompt\na,x\n")
    monkeypatch.chdir(tmp_path)
    places = {"clips": tmp_path / "clips", "rows": tmp_path / "rows.csv"}
    before = sorted(tmp_path.iterdir())
    out = ("--out", "s3://bucket/x.zip") if option == "--out" else ("--out", "clips")
    done = invoke(*(word.format(**places) for word in words), *out)
    assert done.exit_code == 2
    assert_one_line(done, f"{option} s3://bucket/x.zip is a URI; expected a local path")
    assert sorted(tmp_path.iterdir()) == before
