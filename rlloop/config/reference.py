"""The configuration reference in markdown, generated from the schema: key, type and bounds, default, meaning.

`rlloop config --reference` prints it; docs/configuration.md is its output, and a test compares the two.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rlloop.config.rewards import RewardEntry
from rlloop.config.run import Config
from rlloop.config.targets import StepEntry, TargetEntry

HEAD = """# Configuration

Written by `rlloop config --reference` from the schema in `rlloop/config/`; a test keeps it up to date.

A configuration is a preset of `configs/` or a YAML file, with overrides behind it: `stages.sft.phases.0.updates=100`. A
list takes a position, or the name of a stage. `rlloop config PRESET KEY=VALUE` prints one resolved, as YAML that
`--config` reads again. An unknown key is refused with the nearest known one.
"""
BOUNDS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", ByteSize: "bytes", Any: "any value"}


def reference() -> str:
    """All keys as markdown: a table for the run itself, then one for each section."""
    sections = list(walk(Config, ""))
    return "\n".join([HEAD, *(section_text(name, model, sections) for name, model in sections)])


def walk(model: type[BaseModel], name: str, seen: set | None = None) -> Iterator[tuple[str, type[BaseModel]]]:
    """(dotted name, section) depth first; each kind of section once, where it comes first."""
    seen = {model} if seen is None else seen
    yield name, model
    for key, field in model.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None and inner not in seen:
            seen.add(inner)
            yield from walk(inner, dotted(name, key, field), seen)


def dotted(name: str, key: str, field: FieldInfo) -> str:
    """The name of what a field holds: items that have names are called NAME, phases N."""
    item = "N" if key == "phases" else "NAME"
    return ".".join(filter(None, (name, key, item if get_origin(field.annotation) in (list, dict) else "")))


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation names, alone, as an item or beside null."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (section_of(argument) for argument in get_args(annotation) if argument is not annotation)
    return next((section for section in found if section is not None), None)


def section_text(name: str, model: type[BaseModel], sections: list[tuple[str, type[BaseModel]]]) -> str:
    """Heading, what the section is, and its table."""
    first = " ".join((model.__doc__ or "").split("\n\n")[0].split())
    rows = [f"| {' | '.join(row(name, key, field, sections))} |" for key, field in model.model_fields.items()]
    head = ["| key | type | default | what it is |", "|---|---|---|---|"]
    return "\n".join([f"## {f'`{name}`' if name else 'The run'}", "", first, "", *head, *rows, ""])


def row(name: str, key: str, field: FieldInfo, sections: list[tuple[str, type[BaseModel]]]) -> tuple[str, ...]:
    """One key; a section stands with a pointer to its table."""
    inner = section_of(field.annotation)
    if inner is not None and not issubclass(inner, TargetEntry):
        where = next(place for place, model in sections if model is inner)
        kind = {list: "list of sections", dict: "name -> section"}.get(get_origin(field.annotation), "section")
        what = f"{field.description}; " if field.description else ""
        default = "null" if field.default is None else ""
        return f"`{key}`", kind, default, escaped(f"{what}see [`{where}`](#{where.replace('.', '').lower()})")
    return (
        f"`{key}`",
        escaped(type_text(field.annotation, field.metadata)),
        default_text(field),
        escaped(field.description or ""),
    )


def type_text(annotation: Any, metadata: list[Any] | None = None) -> str:
    """A type in words, with its bounds: `integer >= 1`, `one of euler, heun`, `number or null`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0], [*arguments[1:]])
    if origin is Literal:
        words = ", ".join(f"{value}" for value in arguments)
        return f"one of {words}" if len(arguments) > 1 else words
    if origin in (Union, types.UnionType):
        words = [type_text(one, metadata) for one in arguments if one is not type(None)]
        return " or ".join([*words, *(["null"] if type(None) in arguments else [])])
    if origin is list:
        return f"list of {type_text(arguments[0])}{bounds(metadata)}"
    if origin is dict:
        return f"{type_text(arguments[0])} -> {type_text(arguments[1])}"
    if origin is tuple:
        return f"[{', '.join(type_text(one) for one in arguments)}]"
    if annotation in (RewardEntry, StepEntry):
        return "reward" if annotation is RewardEntry else "step"
    return f"{WORDS.get(annotation, getattr(annotation, '__name__', str(annotation)))}{bounds(metadata)}"


def bounds(metadata: list[Any] | None) -> str:
    """Bounds of a number, the pattern of a text, or the least length of a list."""
    found = [f" {sign} {getattr(one, name)}" for name, sign in BOUNDS for one in flattened(metadata) if has(one, name)]
    lengths = [one.min_length for one in metadata or () if has(one, "min_length")]
    patterns = [f" like `{one.pattern}`" for one in flattened(metadata) if has(one, "pattern")]
    return " and".join(found) + "".join(f", at least {length}" for length in lengths) + "".join(patterns)


def flattened(metadata: list[Any] | None) -> Iterator[Any]:
    """Constraints; a FieldInfo inside an Annotated keeps its own."""
    for one in metadata or ():
        yield one
        yield from getattr(one, "metadata", ())


def has(constraint: Any, name: str) -> bool:
    return getattr(constraint, name, None) is not None


def default_text(field: FieldInfo) -> str:
    """The default as YAML on one line; nothing where a value has to be given."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, ByteSize):
        return f"`{value.human_readable(separator='')}`"
    plain = [one.model_dump() if isinstance(one, BaseModel) else one for one in value] if is_many(value) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=1000, allow_unicode=True).strip()
    return f"`{escaped(text.removesuffix('...').strip())}`"


def is_many(value: Any) -> bool:
    return isinstance(value, list | tuple)


def escaped(text: str) -> str:
    """A bar would end the cell."""
    return text.replace("|", "\\|")
