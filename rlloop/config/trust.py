"""What a configuration may not hold, secrets, and the only code that it can name: the dotted paths of its targets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rlloop.config.rewards import RewardPool
from rlloop.config.sections import Sampler

if TYPE_CHECKING:
    from rlloop.config.run import Config

SECRET_KEY = re.compile(r"(?i)(^|_)(token|password|passwd|secret|api_?key|access_?key|credentials?)$")
SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|(AKIA|ASIA)[A-Z0-9]{16}|sk-[A-Za-z0-9_-]{20,})"
)
BUILT_IN = tuple(section.model_fields["target"].default for section in (Sampler, RewardPool))
ADVICE = "a configuration is stored and shown; give it by an environment variable, such as HF_TOKEN"


def secret_problems(config: Config) -> list[str]:
    """A line for each value that looks like a secret; the value itself is not in it."""
    found = []
    for key, value in _leaves(config.model_dump(mode="json")):
        if not isinstance(value, str):
            continue
        if SECRET_KEY.search(key.rpartition(".")[2]) and value:
            found.append(f"{key}: by its name this is a secret, and {ADVICE}")
        elif SECRET_VALUE.search(value):
            found.append(f"{key}: holds an access token, and {ADVICE}")
        elif has_password(value):
            found.append(f"{key}: holds an address with a password, and {ADVICE}")
    return found


def has_password(value: str) -> bool:
    if "://" not in value:
        return False
    try:
        return any(urlsplit(word).password for word in value.split())
    except ValueError:
        return False


def named_code(config: Config) -> list[tuple[str, str]]:
    """(key, dotted path) of all code that is not built in: of generator, pools, rewards, algorithms, steps.

    A path into rlloop is such code, too: some of its functions run what their arguments say.
    """
    found = [(key, value) for key, value in _leaves(config.model_dump(mode="json")) if _is_target(key, value)]
    return list(dict.fromkeys(found))


def code_line(config: Config) -> str:
    """What `named_code` finds, in one line; "" where it finds nothing."""
    named = ", ".join(f"{key} {path}" for key, path in named_code(config))
    return f"the configuration names code that is run: {named}" if named else ""


def refuse_code(config: Config, where: str) -> None:
    """For a configuration that comes with a run, which may be anybody's.

    Raises:
        ValueError: it names code.
    """
    if named := named_code(config):
        key, path = named[0]
        more = f" and {len(named) - 1} more" if len(named) > 1 else ""
        raise ValueError(
            f"{where}: its configuration names code that would be run, {key} {path}{more}; give --trust-code if you "
            "know it, or --config with one of your own"
        )


def _is_target(key: str, value: Any) -> bool:
    """Whether a key is one of those under which code is looked up, and its value not built in."""
    parts = key.split(".")
    parts = parts[3:] if parts[:2] == ["scorer", "pools"] else parts  # the name of a pool may be any word
    listed = len(parts) > 1 and parts[-1].isdigit() and parts[-2] in ("rewards", "scores", "postprocess")
    is_looked_up = parts[-1] in ("target", "algorithm") or listed
    return is_looked_up and "options" not in parts and isinstance(value, str) and ":" in value and value not in BUILT_IN


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in pairs:
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value
