"""Checks before anything starts: each refusal is one line that says what was found and what was expected.

Separate from the configuration's own checks because these look at the machine: its system, disk and files.
"""

from __future__ import annotations

import math
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from rlloop.config import Config, resolve_rewards
from rlloop.resources import check_fits, machine_cpus, machine_gpus, resources, show_bytes

# Upper estimates. A rollout: float16 latents of 156 x 32 (mini) or 430 x 40 (FluxAudio, 44.1 kHz), with its scores. A
# parameter in a checkpoint: float32 weight, master weight and two Adam moments.
ROLLOUT_BYTES = 64 * 2**10
PARAMETER_BYTES = 4 * 4
AVERAGE_BYTES = 4  # a parameter in one track of the post-hoc EMA
SPARE_BYTES = 200 * 2**20  # audio, logs, event files
JOURNAL_BYTES = 400, 300  # of a ticket and of each of its clips, before the archive packs them
WEIGHT_BYTES = 4  # a parameter in the object store


def choose_run_dir(config: Config, preset: str, environment: Mapping[str, str]) -> str:
    """Where the run lives: run_dir=, else $RLLOOP_RUNS/<preset>, else runs/<preset>; a URI is left as it is.

    Raises:
        ValueError: inside a Ray job without either, or with a relative one: the job's working directory is deleted with
            the job.
    """
    base = environment.get("RLLOOP_RUNS")
    is_job = {"RAY_JOB_ID", "RAY_JOB_CONFIG_JSON_ENV_VAR"} & environment.keys()
    given = config.run_dir or base or ""
    if is_job and "://" not in given and not Path(given).expanduser().is_absolute():
        if given:
            raise ValueError(
                f"run_dir '{given}' lies in a directory that goes away with the Ray job; give an absolute path"
            )
        raise ValueError(
            "inside a Ray job the working directory goes away with the job; set RLLOOP_RUNS or run_dir=PATH to a place "
            "that stays"
        )
    chosen = config.run_dir or os.path.join(base or "runs", preset)
    return chosen if "://" in chosen else str(Path(chosen).expanduser().resolve())


def working_dir(uri: str, environment: Mapping[str, str]) -> str:
    """Where a run works whose copy is at `uri`: a folder of its name in $RLLOOP_RUNS, else in the user's cache."""
    base = environment.get("RLLOOP_RUNS", "")
    if "://" in base or not base:
        base = os.path.join(environment.get("XDG_CACHE_HOME") or "~/.cache", "rlloop", "runs")
    return str(Path(base).expanduser().resolve() / (PurePosixPath(urlsplit(uri).path).name or urlsplit(uri).netloc))


def check(config: Config, environment: Mapping[str, str]) -> None:
    """Whether this configuration can run here. Writes nothing.

    Raises:
        ValueError: the first check that fails, as one line.
    """
    check_platform(platform.system(), platform.machine())
    check_resources(config, environment)
    check_evaluated_scores(config)
    check_buffer(config)
    check_targets(config)
    check_limits(config)
    check_devices(config)
    check_prompts(config)


def check_devices(config: Config) -> None:
    """The bundled models compute on the CPU: a reserved GPU would stand idle."""
    from rlloop.rewards.registry import MINI_NAMES

    pools = config.scorer.all_pools
    rewards = {**{name: pool.rewards for name, pool in pools.items()}, "evaluation": config.evaluation.scores}
    roles = {
        "sampler": config.sampler,
        **pools,
        "evaluation": config.evaluation,
        "trainer": config.trainer,
    }
    for name, role in roles.items():
        is_mini = all(reward.target in MINI_NAMES for reward in resolve_rewards(rewards.get(name, ()), config))
        if role.num_gpus and config.generator.target == "mini" and is_mini:
            raise ValueError(
                f"{name}.num_gpus is {role.num_gpus}; the mini stack computes on the CPU only: set it to 0"
            )


def check_targets(config: Config) -> None:
    """Every generator, reward and algorithm that the configuration names exists."""
    from rlloop.algorithms.checks import check_stages
    from rlloop.recipes.build import generator_builder
    from rlloop.recipes.judges import set_judges
    from rlloop.rewards.registry import check_reward

    generator_builder(config)
    for reward in resolve_rewards([*config.scorer.all_rewards, *config.evaluation.scores], config):
        check_reward(reward)
    check_stages(config)
    set_judges(config)


