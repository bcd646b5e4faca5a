"""Reads a run directory into a RunRecord: configuration, journal, evaluations, summary, event files. Changes nothing.

Every part but the configuration may be missing: a run that was stopped early, or still goes on, has a report as well.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlloop.config import Config, build
from rlloop.loop import checkpoints
from rlloop.loop import records as r
from rlloop.loop.files import read_json
from rlloop.loop.journal import Journal
from rlloop.loop.ledger import Ledger
from rlloop.loop.plan import Plan
from rlloop.loop.snapshot import CohortStats, EvaluationResult
from rlloop.recipes.cohort import cohort_stats
from rlloop.recipes.evaluations import stored_results
from rlloop.recipes.kept_files import Summary, read_kept
from rlloop.views.report.record import RunRecord, Troubles, Update, VersionRewards

SUMMARY_SLACK_S = 1.0  # a summary is written after the last record


@dataclass
class Told:
    """What the journal says beyond the ledger's state."""

    ledger: Ledger
    closed_at: dict[int, float] = field(default_factory=dict)
    busy: Counter = field(default_factory=Counter)
    retried: Counter = field(default_factory=Counter)
    spans: list[list[float]] = field(default_factory=list)  # first and last record of each start
    sizes: dict[str, int] = field(default_factory=dict)  # actors of each pool in the segment
    held: Counter = field(default_factory=Counter)  # pool -> seconds that its actors were there, all together

    def follow(self, record: r.Record, when: float) -> None:
        """Time goes on to a record: what the pools held meanwhile, and what size they have from it on."""
        if isinstance(record, r.EpochBegan) or not self.spans:
            self.spans.append([when, when])
        for name, size in self.sizes.items():
            self.held[name] += size * (when - self.spans[-1][1])
        self.spans[-1][1] = when
        if isinstance(record, r.SegmentBegan):
            self.sizes |= self.ledger.scaled

    @property
    def mean_actors(self) -> dict[str, float]:
        """Actors of each pool, on average over the starts; those of now where no time has passed."""
        seconds = sum(last - first for first, last in self.spans)
        return {name: held / seconds for name, held in self.held.items()} if seconds else dict(self.sizes)


def read_run(folder: Path) -> tuple[RunRecord, Ledger]:
    """The run, and its ledger, which says which rollouts there are.

    Raises:
        ValueError: there is no run, or a file of it is damaged.
    """
    config = read_config(folder)
    told = read_journal(folder, config)
    results = read_evaluations(folder)
    kept, ledger = read_kept(folder), told.ledger
    summary = kept.summary or Summary()
    is_current = kept.summary is not None and summary.policy_versions == ledger.version and not _went_on(folder, told)
    exact = summary.wall_seconds if is_current else None
    worked = sum(last - first for first, last in told.spans)
    cohorts = [
        cohort_stats(ledger, k, told.closed_at[k])
        for k in sorted(ledger.selections)
        if ledger.plan.generations[k].tickets
    ]
    record = RunRecord(
        name=folder.resolve().name,
        folder=str(folder.resolve()),
        config=config,
        status=summary.status if is_current else "open",
        reason=summary.reason if is_current else "",
        began_at=told.spans[0][0] if told.spans else None,
        ended_at=told.spans[-1][1] if told.spans else None,
        worked_seconds=worked if exact is None else exact,
        is_exact=exact is not None,
        mean_actors=told.mean_actors,
        num_starts=len(told.spans),
        starts=kept.starts,
        version=ledger.version,
        num_versions=ledger.plan.num_versions,
        result_version=summary.result_version if is_current and summary.result_version is not None else ledger.version,
        tickets={state: count for state, count in ledger.counts.items() if count},
        clips_generated=ledger.clips_generated,
        stages=stage_spans(ledger.plan),
        cohorts=cohorts,
        rewards=rewards_by_version(ledger, config.headline_score),
        evaluations=results,
        updates=read_updates(folder),
        busy_seconds={**told.busy, **evaluator_seconds(results)},
        troubles=troubles(folder, told, results, summary if is_current else Summary(), cohorts, kept.damaged),
        sweep=kept.sweep,
        corpus=kept.corpus,
        training_prompts=kept.training_prompts,
    )
    return record, ledger


