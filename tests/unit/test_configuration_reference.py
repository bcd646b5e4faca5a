"""docs/configuration.md is what the schema says, and the schema says something about every key."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rlloop.commands.main import app
from rlloop.config import PRESETS, build, load
from rlloop.config.reference import reference, section_of, type_text, walk
from rlloop.config.run import Config
from rlloop.config.training import Trainer

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == reference(), "rlloop config --reference > docs/configuration.md"


def test_every_key_and_section_says_what_it_is():
    silent = [
        f"{name}.{key}".lstrip(".")
        for name, model in walk(Config, "")
        for key, field in model.model_fields.items()
        if not field.description and section_of(field.annotation) is None
    ]
    assert silent == [] and all(model.__doc__ for _, model in walk(Config, ""))


def test_types_carry_their_bounds():
    field = Trainer.model_fields["ema_sigmas"]
    assert type_text(field.annotation, field.metadata) == "list of number > 0 and < 0.28"
    assert "| `min_workers` | integer >= 1 or null | `null` |" in reference()


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_a_printed_preset_is_the_preset(preset):
    printed = CliRunner().invoke(app, ["config", preset, "seed=3"])
    assert printed.exit_code == 0 and build(yaml.safe_load(printed.output)) == load(preset, ["seed=3"])
