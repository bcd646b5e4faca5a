"""From YAML and overrides to a configuration; what is wrong with them is one line."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rlloop.config.run import Config
from rlloop.config.sections import Section
from rlloop.config.trust import redacted

PRESETS = Path(__file__).resolve().parents[2] / "configs"


def load(config: str | os.PathLike | None = None, overrides: list[str] | None = None) -> Config:
    """Reads a preset or file, applies `a.b=value` overrides, validates.

    Raises:
        ValueError: one line that says what was found, what was expected and what to change.
    """
    path = find_preset(config or "mini")
    raw = read_raw(path)
    for override in overrides or []:
        apply_override(raw, override)
    return build(raw, source=str(path))


def read_raw(path: Path) -> dict[str, Any]:
    """A configuration file as a plain mapping, not validated.

    Raises:
        ValueError: it cannot be read, or holds no mapping.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not readable as YAML: {redacted(' '.join(str(error).split()))}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: holds a {type(raw).__name__}; expected a mapping such as 'seed: 0'")
    return raw


def build(raw: dict[str, Any], source: str = "configuration") -> Config:
    """Validates a plain mapping; turns pydantic's report into one line about the first problem."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ValueError(f"{source}: {explain(error)}") from None


def find_preset(config: str | os.PathLike) -> Path:
    """A path as given, or the name of a preset in configs/."""
    path = Path(config)
    for candidate in (path, PRESETS / path.name, PRESETS / f"{path.name}.yaml"):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))
    raise ValueError(f"no configuration file '{config}'; give a path or one of the presets: {known}")


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Sets `a.b.0.c=value` in the raw mapping; the value is read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ValueError(f"override '{redacted(override)}' has no '='; expected key=value, as in sampler.num_actors=2")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        value = text
    here: Any = raw
    *parents, last = key.split(".")
    for depth, part in enumerate(parents):
        if isinstance(here, list):
            here = here[index_in(here, part, key)]
        else:
            here = here.setdefault(part, {})
        if not isinstance(here, dict | list):
            raise ValueError(f"override '{key}': '{'.'.join(parents[: depth + 1])}' is a value, not a section")
    if isinstance(here, list):
        here[index_in(here, last, key)] = value
    else:
        here[last] = value


def index_in(items: list, part: str, key: str) -> int:
    """Position of `part` in a list of the configuration: a number, or the name of a stage."""
    named = [n for n, item in enumerate(items) if isinstance(item, dict) and item.get("name") == part]
    if named:
        return named[0]
    if part.isdigit() and int(part) < len(items):
        return int(part)
    raise ValueError(f"override '{key}': '{part}' is no position 0..{len(items) - 1} and no name in that list")


def explain(error: ValidationError) -> str:
    """The first problem of a pydantic report as one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = known_keys(first["loc"])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.3)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(sorted(known))}"
        return f"unknown key '{where}'; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    found = redacted(first.get("input"), where)
    return redacted(f"{where}: {message} (found {found!r})" if where else message)


def known_keys(loc: tuple[int | str, ...]) -> list[str]:
    """Field names of the section that a location of a pydantic report lies in."""
    section: Any = Config
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation
        section = next((a for a in getattr(annotation, "__args__", [annotation]) if _is_section(a)), annotation)
        if not _is_section(section):
            return []
    return list(section.model_fields)


def _is_section(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Section)