def read_config(folder: Path) -> Config:
    """The run's configuration.

    Raises:
        ValueError: there is no run, or its file is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        inside = sorted(str(one.parent) for depth in ("*", "*/*") for one in folder.glob(f"{depth}/config.json"))
        found = f"; runs inside it: {', '.join(inside[:5])}" if inside else "; give the run_dir that a run printed"
        raise ValueError(f"{folder} holds no run: {path} is missing{found}")
    try:
        raw = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; take it from another copy of the run") from None
    return build(raw, str(path))


def read_journal(folder: Path, config: Config) -> Told:
    """Folds the journal; an empty ledger where there is none yet.

    Raises:
        ValueError: the journal is damaged, or of another plan.
    """
    pools = {"sampler": config.sampler, **config.scorer.all_pools}
    told = Told(Ledger(Plan.from_config(config)), sizes={name: role.num_actors for name, role in pools.items()})
    path = folder / "journal" / "journal.log"
    for record, when in Journal(path).read() if path.is_file() else ():
        try:
            told.ledger.apply(record, when)
        except (AssertionError, IndexError, KeyError) as error:
            raise ValueError(f"{path} does not fit the plan of {folder}/config.json: {error!r}") from None
        told.follow(record, when)
        if isinstance(record, r.Selected):
            told.closed_at[record.generation] = when
        elif isinstance(record, r.Buffered):
            told.busy.update(record.worker_seconds)
        elif isinstance(record, r.Released):
            told.retried[record.reason] += 1
    return told


def read_evaluations(folder: Path) -> list[EvaluationResult]:
    """Stored results by version.

    Raises:
        ValueError: one is damaged.
    """
    try:
        return stored_results(folder)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder}/evaluations holds a damaged result: {error}; remove it, resume the run") from None


def stage_spans(plan: Plan) -> list[tuple[str, int, int]]:
    """(name, first, last) versions that each stage makes."""
    ends = plan.stage_ends()
    return [(stage.name, before + 1, end) for stage, before, end in zip(plan.stages, [0, *ends], ends, strict=False)]


def rewards_by_version(ledger: Ledger, name: str) -> list[VersionRewards]:
    """The reward of all rollouts, by the version that made them."""
    values: dict[int, list[float | None]] = {}
    for ticket in ledger.tickets:
        if ticket.version is not None:
            values.setdefault(ticket.version, []).extend(one.scores.get(name) for one in ticket.rollouts)
    found = {version: [value for value in all_ if value is not None] for version, all_ in values.items()}
    return [VersionRewards(v, found[v], len(values[v]) - len(found[v])) for v in sorted(found) if values[v]]


def evaluator_seconds(results: Iterable[EvaluationResult]) -> dict[str, float]:
    seconds = sum(result.seconds for result in results)
    return {"evaluator": seconds} if seconds else {}


def read_updates(folder: Path) -> list[Update]:
    """Losses and seconds of the updates from the event files; empty where there are none or they cannot be read."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    loss: dict[int, float] = {}
    seconds: dict[int, float] = {}
    wanted = {"train/loss": loss, "train/seconds": seconds}
    for file in sorted((folder / "tensorboard").glob("events.out.tfevents.*")):
        try:
            for event in LegacyEventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    if value.tag in wanted:
                        wanted[value.tag][event.step] = value.simple_value
        except Exception:  # a curve beside others; what protobuf raises for a damaged file is not one type
            continue
    return [Update(step, loss[step], seconds.get(step)) for step in sorted(loss)]


def troubles(
    folder: Path,
    told: Told,
    results: Iterable[EvaluationResult],
    summary: Summary,
    cohorts: Iterable[CohortStats],
    damaged: Sequence[str],
) -> Troubles:
    rollouts = [rollout for ticket in told.ledger.tickets for rollout in ticket.rollouts]
    missing: Counter[str] = Counter()
    for result in results:
        for name, values in result.scores.items():
            missing[name] += sum(value is None for row in values for value in row)
    refused, unmarked = bad_checkpoints(folder)
    ended = [text for s in told.ledger.selections.values() for text in (s.skipped, s.stopped) if text]
    return Troubles(
        failed_tickets=Counter(ticket.reason for ticket in told.ledger.tickets if ticket.state == "failed"),
        retried_rows=told.retried,
        missing_scores=Counter(reason for rollout in rollouts for reason in rollout.reasons.values()),
        num_scores=sum(len(rollout.scores) for rollout in rollouts),
        missing_heldout={name: count for name, count in missing.items() if count},
        tickets_tried_again=sum(ticket.attempts > 1 for ticket in told.ledger.tickets),
        interrupted_cohorts=ended,
        refused_checkpoints=refused,
        unmarked_checkpoints=unmarked,
        damaged_files=damaged,
        restarts=summary.restarts,
        messages=summary.messages,
    )


def bad_checkpoints(folder: Path) -> tuple[list[str], list[str]]:
    """Checkpoints on disk that a resume would refuse, one line each, and those that were never completed.

    Sizes are checked, not checksums: a report is not the place to read gigabytes.
    """
    refused, unmarked = [], []
    for path in sorted((folder / "checkpoints").glob("v*-s*")):
        try:
            marker = json.loads((path / checkpoints.MARKER).read_text())
            for name, (size, _) in marker["files"].items():
                found = (path / name).stat().st_size
                if found != size:
                    refused.append(f"{path.name}/{name} has {found} bytes, its marker says {size}")
        except FileNotFoundError as error:
            if Path(str(error.filename)).name == checkpoints.MARKER:
                unmarked.append(path.name)
            else:
                refused.append(f"{path.name} lacks {Path(str(error.filename)).name}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            refused.append(f"{path.name}: its marker cannot be read ({type(error).__name__})")
    return refused, unmarked


def _went_on(folder: Path, told: Told) -> bool:
    """Whether the run has journaled since its summary was written."""
    if not told.spans:
        return False
    return told.spans[-1][1] > (folder / "summary.json").stat().st_mtime + SUMMARY_SLACK_S
