"""What must hold of a run whose processes were killed: found in its files alone, each breach one line."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from rlloop.config import Config
from rlloop.loop import checkpoints
from rlloop.loop import records as r
from rlloop.loop.ledger import FINAL, Ledger
from rlloop.loop.plan import Plan


@dataclass(frozen=True)
class Results:
    """What a run came to; equal for equal weights, selections and curves. The last two are sha256."""

    weights: int
    selections: str
    losses: str


def replay(found: list[r.Record], config: Config) -> Ledger:
    """The ledger of a journal, whole or cut off anywhere.

    Raises:
        AssertionError: the first record that breaks a promise: a ticket in two selections, a ticket of a published
            generation that is in no final state, a version that is not the next one, staleness out of bounds.
    """
    ledger, owner = Ledger(Plan.from_config(config)), {}
    for record in found:
        ledger.apply(record)  # asserts what a ledger forbids
        if isinstance(record, r.Selected):
            for ticket in {ticket for ticket, _, _ in record.examples}:
                assert owner.setdefault(ticket, record.generation) == record.generation, (
                    f"ticket {ticket} is in the selections of generations {owner[ticket]} and {record.generation}"
                )
        if isinstance(record, r.Buffered):
            lag = ledger.plan.generation_of(record.ticket).k - record.version
            assert 0 <= lag <= config.loop.max_staleness, (
                f"ticket {record.ticket}: staleness {lag}, the bound is {config.loop.max_staleness}"
            )
        if isinstance(record, r.Published):
            cohort = ledger.plan.generations[record.version - 1].tickets
            lost = [ticket for ticket in cohort if ledger.tickets[ticket].state not in FINAL]
            assert not lost, f"version {record.version} is published, tickets {lost} are in no final state"
    return ledger


def breaches_so_far(found: list[r.Record], config: Config) -> list[str]:
    """What the journal alone shows at any moment."""
    try:
        replay(found, config)
    except AssertionError as error:
        return [f"journal: {error}"]
    return []


def breaches_at_end(run_dir: Path, found: list[r.Record], config: Config, summary: dict) -> list[str]:
    """What a finished run must show beside the journal's promises: every ticket used, every point there once."""
    breaches = breaches_so_far(found, config)
    if breaches:
        return breaches
    ledger = replay(found, config)
    if ledger.version != ledger.plan.num_versions:
        breaches.append(f"version {ledger.version} is the last, planned were {ledger.plan.num_versions}")
    left = {ticket.state for ticket in ledger.tickets} - {"trained", "dropped"}
    if left:
        breaches.append(f"tickets end as {sorted(left)}")
    if summary.get("status") != "finished":
        breaches.append(f"the summary says {summary.get('status')}: {summary.get('reason')}")
    # Where versions may lag, one may be published and left behind without a ticket; then it has no mean.
    sampled = {record.version for record in found if isinstance(record, r.Buffered)}
    return breaches + curve_breaches(curves(run_dir), ledger.plan, sampled)


def curves(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """tag -> every (step, value) in the event files, as written; of audio and texts the value is 0."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    points = defaultdict(list)
    for path in sorted((run_dir / "tensorboard").glob("events.out.tfevents.*")):
        for data in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(data)
            for value in event.summary.value:
                points[value.tag].append((event.step, value.simple_value))
    return dict(points)


def curve_breaches(points: dict[str, list[tuple[int, float]]], plan: Plan, sampled: Set[int]) -> list[str]:
    """No step twice under any tag; every update, cohort and version that `sampled` there; the ends evaluated."""
    breaches = []
    for tag, found in sorted(points.items()):
        twice = [step for step, n in Counter(step for step, _ in found).items() if n > 1]
        if twice:
            breaches.append(f"curve {tag}: {len(twice)} steps twice, the first is {min(twice)}")
    updates = sum(plan.steps_of(g.k) for g in plan.generations)
    for tag, wanted in (
        ("train/loss", range(1, updates + 1)),
        ("train/grad_norm", range(1, updates + 1)),
        ("reward/cohort_mean", range(plan.num_versions)),
        ("reward/policy_mean", sampled),
        ("reward/heldout", plan.required_versions()),
    ):
        missing = sorted(set(wanted) - {step for step, _ in points.get(tag, [])})
        if missing:
            breaches.append(f"curve {tag}: {len(missing)} points missing, steps {missing[0]} to {missing[-1]}")
    return breaches


def results_of(run_dir: Path, found: list[r.Record], config: Config) -> Results:
    """What a finished run came to.

    Raises:
        ValueError: its last version has no valid checkpoint.
    """
    path = checkpoints.folder(run_dir, Plan.from_config(config).num_versions)
    checkpoints.read_marker(path)
    selected = [(record.generation, record.examples) for record in found if isinstance(record, r.Selected)]
    losses = sorted(set(curves(run_dir).get("train/loss", [])))
    return Results(checkpoints.arrays_checksum(checkpoints.read_weights(path)), _sha(selected), _sha(losses))


def differences(found: Results, reference: Results) -> list[str]:
    """Where a run came to something else than the undisturbed one."""
    return [
        f"{name} differ from the undisturbed run's"
        for name in ("weights", "selections", "losses")
        if getattr(found, name) != getattr(reference, name)
    ]


def _sha(value) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
