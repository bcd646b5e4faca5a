"""What a configuration may not hold, secrets, and the only code that it can name: the dotted paths of its targets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from rlloop.config.rewards import RewardPool
from rlloop.config.sections import Sampler

if TYPE_CHECKING:
    from rlloop.config.run import Config

# Of a key's parts, in small letters with words apart: apiToken is api_token. Plain `tokens` and `x_token` are secrets,
# but not counts of text tokens (max_tokens) nor the names of special ones (pad_token).
SECRET_KEY = re.compile(
    r"(^|_)((?<!max_)(?<!min_)(?<!num_)(?<!of_)(?<!n_)(?<!pad_)(?<!eos_)(?<!bos_)(?<!mask_)(?<!unk_)(?<!sep_)(?<!cls_)"
    r"tokens?|passwords?|passwd|pwd|passphrase|secrets?|credentials?|auth|authorization|bearer|apikey|accesskey"
    r"|(api|access|private|secret|signing|encryption|ssh|auth|account|hf|hub|huggingface|wandb|openai|aws|gcp|azure)"
    r"_?keys?)$"
)
SECRET_QUERY = re.compile(r"(^|_)(sig|signature|key)$")  # of an address, beside the words above
SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|(AKIA|ASIA)[A-Z0-9]{16}|sk-[A-Za-z0-9_-]{20,}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{30,}|[Bb]earer\s+[A-Za-z0-9._~+/=-]{16,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*"
)
HIDDEN = "***"
BUILT_IN = tuple(section.model_fields["target"].default for section in (Sampler, RewardPool))
ADVICE = "a configuration is stored and shown; give it by an environment variable, such as HF_TOKEN"


def secret_problems(config: Config) -> list[str]:
    """A line for each value that looks like a secret; the value itself is not in it."""
    return [
        f"{key}: {problem}, and {ADVICE}"
        for key, value in _leaves(config.model_dump(mode="json"))
        if (problem := _problem(key, value))
    ]


def _problem(key: str, value: Any) -> str:
    """What is secret about a value, by its key or by itself; '' for nothing. Numbers may be passwords, truths not."""
    if not value or isinstance(value, bool):
        return ""
    if any(is_secret_key(part) and not is_token_count(part, value) for part in key.split(".")):
        return "by its name this is a secret"
    if not isinstance(value, str):
        return ""
    if SECRET_VALUE.search(value):
        return "holds an access token"
    if has_password(value):
        return "holds an address with a password"
    return "holds an address with a token" if has_token(value) else ""


def is_secret_key(part: str) -> bool:
    """Whether one part of a dotted key names a secret."""
    return bool(SECRET_KEY.search(_words_apart(part)))


def is_token_count(part: str, value: Any) -> bool:
    """A small number under a name of tokens is how many, or which of a vocabulary."""
    return isinstance(value, int | float) and abs(value) < 10**7 and _words_apart(part).rstrip("s").endswith("token")


def _words_apart(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()


def has_password(value: str) -> bool:
    return any(address.password for address in _addresses(value))


def has_token(value: str) -> bool:
    """Whether an address in it has a signature or a token among its parameters."""
    names = [name for address in _addresses(value) for name, _ in parse_qsl(address.query)]
    return any(is_secret_key(name) or SECRET_QUERY.search(_words_apart(name)) for name in names)


def _addresses(value: str) -> Iterator[SplitResult]:
    for word in value.split() if "://" in value else ():
        try:
            yield urlsplit(word)
        except ValueError:
            continue


def redacted(value: Any, key: str = "") -> Any:
    """A value as it may be shown in a message: what looks like a secret in it is hidden."""
    if isinstance(value, dict):
        return {name: redacted(inner, f"{key}.{name}") for name, inner in value.items()}
    if isinstance(value, list):
        return [redacted(inner, f"{key}.{n}") for n, inner in enumerate(value)]
    if isinstance(value, str) and not any(map(is_secret_key, key.split("."))):
        shown = SECRET_VALUE.sub(HIDDEN, value)
        return " ".join(HIDDEN if has_password(word) or has_token(word) else word for word in shown.split(" "))
    return HIDDEN if _problem(key, value) else value


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
