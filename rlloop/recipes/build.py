"""Builds what a configuration names: the generator, the rewards, the prompts."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rlloop.config import Config, Generator, RewardEntry, Role, resolve_rewards

GENERATORS = {
    "mini": "rlloop.models.policy:mini_generator",
    "fluxaudio": "rlloop.models.official:build_official",
}


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


def generator_builder(config: Config) -> Callable[[], Any]:
    """What builds the generator, its options checked but nothing loaded.

    Raises:
        ValueError: the target cannot be imported, or an option is missing or unknown.
    """
    settings = config.generator
    function = load_target(GENERATORS.get(settings.target, settings.target))
    options = dict(settings.options)
    if settings.target == "mini":
        options.setdefault("text_encoder", settings.text_encoder)
    check_options(function, options, settings)
    return partial(function, **options)


def check_options(function: Callable, options: Mapping[str, Any], settings: Generator) -> None:
    """Every option must be an argument of the target, and every argument without a default an option.

    Raises:
        ValueError: the first that is not; names what is allowed.
    """
    parameters = inspect.signature(function).parameters
    allowed = ", ".join(parameters)
    is_open = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in options:
        if name in parameters or is_open:
            continue
        if name in settings.placement:
            raise ValueError(f"generator.options.{name} is a setting of the sampler's copy alone: set generator.{name}")
        raise ValueError(f"generator.options.{name} is unknown; '{settings.target}' takes {allowed}")
    for name, parameter in parameters.items():
        is_named = parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        if is_named and parameter.default is inspect.Parameter.empty and name not in options:
            raise ValueError(f"generator.options.{name} is missing; '{settings.target}' takes {allowed}")


def build_generator(config: Config) -> Any:
    """The generator (rlloop.models.policy.Generator), with the weights that it ships with, as it is trained."""
    return generator_builder(config)()


def place_generator(generator: Any, config: Config, role: Role) -> Any:
    """The generator as the samplers of a role run it: on its device, in its dtype, perhaps compiled.

    Raises:
        ValueError: the configuration asks for what this generator or this machine does not have.
    """
    placement, defaults = config.generator.placement, Generator().placement
    if not hasattr(generator, "place"):
        for name, value in placement.items():
            if value != defaults[name]:
                raise ValueError(
                    f"generator.{name} is {value}, but '{config.generator.target}' has no place() method to do it; "
                    f"set it to {defaults[name]}"
                )
        return generator
    if placement["device"] == "auto" and not role.num_gpus:  # Ray shows every process all GPUs of its node
        placement["device"] = "cpu"
    return generator.place(**placement)


def build_rewards(rewards: Sequence[str | RewardEntry], config: Config, has_gpu: bool = True) -> list[Any]:
    """Rewards (rlloop.rewards.base.Reward) in their order, as scorer.rewards or its names.

    Args:
        has_gpu: whether they may compute on one; without it those that choose for themselves stay on the CPU.
    """
    from rlloop.models.text import PromptFeatures
    from rlloop.rewards.registry import make_rewards

    encode = PromptFeatures(config.generator.text_encoder).encode
    return make_rewards(resolve_rewards(rewards, config), encode, device="auto" if has_gpu else "cpu")


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
