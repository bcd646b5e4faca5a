"""Builds what a configuration names: the generator, the rewards, the prompts."""

from __future__ import annotations

import importlib
from typing import Any

from rlloop.config import Config


def load_target(path: str) -> Any:
    """The object at a dotted path `package.module:name`: the only code that a configuration can name.

    Raises:
        ValueError: the path has no colon or cannot be imported.
    """
    module, colon, name = path.partition(":")
    if not colon:
        raise ValueError(f"'{path}' is no built-in and no dotted path package.module:name")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"'{path}' cannot be imported: {error}") from error


def build_generator(config: Config) -> Any:
    """The generator (rlloop.models.policy.Generator), with the weights that it ships with."""
    if config.generator.target == "mini":
        from rlloop.models.policy import mini_generator

        return mini_generator(text_encoder=config.generator.text_encoder, **config.generator.options)
    return load_target(config.generator.target)(**config.generator.options)


def build_rewards(names: list[str], config: Config) -> list[Any]:
    """Rewards (rlloop.rewards.base.Reward) in the order of `names`."""
    from rlloop.models.text import PromptFeatures
    from rlloop.rewards.registry import make_rewards

    return make_rewards(names, PromptFeatures(config.generator.text_encoder).encode)


def training_prompts(config: Config) -> list[str]:
    """Prompts that tickets draw from."""
    from rlloop.data.prompts import read_prompts, shipped_prompts

    return read_prompts(config.prompts) if config.prompts else shipped_prompts("train")


def heldout_prompts(config: Config) -> list[str]:
    """The first `evaluation.num_prompts` held-out prompts.

    Raises:
        ValueError: fewer exist, with both numbers.
    """
    from rlloop.data.prompts import read_prompts, shipped_prompts

    prompts = read_prompts(config.heldout_prompts) if config.heldout_prompts else shipped_prompts("heldout")
    if len(prompts) < config.evaluation.num_prompts:
        raise ValueError(
            f"evaluation.num_prompts is {config.evaluation.num_prompts}, only {len(prompts)} held-out prompts exist; "
            "lower it or give heldout_prompts=FILE"
        )
    return prompts[: config.evaluation.num_prompts]
