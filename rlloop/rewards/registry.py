"""Rewards by name: a configuration names a built-in one or a class of its own as `package.module:Class`."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from rlloop.rewards.base import Reward
from rlloop.rewards.mini import MINI_NAMES, EncodePrompts, mini_rewards


def make_rewards(names: Sequence[str], encode_prompts: EncodePrompts, assets: Path | None = None) -> list[Reward]:
    """Builds rewards in the order of their names.

    Args:
        names: built-in names, or `package.module:Class` of a class that takes no arguments and is a Reward.
        encode_prompts, assets: see mini_rewards.
    Raises:
        ValueError: a name that is neither, or a class that is not a Reward.
    """
    built_in = [name for name in names if name in MINI_NAMES]
    made = dict(zip(built_in, mini_rewards(built_in, encode_prompts, assets), strict=True))
    return [made[name] if name in made else import_class(name)() for name in names]


def import_class(name: str) -> Callable[[], Reward]:
    """The class behind `package.module:Class`."""
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"reward {name!r}: expected one of {', '.join(MINI_NAMES)}, or package.module:Class")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"reward {name!r}: {error}; expected package.module:Class that can be imported") from error
    if not callable(getattr(found, "score", None)) or not hasattr(found, "name"):
        raise ValueError(f"reward {name!r}: expected a class with `name` and `score(clips)` (rlloop.rewards.base)")
    return found
