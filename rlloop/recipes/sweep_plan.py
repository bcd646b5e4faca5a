"""What a sweep runs: dotted keys with several values, times seeds, each one trial of the loop in its own run directory.

Nothing here looks at a run: of the disk only the preset is read. `sweep` is of configurations; that of the conditioning
score is score_sweep.py.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlloop.config import find_preset
from rlloop.config.loading import apply_override, index_in, read_raw
from rlloop.resources import Sizes

AS_GIVEN = "as given"  # the one setting of a sweep over seeds alone
OWN_KEYS = {"seed": "--seeds", "run_dir": "--out"}
Place = tuple[str | int, ...]
MAX_FOLDER = 80
MAX_COUNT = 1000  # of seeds that are not listed: a longer number is one seed that lacks its comma


@dataclass(frozen=True)
class Axis:
    """A dotted key of the configuration and the values that it takes, in the order given."""

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Setting:
    """One value of every axis: what tables call it, its folder, and its overrides."""

    label: str
    folder: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """One run of the loop: waiting -> running -> finished | stopped | failed."""

    preset: str
    setting: Setting
    seed: int
    run_dir: Path
    overrides: tuple[str, ...]  # of the entry point: the common ones, the setting's, seed and run_dir

    @property
    def name(self) -> str:
        return f"{self.setting.label}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """What the run prints; every attempt appends to it."""
        return self.run_dir.with_name(f"{self.run_dir.name}.log")


def parse_axis(text: str) -> Axis:
    """`a.b=[1, 2]` as an axis; the list is read as YAML, 3e-5 and 1.5e4, which YAML takes for text, as numbers.

    Raises:
        ValueError: no key, no list, an empty one, or a value twice.
    """
    key, equals, listed = text.partition("=")
    try:
        values = yaml.safe_load(listed)
    except yaml.YAMLError:
        values = None
    if not key or not equals or not isinstance(values, list) or not values:
        raise ValueError(
            f"--over '{text}': expected KEY=[VALUE,VALUE], as in --over stages.0.phases.0.learning_rate=[3e-5,1e-4]"
        )
    values = [_number(value) for value in values]
    twice = [value for n, value in enumerate(values) if value in values[:n]]
    if twice:
        raise ValueError(f"--over {key}: the value {twice[0]!r} stands there twice; give each once")
    return Axis(key, tuple(values))


def parse_seeds(text: str) -> list[int]:
    """`3` as 0, 1, 2; `4,7` as 4 and 7; `4,` as 4 alone.

    Raises:
        ValueError: something else, none, one twice, or a count above MAX_COUNT.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(re.fullmatch("[0-9]+", word) for word in words):
        raise ValueError(f"--seeds '{text}': expected how many (3) or which ones with commas between (0,4,7)")
    if "," not in text and int(words[0]) > MAX_COUNT:
        raise ValueError(
            f"--seeds {words[0]} is a count, and {MAX_COUNT} is the most; for seed {words[0]} alone give "
            f"--seeds '{words[0]},' with its comma"
        )
    seeds = [int(word) for word in words] if "," in text else list(range(int(words[0])))
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds '{text}' names {len(set(seeds))} different seeds; expected one or more, each once")
    return seeds


def plan_trials(
    preset: str, overrides: Sequence[str], axes: Sequence[Axis], seeds: Sequence[int], out: Path
) -> list[Trial]:
    """Every setting (all combinations of the axes' values) with every seed; seeds vary fastest.

    Raises:
        ValueError: a key is given twice, in whatever spelling, or is one that the sweep itself sets.
    """
    keys = [override.partition("=")[0] for override in overrides] + [axis.key for axis in axes]
    for key in keys:
        if key in OWN_KEYS:
            raise ValueError(f"{key}= is set for each trial by the sweep; use {OWN_KEYS[key]}")
        if keys.count(key) > 1:
            raise ValueError(f"'{key}' is given {keys.count(key)} times; name it once, in --over or as KEY=VALUE")
    refuse_overwritten(preset, overrides, axes)
    trials = []
    for setting, seed in itertools.product(settings(axes), seeds):
        run_dir = out.resolve() / setting.folder / f"seed{seed}"
        own = (f"seed={seed}", f"run_dir={to_text(str(run_dir))}")
        trials.append(Trial(preset, setting, seed, run_dir, (*overrides, *setting.overrides, *own)))
    return trials


