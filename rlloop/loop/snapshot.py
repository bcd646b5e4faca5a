"""What the views show: one frozen picture of the run, gathered by the driver from non-blocking calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class CohortStats:
    """Scores of one closed cohort, over all its rollouts.

    `reward` holds mean, std, top (mean of the selected), min, max of the first score that the stage ranks by; `scores`
    the mean of each named score; `policy_versions` counts rollouts by the version that made them, `reward_by_version`
    holds (mean reward, number) of each; `missing` counts failed scores by reason.
    """

    generation: int
    stage: str
    num_rollouts: int
    num_selected: int
    reward: Mapping[str, float]
    scores: Mapping[str, float]
    policy_versions: Mapping[int, int]
    missing: Mapping[str, int]
    staleness_mean: float
    staleness_max: int
    closed_at: float  # unix seconds
    reward_by_version: Mapping[int, tuple[float, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationResult:
    """Held-out result of one version.

    `scores` maps a score name to one list per prompt of one value per seed (None where missing); `prompts` are the
    held-out prompts in that order; `audio` are paths of the kept clips relative to run_dir. `distances` are of the
    clips as a set: name -> {"value", "n" clips of the set, "reference" (its checksum), "reference_n"}, the last three
    None where an older result did not keep them; `alarms` are findings of rlloop.evaluation.alarm with a "text" each.
    """

    version: int
    stage: str
    prompts: Sequence[str]
    seeds: Sequence[Sequence[int]]
    scores: Mapping[str, Sequence[Sequence[float | None]]]
    audio: Sequence[str]
    seconds: float
    finished_at: float
    distances: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    alarms: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class TrainPoint:
    """One optimizer step as the trainer reported it. `step` counts updates over the whole run, from 1."""

    step: int
    generation: int
    loss: float
    learning_rate: float
    grad_norm: float
    seconds: float
    time: float
    metrics: Mapping[str, float] = field(default_factory=dict)  # what the algorithm reports beside its loss


@dataclass(frozen=True)
class PoolStats:
    """A pool since the run's start in this process: actors, work done, and its busy share over the last minute."""

    num_actors: int
    items: int
    busy_share: float | None


@dataclass(frozen=True)
class MomentClip:
    """A rollout to listen to: its audio's path relative to run_dir, and what was heard in it."""

    path: str
    prompt: str
    seed: int
    version: int
    scores: Mapping[str, float | None]


@dataclass(frozen=True)
class PoolsNow:
    """Pools by name in segment `segment`: its actors, those of the next one, and those that have their model."""

    segment: int
    sizes: Mapping[str, int]
    wanted: Mapping[str, int]
    at_work: Mapping[str, int]


@dataclass(frozen=True)
class Storage:
    """Bytes that a run takes and what is left; None where it is not known. `clips` are those in audio/."""

    rollouts: int | None = None
    checkpoints: int | None = None  # and stored averages
    clips: int | None = None
    events: int | None = None
    journal: int | None = None
    object_store: int | None = None  # used, over all nodes
    object_store_limit: int | None = None
    spilled: int | None = None  # on the driver's node, now
    free_disk: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """The run at one moment. Times are unix seconds; `eta_seconds` is None until two generations can be compared.

    `time - started_at` is how long the run has worked in all its starts: this start's begin less the earlier ones.
    """

    time: float
    started_at: float
    run_dir: str
    stage: str
    version: int
    num_versions: int
    generation: int
    tickets: Mapping[str, int]  # state -> count; states of rlloop.loop.ledger.STATES
    segment: int
    clips_generated: int
    clips_per_minute: float
    failures: Mapping[str, int]  # reason -> count, of tickets and of scores
    restarts: Mapping[str, int]  # role -> restarts seen
    buffer_rollouts: int
    buffer_bytes: int
    oldest_rollout_seconds: float | None
    staleness_now: float | None
    pools: Mapping[str, PoolStats]  # sampler, scorer (and scorer_<pool>), trainer, evaluator
    trainer_state: str  # starting, waiting for cohort K, training, checkpointing, done
    train_step: int
    train_steps_total: int
    cohorts: Sequence[CohortStats] = field(default_factory=tuple)  # all so far, by generation
    train: Sequence[TrainPoint] = field(default_factory=tuple)  # points since the last snapshot
    evaluations: Sequence[EvaluationResult] = field(default_factory=tuple)  # all so far, by version
    weight_sync_seconds: Mapping[int, float] = field(default_factory=dict)  # version -> publish to last sampler loaded
    clips: Mapping[str, MomentClip] = field(default_factory=dict)  # best, median and worst rollout of the moment
    messages: Sequence[str] = field(default_factory=tuple)  # newest last: what went wrong or changed
    eta_seconds: float | None = None
    storage: Storage = field(default_factory=Storage)