def check_platform(system: str, machine: str) -> None:
    if (system, machine) != ("Linux", "x86_64"):
        raise ValueError(f"supported is Linux x86_64; this is {system} {machine}")


def on_cluster(environment: Mapping[str, str]) -> bool:
    """Whether the run joins a Ray cluster that is already up; its resources are known only once connected."""
    from rlloop.loop.joining import joins_cluster

    return joins_cluster(environment)


def check_resources(config: Config, environment: Mapping[str, str]) -> None:
    problem = None if on_cluster(environment) else check_fits(resources(config), machine_cpus(), machine_gpus())
    if problem:
        raise ValueError(problem)


def check_evaluated_scores(config: Config) -> None:
    """The score that the run is about has to be evaluated, or there is no before and after."""
    names = [reward.name for reward in config.evaluation.scores]
    ranked = config.headline_score
    if ranked not in names:
        raise ValueError(f"stages rank by '{ranked}', evaluation.scores are {names}; add it there")


def buffer_bytes(config: Config) -> int:
    """What the buffer may have to hold: (max_staleness + 1) cohorts plus the window of the threshold."""
    cohort = max(stage.tickets for stage in config.stages) * config.sampler.clips_per_prompt
    window = max(stage.selection.window for stage in config.stages)
    return ((config.loop.max_staleness + 1) * cohort + window) * ROLLOUT_BYTES


def check_buffer(config: Config) -> None:
    needed, bound = buffer_bytes(config), config.loop.max_buffer_bytes
    if needed > bound:
        raise ValueError(
            f"the buffer may hold {show_bytes(needed)}, {config.loop.max_staleness + 1} cohorts and the window; "
            f"loop.max_buffer_bytes is {show_bytes(bound)}; raise it, or lower tickets, clips_per_prompt or window"
        )


def check_prompts(config: Config) -> None:
    """The prompt files can be read and are long enough, and the mini stack has features for own prompts."""
    from rlloop.recipes.build import heldout_prompts, training_prompts

    training, heldout = training_prompts(config), heldout_prompts(config)
    shared = sorted({" ".join(p.split()).lower() for p in training} & {" ".join(p.split()).lower() for p in heldout})
    if shared:
        raise ValueError(
            f"prompts: {len(shared)} of the {len(training)} training prompts are held-out prompts too, the first is "
            f"'{shared[0][:60]}'; take them out of one, or the figures at the end are not held out"
        )
    prompts = training + heldout
    if config.generator.target == "mini" and (config.prompts or config.heldout_prompts):
        from rlloop.models.text import PromptFeatures, prompt_key

        features = PromptFeatures(config.generator.text_encoder)
        new = [prompt for prompt in prompts if prompt_key(prompt) not in features.rows]
        features.encode(new[:1])  # one is enough to learn that the encoder is not installed
    if config.generator.target == "fluxaudio":
        check_features(config, training, heldout)


def check_features(config: Config, training: Sequence[str], heldout: Sequence[str]) -> None:
    """The official stack has features of every prompt: sampled with its prefix, trained on without, and negative."""
    from rlloop.models.prompt_table import PromptTable

    table = PromptTable(config.generator.options["prompts"])
    settings = (config.sampling, config.evaluation.sampling)
    wanted = {*training, *(each.negative_prompt for each in settings if each.negative_prompt)}
    for each, prompts in zip(settings, (training, heldout), strict=True):
        wanted |= {each.prompt_prefix + prompt for prompt in prompts}
    missing = table.missing(sorted(wanted))
    if missing:
        raise ValueError(
            f"generator.options.prompts: {table.folder} lacks features of {len(missing)} of {len(wanted)} prompts, the "
            f"first is {missing[0][:80]!r}; compute them: rlloop features, with the prefix for sampling and with "
            "--prefix '' for training"
        )


def disk_bytes(config: Config) -> int:
    """Disk that a run may take at once: what `kept_bytes` lists, and the rest."""
    return sum(kept_bytes(config).values()) + SPARE_BYTES


def kept_bytes(config: Config) -> dict[str, int]:
    """What the plan needs of each of the limits that bound disk."""
    parameters = num_parameters(config)
    averages = parameters * AVERAGE_BYTES * len(config.trainer.ema_sigmas)
    checkpoints = num_checkpoints(config) * (parameters * PARAMETER_BYTES + averages)
    tickets, per_prompt = sum(s.generations * s.tickets for s in config.stages), config.sampler.clips_per_prompt
    rollouts = min(tickets, num_kept_cohorts(config) * max(s.tickets for s in config.stages)) * per_prompt
    return {
        "rollouts": rollouts * ROLLOUT_BYTES,
        "checkpoints": checkpoints + num_snapshots(config) * averages,
        "journal": tickets * (JOURNAL_BYTES[0] + JOURNAL_BYTES[1] * per_prompt),
    }


