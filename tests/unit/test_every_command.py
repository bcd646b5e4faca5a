"""Every command: help with an example, and one clear line with a status other than zero where it cannot work."""

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from rlloop.commands.main import app


def commands(command, path=()):
    """(words, command) of every command without further ones."""
    inner = getattr(command, "commands", None)
    if not inner:
        yield path, command
        return
    for name, one in sorted(inner.items()):
        yield from commands(one, (*path, name))


EVERY = dict(commands(get_command(app)))


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_help_has_an_example(words):
    done = CliRunner().invoke(app, [*words, "--help"])
    assert done.exit_code == 0
    assert "Example" in done.stdout and f"rlloop {' '.join(words)}" in done.stdout, done.stdout


CASES = {
    "generate, unknown run": ["generate", "a piano", "--run", "{none}", "--out", "{new}"],
    "generate, missing checkpoint": ["generate", "a piano", "--weights", "{none}.safetensors", "--out", "{new}"],
    "generate, empty prompt file": ["generate", "--prompts", "{empty}", "--out", "{new}"],
    "generate, a file where the folder should be": ["generate", "a piano", "--out", "{empty}"],
    "report": ["report", "{none}"],
    "ledger": ["ledger", "{none}"],
    "scale": ["scale", "{none}", "--samplers", "2"],
    "decomposition": ["decomposition", "{none}"],
    "sweep-score": ["sweep-score", "--weights", "{none}", "--scores", "0,1", "--out", "{new}"],
    "score": ["score", "{none}", "--out", "{new}"],
    "evaluate": ["evaluate", "{none}"],
    "features": ["features", "{none}", "--out", "{new}"],
    "data prepare": ["data", "prepare", "{none}", "--captions", "{none}", "--out", "{new}"],
    "reward train": ["reward", "train", "{none}", "--out", "{new}"],
    "reward calibrate": ["reward", "calibrate", "{none}", "--out", "{new}"],
    "postprocess": ["postprocess", "loudness", "{none}", "--out", "{new}"],
    "weights export": ["weights", "export", "{none}", "{new}"],
    "weights import": ["weights", "import", "{none}"],
    "weights average": ["weights", "average", "{none}", "{new}", "--stage", "sft", "--sigma", "0.05"],
    "sweep": ["sweep", "{none}", "--over", "trainer.clip_grad_norm=[1,2]", "--out", "{new}"],
    "config": ["config", "{none}"],
    "doctor": ["doctor", "--config", "{none}"],
}


@pytest.mark.parametrize("words", CASES.values(), ids=CASES)
def test_what_is_not_there_is_one_line_and_a_status(words, tmp_path):
    (tmp_path / "empty").touch()
    places = {"none": tmp_path / "nowhere", "empty": tmp_path / "empty", "new": tmp_path / "new"}
    done = CliRunner().invoke(app, [word.format(**places) for word in words])
    said = [line for line in done.stderr.splitlines() if line.startswith("rlloop: ") and "rlloop: note: " not in line]
    assert done.exit_code not in (0, None) and len(said) == 1, (done.stdout, done.stderr, done.exception)
    assert str(tmp_path) in said[0], said
    assert "Traceback" not in done.stderr
