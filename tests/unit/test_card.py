"""The shipped model card says what its two files of figures hold."""

import json
from pathlib import Path

import rlloop
from rlloop.recipes.mini_card_text import model_card

ASSETS = Path(rlloop.__file__).parent / "assets" / "mini"


def test_the_card_is_the_text_of_its_figures():
    figures = json.loads((ASSETS / "card_generator.json").read_text())
    rewards = json.loads((ASSETS / "card_rewards.json").read_text())
    assert (ASSETS / "MODEL_CARD.md").read_text() == model_card(figures, rewards)


def test_the_shipped_weights_stay_under_twenty_megabytes():
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < 20e6
