"""The `rlloop` command: its verbs, and one line for a mistake."""

from typer.testing import CliRunner

from rlloop.commands.main import app


def test_every_verb_is_listed():
    listed = CliRunner().invoke(app, ["--help"])
    assert listed.exit_code == 0 and "train-mini" in listed.output


def test_a_folder_without_clips_is_one_line(tmp_path):
    folders = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    done = CliRunner().invoke(app, ["train-mini", str(tmp_path), *folders])
    assert done.exit_code == 2
    assert done.output == f"rlloop: {tmp_path} holds no clips.jsonl; expected a folder of clips described by it\n"
