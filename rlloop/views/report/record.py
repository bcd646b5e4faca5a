"""What a report is made of: a run as it lies on disk, read once, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import FiniteFloat

from rlloop.config import Config
from rlloop.loop.snapshot import CohortStats, EvaluationResult


@dataclass(frozen=True)
class ShownClip:
    """One clip with a player. `data` is its `data:` address, empty where the clip could not be embedded (`missing`
    says why); `path` is relative to the run; `sha256` is that of the file in the run."""

    key: str
    title: str
    path: str
    prompt: str
    seed: int
    version: int
    scores: Mapping[str, float | None]
    seconds: float = 0.0
    data: str = ""
    sha256: str = ""
    missing: str = ""


@dataclass(frozen=True)
class VersionRewards:
    """The reward of every rollout that one policy version made; `num_missing` had none."""

    version: int
    values: Sequence[float]
    num_missing: int


@dataclass(frozen=True)
class Update:
    """One optimizer update as TensorBoard has it; `seconds` is None in runs that did not write it."""

    step: int
    loss: float
    seconds: float | None


@dataclass(frozen=True)
class Troubles:
    """What went wrong, counted. `restarts` and `messages` are None where the run left no summary that has them."""

    failed_tickets: Mapping[str, int] = field(default_factory=dict)  # reason -> tickets given up
    retried_rows: Mapping[str, int] = field(default_factory=dict)  # reason -> rows that were tried again
    missing_scores: Mapping[str, int] = field(default_factory=dict)  # reason -> scores of rollouts
    num_scores: int = 0  # scores of rollouts that were asked for
    missing_heldout: Mapping[str, int] = field(default_factory=dict)  # score -> missing, over all evaluations
    tickets_tried_again: int = 0
    interrupted_cohorts: Sequence[str] = ()  # why a cohort was skipped or ended the run
    refused_checkpoints: Sequence[str] = ()
    unmarked_checkpoints: Sequence[str] = ()
    damaged_files: Sequence[str] = ()  # that the report does without
    restarts: Mapping[str, int] | None = None
    messages: Sequence[str] | None = None


@dataclass(frozen=True)
class SweepScore:
    """A score at one s: its mean over prompts with a 95 % interval."""

    mean: float | None
    ci_low: float | None
    ci_high: float | None
    num_prompts: int = 0


@dataclass(frozen=True)
class SweepDistance:
    """Of all n clips of one s as a set."""

    value: float | None
    n: int


@dataclass(frozen=True)
class SweepPoint:
    """What was sampled at one conditioning score; None: without any."""

    s: FiniteFloat | None
    scores: dict[str, SweepScore]
    distances: dict[str, SweepDistance] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepRank:
    """The rank correlation of s with a score's mean, with its 95 % interval; None: undefined."""

    rho: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None


@dataclass(frozen=True)
class Sweep:
    """What `rlloop sweep-score` found (rlloop/evaluation/sweep.py)."""

    points: list[SweepPoint]
    spearman: dict[str, SweepRank]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RunRecord:
    """A run directory. Times are unix seconds, None where nothing was journaled.

    `status`: finished, stopped, failed, or open: no summary that is as new as the journal. `worked_seconds` is of all
    starts together; `is_exact` is False where it is only from the first to the last journaled record of each start.
    `starts` are the entries of environment.json, none in runs that did not keep it. `busy_seconds`: role -> seconds
    that its actors computed. `stages` of versions: (name, first version after the stage's start, last version).
    """

    name: str
    folder: str
    config: Config
    status: str
    reason: str
    began_at: float | None
    ended_at: float | None
    worked_seconds: float
    is_exact: bool
    num_starts: int
    starts: Sequence[Mapping[str, Any]]
    version: int
    num_versions: int
    result_version: int
    tickets: Mapping[str, int]
    clips_generated: int
    stages: Sequence[tuple[str, int, int]]
    cohorts: Sequence[CohortStats]
    rewards: Sequence[VersionRewards]
    evaluations: Sequence[EvaluationResult]
    updates: Sequence[Update]
    busy_seconds: Mapping[str, float]
    troubles: Troubles
    sweep: Sweep | None = None
    corpus: Mapping[str, Any] | None = None
    training_prompts: Sequence[str] = ()  # empty where the run's list is missing or damaged
    mean_actors: Mapping[str, float] = field(default_factory=dict)  # of each pool over that time

    @property
    def reward(self) -> str:
        return self.config.headline_score

    @property
    def hours(self) -> float:
        return self.worked_seconds / 3600

    def evaluation(self, version: int) -> EvaluationResult | None:
        return next((one for one in self.evaluations if one.version == version), None)

    @property
    def first(self) -> EvaluationResult | None:
        """The evaluation of version 0."""
        return self.evaluation(0)

    @property
    def last(self) -> EvaluationResult | None:
        """The newest evaluation after version 0."""
        later = [one for one in self.evaluations if one.version > 0]
        return later[-1] if later else None


@dataclass(frozen=True)
class Pair:
    """Two clips of one prompt and seed for the blind test, in the order in which a listener hears them."""

    a: ShownClip
    b: ShownClip
    system_a: str
    system_b: str
    run_a: str
    run_b: str


@dataclass(frozen=True)
class Listening:
    """All clips of a page. `extremes`: best, median and worst rollout of a cohort; `held_out`: prompt -> its clips over
    versions; `note` says how the audio is stored and what is left out."""

    extremes: Sequence[ShownClip]
    extremes_note: str
    held_out: Sequence[Sequence[ShownClip]]
    pairs: Sequence[Pair]
    note: str


@dataclass(frozen=True)
class Difference:
    """One figure of two runs, and B less A; None where it does not exist. `num_prompts` counts what is paired, of a
    distance the clips of each set; a distance is of a set and has neither interval nor p."""

    name: str
    a: float | None
    b: float | None
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p: float | None = None
    num_prompts: int = 0
    num_missing: int = 0
    is_distance: bool = False


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs: figures, configuration (key, A's, B's), and what is to be said about them."""

    figures: Sequence[Difference]
    config: Sequence[tuple[str, Any, Any]]
    notes: Sequence[str]