def num_kept_cohorts(config: Config) -> int:
    """Cohorts with files on disk at once, counted whole: at work, the two newest that are published, those that a
    trainer falls back to with the one before them, and earlier ones that a phase names."""
    sources = {name for stage in config.stages for phase in stage.phases for name in phase.sources}
    named = sum(name.partition(":")[0] in ("generation", "stage") for name in sources)
    return config.loop.max_staleness + 1 + 2 + config.trainer.keep_checkpoints + 1 + named


def check_limits(config: Config) -> None:
    """What the plan needs fits below the limits; the rest is kept below them as the run goes on."""
    settings = {
        "rollouts": "lower trainer.keep_checkpoints, tickets or clips_per_prompt",
        "checkpoints": "lower trainer.keep_checkpoints or raise trainer.ema_every",
        "journal": "lower tickets or clips_per_prompt",
    }
    for name, needed in kept_bytes(config).items():
        bound = getattr(config.limits, name)
        if needed > bound:
            raise ValueError(
                f"{name} may take {show_bytes(needed)}, limits.{name} is {show_bytes(bound)}; raise it, or "
                f"{settings[name]}"
            )
    bound, versions = config.limits.object_store, config.loop.max_staleness + 2  # one more while it is replaced
    needed = versions * num_parameters(config) * WEIGHT_BYTES
    if bound is not None and needed > bound:
        raise ValueError(
            f"{versions} versions of the weights take {show_bytes(needed)} of the object store, limits.object_store is "
            f"{show_bytes(bound)}; raise it, or lower loop.max_staleness"
        )


def num_snapshots(config: Config) -> int:
    """How often all tracks of the averages are stored: every ema_every updates of a stage, at its end, one to spare."""
    updates = [stage.generations * sum(phase.updates for phase in stage.phases) for stage in config.stages]
    return sum(math.ceil(count / config.trainer.ema_every) + 1 for count in updates if count)


def num_checkpoints(config: Config) -> int:
    """The newest ones, the version that the oldest of these goes on from, every stage's first and last, version 0, the
    best and the one that is being evaluated; where a rollback may name any version, all."""
    alarm, stages = config.evaluation.alarm, config.stages
    versions = min(4 + 2 * len(stages), 1 + sum(stage.generations for stage in stages))
    if alarm.action == "rollback" and config.evaluation.in_between:
        versions = max(versions, 1 + sum(stage.generations for stage in stages))
    return config.trainer.keep_checkpoints + versions


def num_parameters(config: Config) -> int:
    """Of the trained network, by its specification (for fluxaudio the mode's S); 0 for a target of one's own."""
    import torch

    from rlloop.models.fluxaudio import FluxAudio

    if config.generator.target == "mini":
        from rlloop.models.policy import MINI

        spec = MINI.network
    elif config.generator.target == "fluxaudio":
        from rlloop.models.official import choose_mode

        spec = choose_mode(config.generator.options.get("mode", "44k")).spec.network
    else:
        return 0
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in FluxAudio(spec).parameters())


def prepare_run_dir(config: Config, where: str) -> None:
    """Creates the run directory and sees that what is still to be written fits on its disk.

    Raises:
        ValueError: it cannot be written to, or the run does not fit.
    """
    from rlloop.recipes.disk import free_bytes, kept_free

    run_dir = Path(where)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=run_dir) as probe:
            probe.write(b"rlloop")
    except OSError as error:
        raise ValueError(
            f"run_dir {run_dir} cannot be written to: {error.strerror}; choose another: run_dir=PATH"
        ) from None
    there = sum(file.stat().st_size for file in run_dir.rglob("*") if file.is_file())
    needed, free = max(SPARE_BYTES, disk_bytes(config) - there), free_bytes(run_dir)
    least = kept_free(run_dir, config)
    if needed + least > free:
        raise ValueError(
            f"run_dir {run_dir}: the run may write {show_bytes(needed)} and keeps {show_bytes(least)} free "
            f"(limits.min_free_disk), {show_bytes(free)} are free; free some, lower trainer.keep_checkpoints or choose "
            "another: run_dir=PATH"
        )
