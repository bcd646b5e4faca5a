"""Demucs models from their published files, without un-pickling them.

Demucs' own loader un-pickles whole files. They hold a class by its name, the arguments to build it with, and a state
dict; here the names are read as stand-ins that run nothing, and the class that is meant is built by us.
"""

from __future__ import annotations

import fractions
import hashlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from demucs.apply import BagOfModels, Model
from demucs.demucs import Demucs
from demucs.hdemucs import HDemucs

from rlloop.weights import check_tensors, read_checkpoint, resolve

KINDS = {
    "demucs.demucs.Demucs": Demucs,
    "demucs.hdemucs.HDemucs": HDemucs,
    "demucs.wdemucs.WDemucs": HDemucs,  # its name before
}


def stand_in(name: str) -> type:
    """A class of this name that can do nothing."""
    return type(name, (), {})


STAND_INS = {stand_in(name): name for name in KINDS}
NAMES = [*STAND_INS.items(), (fractions.Fraction, "fractions.Fraction")]


def load_separator(repo: str, name: str = "mdx_extra") -> BagOfModels:
    """A bag of models in eval mode.

    Args:
        repo: folder with {name}.yaml (a list of signatures, and perhaps weights and a segment) and {signature}-{first
            hexadecimal digits of sha256}.th; or its name in `rlloop weights list`.
    Raises:
        ValueError: a file is missing, damaged, not what its name says, or wants more than such a file needs.
    """
    folder = resolve(repo)
    bag = read_bag(folder / f"{name}.yaml")
    models = [load_model(find_file(folder, signature)) for signature in bag["models"]]
    try:
        found = BagOfModels(models, bag.get("weights"), bag.get("segment"))
    except (AssertionError, TypeError):  # its own words are none
        raise ValueError(
            f"{folder / name}.yaml: its models do not go together, or its weights are not of them"
        ) from None
    return found.eval().requires_grad_(False)


def read_bag(path: Path) -> dict[str, Any]:
    """Which models a bag has.

    Raises:
        ValueError: missing, or no such list.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} is missing; expected the list of a Demucs bag (`rlloop weights fetch demucs_mdx_extra`)"
        )
    try:
        bag = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    models = bag.get("models") if isinstance(bag, dict) else None
    if not isinstance(models, list) or not models or not all(isinstance(each, str) for each in models):
        raise ValueError(f"{path} names no models; expected models: [signature, ...]")
    return bag


def find_file(folder: Path, signature: str) -> Path:
    """The file of a signature, its content that of the checksum in its name.

    Raises:
        ValueError: there is none or more than one, or its checksum is another.
    """
    files = sorted(folder.glob(f"{signature}-*.th")) + sorted(folder.glob(f"{signature}.th"))
    if len(files) != 1:
        raise ValueError(f"{folder} holds {len(files)} files {signature}-*.th; expected one")
    path, expected = files[0], files[0].stem.partition("-")[2]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected):
        raise ValueError(f"{path}: its sha256 begins with {found[:8]}, not as its name says; fetch it again")
    return path


def load_model(path: Path) -> Model:
    """One model of a bag, in float32.

    Raises:
        ValueError: it is of a class that is not built here, quantised, or its tensors are not those of its class.
    """
    package = read_checkpoint(path, names=NAMES)
    kind = package.get("klass")
    kind = KINDS.get(STAND_INS.get(kind, "") if isinstance(kind, type) else "")
    args, kwargs, state = (package.get(key) for key in ("args", "kwargs", "state"))
    if (
        kind is None
        or not isinstance(args, list | tuple)
        or not isinstance(kwargs, dict)
        or not isinstance(state, dict)
    ):
        raise ValueError(f"{path} is no Demucs model; expected klass ({', '.join(KINDS)}), args, kwargs and state")
    if "__quantized" in state:
        raise ValueError(f"{path} is quantised (DiffQ), which is not read; take the plain models")
    model = build_model(path, kind, args, kwargs)
    check_tensors(path, state, model.state_dict())
    model.load_state_dict(state)
    return model.float().eval()


def build_model(path: Path, kind: type[Model], args: Any, kwargs: Mapping[str, Any]) -> Model:
    """The class with its arguments; those that this version of demucs no longer has are left out, as by its loader."""
    known = inspect.signature(kind).parameters
    try:
        return kind(*args, **{key: value for key, value in kwargs.items() if key in known})
    except Exception as error:  # whatever strange sizes make a constructor raise
        said = " ".join(str(error).split())
        raise ValueError(f"{path}: {kind.__name__} cannot be built with its arguments ({said})") from error
