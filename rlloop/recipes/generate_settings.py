"""From the options of `rlloop generate` to a configuration, a policy and rewards; what cannot be is one line."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlloop.config import Config, RewardEntry, Sampling, build, load, resolve_rewards
from rlloop.config.trust import refuse_code
from rlloop.recipes.disk import refuse_uri
from rlloop.recipes.fetch_run import local_run
from rlloop.recipes.generate_request import Row, read_rows
from rlloop.recipes.policy_source import Policy, built_policy, file_policy, run_policy
from rlloop.rewards.registry import check_reward

SUBMISSION_SECONDS, SUBMISSION_RATE_HZ = 10.0, 44_100  # reference.md section 10
MAX_SEED = 2**62


def words(text: str) -> list[str]:
    """The parts of a comma-separated option; none of them for "none"."""
    found = [word.strip() for word in text.split(",") if word.strip()]
    return [] if found == ["none"] else found


def given_rows(prompts: Sequence[str], file: Path | None) -> list[Row]:
    """The prompts of the command line, then those of a file.

    Raises:
        ValueError: there is none, or one is empty.
    """
    rows = [Row(" ".join(prompt.split())) for prompt in prompts]
    if any(not row.prompt for row in rows):
        raise ValueError("a prompt is empty; give a text in quotes, as in rlloop generate 'a calm piano piece'")
    rows += read_rows(file) if file else []
    if not rows:
        raise ValueError("no prompt; give one in quotes, or a file with --prompts FILE")
    return rows


def parse_seeds(text: str) -> list[int]:
    """Whole numbers from 0, comma between, each once.

    Raises:
        ValueError: something else, or nothing.
    """
    parts = words(text)
    if not parts or not all(part.isascii() and part.isdigit() and int(part) < MAX_SEED for part in parts):
        raise ValueError(f"--seed '{text}': expected whole numbers from 0, comma between, such as 7 or 7,8,9")
    seeds = [int(part) for part in parts]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"--seed '{text}' names one twice; give each once")
    return seeds


def parse_score(text: str) -> dict[str, float | None]:
    """The setting that --score changes: none where it is empty.

    Raises:
        ValueError: it is no finite number.
    """
    if not text:
        return {}
    try:
        score = None if text.lower() == "none" else float(text)
    except ValueError:
        score = math.nan
    if score is not None and not math.isfinite(score):
        raise ValueError(f"--score '{text}' is no finite number; expected one, or none")
    return {"score": score}


def check_submission(rows: Sequence[Row], seeds: Sequence[int], suffix: str, bits: int) -> None:
    """Whether the clips make a submission: an id each, one seed, WAV of 16 bits.

    Raises:
        ValueError: says what is missing.
    """
    if not all(row.id for row in rows):
        raise ValueError(
            "--submission names clips by their id; give --prompts a CSV with the columns id and prompt alone"
        )
    if len(seeds) != 1:
        raise ValueError(f"--submission has one clip an id; {len(seeds)} base seeds make more: give one --seed")
    if (suffix, bits) != ("wav", 16):
        raise ValueError(f"--submission is of wav files of 16 bits; found --format {suffix} --bits {bits}")


def check_zip(path: Path) -> None:
    """Whether a submission can be written there, before any clip is made; makes its folder.

    Raises:
        ValueError: it is no name of a ZIP, a folder, a URI, or below what cannot be written to.
    """
    refuse_uri(path, "--submission")
    if path.suffix.lower() != ".zip" or path.is_dir():
        raise ValueError(f"--submission {path}: expected the name of a ZIP file, such as submission.zip")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--submission {path}: {error.strerror}; choose another") from None
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"--submission {path}: {path.parent} cannot be written to; choose another")


def resolve_policy(
    run: str | None, version: int | None, weights: str, config: str, trusts_code: bool = False
) -> tuple[Config, Policy]:
    """The configuration and the weights to sample with.

    A run's own configuration samples as its evaluations did: what its report says was gained holds for that, while its
    candidates may be drawn otherwise (the paper's have s = 2, its evaluation and the published clips s = 5).

    Args:
        run: a folder, or the URI of a run's copy, which is fetched.
        trusts_code: whether code that a run's own configuration names may be run.
    Raises:
        ValueError: they cannot be found, two ways of naming them are mixed, or a run names code that is not trusted.
    """
    if run is not None and weights:
        raise ValueError(f"--run {run} and --weights {weights} both name weights; give one")
    if run is None and version is not None:
        raise ValueError(f"--version {version} is of a run; name it with --run")
    if run is not None:
        found, policy = stored_policy(run, version)
        if config:
            return load(config), policy
        if not trusts_code:
            refuse_code(found, f"--run {run}")
        return found.model_copy(update={"sampling": found.evaluation.sampling}), policy
    settings = load(config or "mini")
    return file_policy(weights, settings) if weights else (settings, built_policy(settings))


def stored_policy(run: str, version: int | None) -> tuple[Config, Policy]:
    """`run_policy` of a folder or of a URI; clips then name the URI, not the folder that it was fetched into."""
    folder = local_run(run)
    config, policy = run_policy(folder, version)
    return config, replace(policy, described=policy.described.replace(str(folder), run, 1))


def unused_negative(negative: str | None, sampling: Sampling) -> str:
    """A note where a negative prompt was given and nothing will hear it; "" where there is none to make."""
    if negative is None or max(sampling.guidance, sampling.guidance_end or 0.0) >= 1:
        return ""
    return f"--negative has no effect at guidance {sampling.guidance:g}; add --guidance 3"


def overridden(config: Config, sampling: Mapping[str, Any]) -> Config:
    """The configuration with some of `sampling` changed.

    Raises:
        ValueError: a value that cannot be.
    """
    if not sampling:
        return config
    changed = config.sampling.model_dump() | dict(sampling)
    return build({**config.model_dump(), "sampling": changed}, source="options")


def usable_encoder(config: Config, prompts: Sequence[str]) -> tuple[Config, str]:
    """For the mini stack where no text encoder is installed: word vectors, and a note where a prompt needs them."""
    from rlloop.models.text import ENCODER_PACKAGE, PromptFeatures, find_encoder, prompt_key

    generator = config.generator
    if generator.target != "mini" or generator.text_encoder != "auto" or find_encoder("auto") is not None:
        return config, ""
    generator = generator.model_copy(update={"text_encoder": "words"})
    known = PromptFeatures("words").rows
    new = [prompt for prompt in prompts if prompt_key(config.sampling.prompt_prefix + prompt) not in known]
    note = (
        f"no text encoder is installed; {len(new)} of {len(prompts)} prompts are read as word vectors "
        f"(`pip install {ENCODER_PACKAGE}` reads sentences)"
    )
    return config.model_copy(update={"generator": generator}), note if new else ""


def check_features(config: Config, prompts: Sequence[str]) -> None:
    """The official stack has features of every prompt, before its gigabytes are loaded.

    Raises:
        ValueError: some are missing; says how to compute them.
    """
    if config.generator.target != "fluxaudio" or "prompts" not in config.generator.options:
        return
    from rlloop.models.prompt_table import PromptTable

    sampling, table = config.sampling, PromptTable(config.generator.options["prompts"])
    wanted = [sampling.prompt_prefix + prompt for prompt in prompts]
    missing = table.missing([*wanted, *([sampling.negative_prompt] if sampling.negative_prompt else [])])
    if missing:
        raise ValueError(
            f"{table.folder} lacks features of {len(missing)} prompts, the first is {missing[0][:80]!r}; write "
            f"the prompts into a file, and: rlloop features FILE --prefix '{sampling.prompt_prefix}' "
            f"--negative '{sampling.negative_prompt}' --out {table.folder}"
        )


def chosen_rewards(names: Sequence[str], best_of: int, config: Config) -> tuple[RewardEntry, ...]:
    """The rewards that clips are scored with.

    Raises:
        ValueError: one does not exist, two have one name, or there is none to choose the best by.
    """
    if best_of > 1 and not names:
        raise ValueError(f"--best-of {best_of} needs a reward to choose by; name it: --rewards tunejury_mini")
    found = resolve_rewards(names, config)
    if len({entry.name for entry in found}) < len(found):
        raise ValueError(f"--rewards {','.join(names)}: two have one name; name each once")
    for entry in found:
        check_reward(entry)
    return tuple(found)