def refuse_overwritten(preset: str, overrides: Sequence[str], axes: Sequence[Axis]) -> None:
    """Every override must keep its effect: tables would name values that no trial has.

    stages.3 and stages.crpo are one place, and a section as a value sets all the keys in it.

    Raises:
        ValueError: an override sets what an earlier one has set.
    """
    given = read_raw(find_preset(preset))
    for setting in settings(axes):
        raw: dict[str, Any] = copy.deepcopy(given)
        keys: dict[Place, str] = {}
        for override in (*overrides, *setting.overrides):
            key = override.partition("=")[0]
            place, is_there = find_place(raw, key)
            for earlier, other in keys.items():
                replaces_it = earlier[: len(place)] == place
                if replaces_it or (is_there and place[: len(earlier)] == earlier):
                    both = ".".join(map(str, max(place, earlier, key=len)))
                    raise ValueError(
                        f"'{other}' and '{key}' both set {both} of {preset}; set it once, in --over or as KEY=VALUE"
                    )
            apply_override(raw, override)
            keys[place] = key


def find_place(raw: dict[str, Any], key: str) -> tuple[Place, bool]:
    """A dotted key with positions for what it names in lists, and whether something stands there.

    Raises:
        ValueError: a list has no such position or name.
    """
    here: Any = raw
    place: list[str | int] = []
    is_there = True
    for part in key.split("."):
        step = index_in(here, part, key) if isinstance(here, list) else part
        is_there = isinstance(here, list) or (isinstance(here, dict) and step in here)
        here = here[step] if is_there else None
        place.append(step)
    return tuple(place), is_there


def settings(axes: Sequence[Axis]) -> list[Setting]:
    """All combinations, the last axis varying fastest; one setting without overrides if there is no axis."""
    if not axes:
        return [Setting(AS_GIVEN, AS_GIVEN.replace(" ", "-"), ())]
    names = short_names([axis.key for axis in axes])
    found = []
    for values in itertools.product(*(axis.values for axis in axes)):
        overrides = tuple(f"{axis.key}={to_text(value)}" for axis, value in zip(axes, values, strict=True))
        parts = [(name, shown(value)) for name, value in zip(names, values, strict=True)]
        found.append(Setting(", ".join(f"{n}={v}" for n, v in parts), folder_name(parts, overrides), overrides))
    return found


def short_names(keys: Sequence[str]) -> list[str]:
    """The last part of each key where that says enough: no list position, and no other key ends so."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return [name if last.count(name) == 1 and not name.isdigit() else key for key, name in zip(keys, last, strict=True)]


def folder_name(parts: Sequence[tuple[str, str]], overrides: Iterable[str]) -> str:
    """A folder for a setting, the same for the same overrides. No '=': pyarrow would read a partition from it."""
    plain = "_".join(f"{name}-{value}" for name, value in parts)
    safe = re.sub(r"[^A-Za-z0-9._+-]+", "-", plain)
    if safe == plain and len(safe) <= MAX_FOLDER:
        return safe
    return f"{safe[:MAX_FOLDER]}-{hashlib.sha256(' '.join(overrides).encode()).hexdigest()[:8]}"


def shown(value: Any) -> str:
    """A value as tables show it."""
    return repr(value) if isinstance(value, float) else to_text(value)


def to_text(value: Any) -> str:
    """A value as an override holds it: one line of YAML that reads back as the same value."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**9).removesuffix("...\n").strip()


def total_sizes(found: Iterable[Sizes]) -> dict[str, int]:
    """What several runs take together: clips, updates, and clips of the evaluations that are always made."""
    total = {"clips": 0, "updates": 0, "evaluation clips": 0}
    for sizes in found:
        total["clips"] += sizes.candidates
        total["updates"] += sizes.updates
        total["evaluation clips"] += sizes.evaluations * sizes.clips_per_evaluation
    return total


def _number(value: Any) -> Any:
    """YAML 1.1 wants a dot and a signed exponent: 3e-5 and 1.5e4 are text to it."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][+-]?[0-9]+", value):
        return float(value)
    return value
