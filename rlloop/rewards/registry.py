"""Rewards by name: a built-in one, or a class or function of one's own as `package.module:name`."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlloop.config import RewardEntry
from rlloop.rewards.base import Reward
from rlloop.rewards.mini import MINI_NAMES, EncodePrompts, mini_rewards

OFFICIAL = {
    "tunejury": "rlloop.rewards.tunejury:tunejury",
    "clap_score": "rlloop.rewards.clap:clap_score",
}
NAMES = (*OFFICIAL, *MINI_NAMES)
REWARD_IS = "expected `name` and `score(clips)` (rlloop.rewards.base)"


def make_rewards(
    rewards: Sequence[str | RewardEntry],
    encode_prompts: EncodePrompts,
    assets: Path | None = None,
    device: str = "auto",
) -> list[Reward]:
    """Builds rewards in their order; mini ones that hear alike share an ear.

    Args:
        rewards: as in `scorer.rewards`.
        encode_prompts, assets: see mini_rewards.
        device: for those that have such an argument and whose options do not name one.
    Raises:
        ValueError: a target that does not exist, options that it does not take, or something that is no Reward.
    """
    entries = [RewardEntry.model_validate(reward) for reward in rewards]
    for entry in entries:
        check_reward(entry)
    names = list(dict.fromkeys(entry.target for entry in entries if entry.target in MINI_NAMES))
    made = dict(zip(names, mini_rewards(names, encode_prompts, assets), strict=True))
    return [made[entry.target] if entry.target in made else _build(entry, device) for entry in entries]


def check_reward(entry: RewardEntry) -> None:
    """Whether its target can be imported and takes its options; nothing is loaded.

    Raises:
        ValueError: says what is wrong with it.
    """
    if entry.target in MINI_NAMES:
        if entry.options:
            raise ValueError(
                f"reward {entry.name!r}: {entry.target} takes no options, found {', '.join(entry.options)}"
            )
        return
    target = _import(entry.target)
    taken = inspect.signature(target)
    try:
        taken.bind(**_options(entry, target, "auto"))
    except TypeError as error:
        raise ValueError(
            f"reward {entry.name!r}: {error}; {entry.target} takes {', '.join(taken.parameters) or 'no options'}"
        ) from None


def _build(entry: RewardEntry, device: str) -> Reward:
    target = _import(entry.target)
    found = target(**_options(entry, target, device))
    if not isinstance(found, Reward):
        raise ValueError(f"reward {entry.name!r}: {entry.target} made no reward: {REWARD_IS}")
    return found


def _options(entry: RewardEntry, target: Callable[..., Any], device: str) -> dict[str, Any]:
    chosen = {"device": device} if "device" in inspect.signature(target).parameters else {}
    return {**chosen, **entry.options}


def _import(path: str) -> Callable[..., Any]:
    """The class or function behind a built-in name or `package.module:name`."""
    module, colon, attribute = OFFICIAL.get(path, path).partition(":")
    if not colon:
        raise ValueError(f"reward {path!r}: expected one of {', '.join(NAMES)}, or package.module:name")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"reward {path!r}: {error}; expected package.module:name that can be imported") from error
    if not callable(found):
        raise ValueError(f"reward {path!r} is a {type(found).__name__}, expected a class or function that makes one")
    if inspect.isclass(found) and not callable(getattr(found, "score", None)):
        raise ValueError(f"reward {path!r} is no reward: {REWARD_IS}")
    return found
