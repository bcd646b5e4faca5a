"""The `rlloop` command: its verbs, and one line for a mistake."""

import json

import pytest
import typer
from typer.testing import CliRunner

from actors.session import NoAnswer
from rlloop.commands.main import app, one_line_errors


def test_every_verb_is_listed():
    listed = CliRunner().invoke(app, ["--help"])
    assert listed.exit_code == 0 and "train-mini" in listed.output


def test_a_folder_without_clips_is_one_line(tmp_path):
    folders = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    done = CliRunner().invoke(app, ["train-mini", str(tmp_path), *folders])
    assert done.exit_code == 2
    assert done.output == f"rlloop: {tmp_path} holds no clips.jsonl; expected a folder of clips described by it\n"


def test_a_folder_where_a_file_is_to_be_written_is_one_line(tmp_path):
    row = {"reward_a": 1.0, "reward_b": 0.0, "system_a": "x", "system_b": "y", "winner": "model_a"}
    (tmp_path / "pairs.jsonl").write_text("\n".join([json.dumps(row)] * 8))
    done = CliRunner().invoke(app, ["reward", "calibrate", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path)])
    assert (done.exit_code, done.output) == (2, f"rlloop: {tmp_path}: Is a directory\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(2, "No such file or directory", "clips"), "clips: No such file or directory"),
        (ConnectionError("the hub\n  does not answer"), "the hub does not answer"),
        (TimeoutError(), "TimeoutError"),
        (
            NoAnswer("scale", "buffer", "pools", 60.0, "ActorDiedError: it died"),
            "scale waits for buffer.pools since 60 s; last error: ActorDiedError: it died; logs: ray logs",
        ),
    ],
)
def test_what_the_system_says_is_one_line(error, line, capsys):
    def verb():
        raise error

    with pytest.raises(typer.Exit) as caught:
        one_line_errors(verb)()
    assert caught.value.exit_code == 2 and capsys.readouterr().err == f"rlloop: {line}\n"


def test_a_reader_that_has_seen_enough_is_no_mistake():
    def verb():
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        one_line_errors(verb)()
