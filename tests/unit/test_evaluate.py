"""`rlloop evaluate` as a user runs it: scores taken over, references kept, what is refused and what is said."""

import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from rlloop.commands.main import app
from rlloop.data.prompts import shipped_prompts
from rlloop.evaluation.comparison import ClipSet
from rlloop.recipes.evaluate_folder import fitted_note
from tests.unit.test_clip_hearing import RATE, folder_of


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_scores(path, scores: dict[str, float]):
    lines = [{"path": name, "prompt": "", "scores": {"level": value}, "reasons": {}} for name, value in scores.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_scores_of_another_command_are_taken_as_they_are(tmp_path):
    """Clips without a prompt are paired by file name; nothing is heard, so the files may be empty."""
    options = ["--reference", "none", "--out", tmp_path / "out"]
    for system, shift in (("after", 1.0), ("before", 0.0)):
        (tmp_path / system).mkdir()
        for name in ("a.wav", "b.wav", "c.wav"):
            (tmp_path / system / name).touch()
        write_scores(tmp_path / f"{system}.jsonl", {"a.wav": 0.1 + shift, "b.wav": 0.2 + shift, "c.wav": 0.6 + shift})
        options += [f"--{'' if system == 'after' else 'against-'}scores", tmp_path / f"{system}.jsonl"]
    done = invoke("evaluate", tmp_path / "after", "--against", tmp_path / "before", *options)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["scores"]["level"]["gain"] == pytest.approx(1.0) and report["paired_prompts"] == 3
    assert "level" in done.output and "+1.000" in done.output


def test_a_reference_folder_is_heard_once_and_found_again(tmp_path, caplog):
    """A second call leaves the cache's entry as it is; a changed folder is said, and has another checksum."""
    clips, songs = folder_of(tmp_path / "clips"), folder_of(tmp_path / "songs", names=("p", "q", "r"))
    options = ["--rewards", "none", "--reference", songs, "--cache", tmp_path / "cache", "--out", tmp_path / "out"]

    def measured():
        done = invoke("evaluate", clips, *options)
        assert done.exit_code == 0, done.output
        far = json.loads((tmp_path / "out" / "evaluation.json").read_text())["distances"]["frechet_musicnn"]
        return far, {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}, done.stderr

    first, entries, progress = measured()
    assert first["reference"]["num_clips"] == 3 and first["value"] > 0 and "3 of 3 reference clips" in progress
    again, kept, progress = measured()
    assert again == first and kept == entries and "reference clips" not in progress
    assert len((tmp_path / "out" / "scores.jsonl").read_text().splitlines()) == 4
    soundfile.write(songs / "q.wav", np.sin(np.arange(RATE * 2) / 9) / 2, RATE)
    caplog.clear()
    changed, more, progress = measured()
    assert "has changed since it was cached: 1 changed, 0 added, 0 removed" in caplog.text and len(more) == 2
    assert changed["reference"]["checksum"] != first["reference"]["checksum"] and "1 of 3 reference" in progress


def test_given_scores_are_not_written_over(tmp_path):
    """Two clips of the four that the file has; the report names the file, which may lie in --out."""
    folder_of(tmp_path / "clips", names=("a", "b"))
    scores = write_scores(tmp_path / "scores.jsonl", {"a.wav": 0.1, "b.wav": 0.2, "c.wav": 0.3, "d.wav": 0.4})
    before = scores.read_bytes()
    done = invoke("evaluate", tmp_path / "clips", "--scores", scores, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert scores.read_bytes() == before and report["clips"]["scores"] == str(scores)
    assert report["scores"]["level"]["mean"] == pytest.approx(0.15) and report["distances"]["frechet_mini"]["n"] == 2


def test_clips_that_are_not_heard_are_counted_with_a_reason(tmp_path):
    folder = folder_of(tmp_path / "clips")
    soundfile.write(folder / "b.wav", np.zeros(RATE * 2), RATE)
    done = invoke("evaluate", folder, "--rewards", "none", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    (note,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())["notes"]
    assert "1 of 4 clips not heard by musicnn (b.wav: silent" in note and f"note: {note}" in done.output


def test_another_generator_is_not_measured_from_the_mini_reference_unless_asked(tmp_path):
    options = ["--config", "tests/fake.yaml", "--rewards", "none", "--out", tmp_path / "out"]
    clips = folder_of(tmp_path / "clips")
    for more, expected in (([], []), (["--reference", "mini"], ["frechet_mini"])):
        done = invoke("evaluate", clips, *options, *more)
        assert done.exit_code == 0, done.output
        report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
        assert list(report["distances"]) == expected
        assert ("note: no distance: the generator of" in done.output) is (expected == [])


@pytest.mark.parametrize(("split", "expected"), [("train", "2 of 2 prompts"), ("heldout", None)])
def test_prompts_that_the_bundled_measures_were_made_from_are_said(split, expected):
    prompts = shipped_prompts(split)[:2]
    seen = ClipSet("a", [prompts[0].upper(), prompts[1]], {"tunejury_mini": [0.0, 0.0], "mine": [0.0, 0.0]}, {})
    notes = fitted_note(seen, "mini")
    assert bool(notes) is (expected is not None)
    assert not notes or (expected in notes[0] and "tunejury_mini, frechet_mini were made from" in notes[0])
    assert fitted_note(ClipSet("a", prompts, {"mine": [0.0, 0.0]}, {}), "none") == []


@pytest.mark.parametrize("verb", ["evaluate", "sweep-score"])
def test_help_has_examples(verb):
    examples = invoke(verb, "--help").output.split("Examples:")[1].split("Options:")[0]
    assert examples.count(f"rlloop {verb} ") >= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clips", "--against", "fewer"], "has 4 clips and fewer has 2: distances depend on n"),
        (["clips", "--scores", "scores.jsonl", "--reference", "none"], "lacks 3 of 4 clips, b.wav first"),
        (["nowhere"], "no such file or folder"),
        (["clips", "--rewards", "none", "--reference", "fewer", "--embedding", "bat"], "embedding 'bat': expected one"),
        (
            ["clips", "--rewards", "none", "--cache", "c", "--reference", "short"],
            "short: 0 of 2 files could be heard",
        ),
        (["clips", "--embedding", "clap"], "--embedding 'clap' with --reference mini: the shipped statistics are by"),
        (["clips", "--reference", "fewer", "--embedding", ","], "give --reference FOLDER and one or more of musicnn"),
        (["clips", "--against-scores", "scores.jsonl"], "--against-scores scores.jsonl without --against"),
        (["fewer", "--scores", "both.jsonl", "--rewards", "judge_mini"], "--rewards has nothing to score"),
        (["fewer", "--scores", "strange.jsonl"], "strange.jsonl:1: scores are {'level': 'loud'}; expected name to a"),
        (["list/scores.jsonl", "--out", "list"], "is read as a list of clips and would be written over"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "clips")
    folder_of(tmp_path / "fewer", names=("a", "b"))
    folder_of(tmp_path / "short", names=("a", "b"), seconds=0.2)
    write_scores(tmp_path / "scores.jsonl", {"a.wav": 0.1})
    write_scores(tmp_path / "both.jsonl", {"a.wav": 0.1, "b.wav": None})
    write_scores(tmp_path / "strange.jsonl", {"a.wav": "loud"})
    (tmp_path / "list").mkdir()
    write_scores(tmp_path / "list" / "scores.jsonl", {"../clips/a.wav": 0.1})
    done = invoke("evaluate", *arguments)
    assert done.exit_code == 2 and message in done.output and done.output.splitlines()[-1].startswith("rlloop: ")
