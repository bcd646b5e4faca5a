"""Post-processing as a chain of named steps: built from a configuration, applied to one clip at a time."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

from rlloop.audio.loudness import MIN_SECONDS
from rlloop.config import StepEntry
from rlloop.recipes.build import load_target
from rlloop.recipes.postprocess_steps import Processed, Step

STEPS = {
    "demucs": "rlloop.recipes.postprocess_steps:DropVocals",
    "loudness": "rlloop.recipes.postprocess_steps:Loudness",
}


class Chain:
    """Steps in their order; called with a clip, it gives the clip after the last.

    Args:
        device: for steps that have such an argument and whose options do not name one.
    Raises:
        ValueError: a step cannot be found or built.
    """

    def __init__(self, entries: Sequence[StepEntry], device: str = "cpu") -> None:
        self.names = step_names(entries)
        self.steps = [make_step(entry, device) for entry in entries]

    def __call__(self, audio: np.ndarray, sample_rate_hz: int) -> Processed:
        """Facts: by the name of each step that has any.

        Raises:
            ValueError: a step gave back no clip of this length's kind; and whatever a step raises.
        """
        facts = {}
        for name, step in zip(self.names, self.steps, strict=True):
            done = step.process(audio, sample_rate_hz)
            if done.audio.ndim != 1 or not len(done.audio) or not np.isfinite(done.audio).all():
                raise ValueError(f"{name}: made audio of shape {done.audio.shape}; expected finite mono samples, [T]")
            audio = done.audio
            facts |= {name: dict(done.facts)} if done.facts else {}
        return Processed(audio, facts)


def step_names(entries: Sequence[StepEntry]) -> list[str]:
    """Names of steps, the second of a name as name_2."""
    seen: Counter[str] = Counter()
    names = []
    for entry in entries:
        seen[entry.name] += 1
        names.append(entry.name if seen[entry.name] == 1 else f"{entry.name}_{seen[entry.name]}")
    return names


def read_steps(given: Sequence[Any]) -> list[StepEntry]:
    """Entries of a configuration's kind, each found and its options checked; nothing is built.

    Raises:
        ValueError: one is no step.
    """
    entries = []
    for each in given:
        try:
            entries.append(StepEntry.model_validate(each))
        except ValidationError as error:
            raise ValueError(f"step {each!r}: {error.errors()[0]['msg']}; expected {EXPECTED}") from None
    for entry in entries:
        check_step(entry)
    return entries


EXPECTED = f"one of {', '.join(STEPS)}, or package.module:name"


def check_step(entry: StepEntry) -> None:
    """
    Raises:
        ValueError: its target cannot be imported, or does not take its options.
    """
    find_step(entry)


def find_step(entry: StepEntry) -> Any:
    """The class or function of a step."""
    if entry.target not in STEPS and ":" not in entry.target:
        raise ValueError(f"step '{entry.target}' is unknown; expected {EXPECTED}")
    target = load_target(STEPS.get(entry.target, entry.target))
    if not callable(target):
        raise ValueError(
            f"step '{entry.target}' is a {type(target).__name__}; expected a class or function that makes one"
        )
    taken = inspect.signature(target)
    try:
        taken.bind(**entry.options)
    except TypeError as error:
        known = ", ".join(taken.parameters) or "no options"
        raise ValueError(f"step '{entry.name}': {error}; {entry.target} takes {known}") from None
    return target


def make_step(entry: StepEntry, device: str) -> Step:
    target = find_step(entry)
    chosen = {"device": device} if "device" in inspect.signature(target).parameters else {}
    try:
        step = target(**{**chosen, **entry.options})
    except TypeError as error:  # an option of a type that it cannot compare
        raise ValueError(f"step '{entry.name}': {error}") from error
    if not isinstance(step, Step):
        raise ValueError(f"step '{entry.name}': {entry.target} made no step; expected process(audio, sample_rate_hz)")
    return step


def loudness_counts(postprocessed: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How many clips have the target loudness, and how many not and why; None where none was levelled.

    Args:
        postprocessed: facts of each clip, as `Chain` gives them; the last levelling of a clip counts.
    """
    last = []
    for facts in postprocessed:
        found = [each for each in facts.values() if isinstance(each, Mapping) and "is_held_back" in each]
        last += found[-1:]
    if not last:
        return None
    too_short = sum(bool(each.get("is_too_short")) for each in last)
    levelled = [each["lufs"] for each in last if each["lufs"] is not None]
    return {
        "clips": len(last),
        "at_target": sum(each["lufs"] is not None and not each["is_held_back"] for each in last),
        "held_back": sum(bool(each["is_held_back"]) for each in last),
        "silent": len(last) - len(levelled) - too_short,
        "too_short": too_short,
        "mean_lufs": float(np.mean(levelled)) if levelled else None,
        "min_lufs": min(levelled, default=None),
        "target_lufs": last[0]["target_lufs"],
    }


def loudness_line(counts: Mapping[str, Any]) -> str:
    """One line of `loudness_counts`."""
    line = f"loudness: {counts['at_target']} of {counts['clips']} clips at {counts['target_lufs']:g} LUFS"
    if counts["held_back"]:
        line += f", {counts['held_back']} kept below it by the peak rule"
    if counts["silent"]:
        line += f", {counts['silent']} silent"
    if counts["too_short"]:
        line += f", {counts['too_short']} left as they were: shorter than {MIN_SECONDS:g} s, which cannot be measured"
    if counts["mean_lufs"] is not None:
        line += f"; mean {counts['mean_lufs']:.1f}, lowest {counts['min_lufs']:.1f}"
    return line
