"""Reading what anybody may have written: JSON of bounded size and depth from plain files, paths that stay inside."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

MAX_JSON_BYTES = 256 * 2**20
T = TypeVar("T")


def plain_file_size(path: Path) -> int:
    """Bytes of a regular file that is no link; opens nothing, as a pipe would wait for a writer.

    Raises:
        ValueError: missing, a link, a folder, a pipe; one line.
    """
    try:
        found = os.lstat(path)
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        raise ValueError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a link" if stat.S_ISLNK(found.st_mode) else "no regular file"
        raise ValueError(f"{path}: is {kind}; expected the file itself")
    return found.st_size


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The value in a JSON file.

    Raises:
        ValueError: missing, no plain file, too large, no UTF-8, no JSON, nested too deeply; one line.
    """
    if (size := plain_file_size(path)) > max_bytes:
        raise ValueError(f"{path}: has {size} bytes, at most {max_bytes} are read")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except RecursionError:
        raise ValueError(f"{path}: is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON ({' '.join(str(error).split())[:120]})") from None


def read_as(kind: type[T], path: Path) -> T:
    """The value in a JSON file, as a type that pydantic knows: a dataclass, dict[str, list[str]], ...

    Raises:
        ValueError: as `read_json`, or the first place where it is something else.
    """
    return as_kind(kind, read_json(path), str(path))


def as_kind(kind: type[T], value: Any, where: str) -> T:
    """A plain value as a type.

    Raises:
        ValueError: the first place where it is something else; begins with `where`.
    """
    try:
        return TypeAdapter(kind).validate_python(value, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {place or 'its value'}: {first['msg'][:120]}") from None
    except RecursionError:
        raise ValueError(f"{where}: is nested too deeply") from None


def is_inside(name: str) -> bool:
    """Whether a relative path stays in the folder that it is relative to, as far as names tell."""
    parts = Path(name).parts
    return bool(name) and "\0" not in name and not Path(name).is_absolute() and ".." not in parts


def is_file_name(name: Any) -> bool:
    """Whether it names a file of one folder and nothing else."""
    return isinstance(name, str) and is_inside(name) and Path(name).name == name
