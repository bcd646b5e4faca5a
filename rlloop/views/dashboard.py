"""One snapshot as a picture of at most 80 columns: pools, tickets, buffer, versions, reward, speed, messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rlloop.config import Config
from rlloop.loop.ledger import STATES
from rlloop.loop.snapshot import PoolStats, Snapshot, Storage
from rlloop.resources import show_bytes
from rlloop.views.scores import mean_score, score_label, show_score, show_seconds, sparkline

WIDTH = 80
SPARK_WIDTH = 30
BAR_WIDTH = 20
NUM_MESSAGES = 4


def dashboard(snapshot: Snapshot, config: Config) -> Panel:
    """The live picture of a run."""
    parts = [
        progress_line(snapshot),
        Text(),
        pool_table(snapshot.pools, snapshot.trainer_state),
        Text(),
        state_table(snapshot),
        Text(),
        reward_table(snapshot, config),
        *message_lines(snapshot.messages),
    ]
    elapsed, left = show_seconds(snapshot.time - snapshot.started_at), show_seconds(snapshot.eta_seconds)
    title = Text(f"rlloop · {snapshot.stage} · {elapsed} elapsed · {left} left", style="bold")
    return Panel(Group(*parts), title=title, title_align="left", width=WIDTH, border_style="cyan")


def bar(share: float, width: int = BAR_WIDTH) -> Text:
    """A horizontal bar filled to `share` in [0, 1]."""
    filled = round(min(max(share, 0.0), 1.0) * width)
    return Text.assemble(("━" * filled, "cyan"), ("─" * (width - filled), "bright_black"))


def progress_line(snapshot: Snapshot) -> Text:
    steps = snapshot.train_step / snapshot.train_steps_total if snapshot.train_steps_total else 0.0
    version = Text(f"version {snapshot.version} of {snapshot.num_versions}  ", style="bold")
    updates = f"  update {snapshot.train_step} of {snapshot.train_steps_total}"
    return Text.assemble(version, bar(steps), updates)


def pool_table(pools: Mapping[str, PoolStats], trainer_state: str) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, pool in pools.items():
        share = bar(pool.busy_share) if pool.busy_share is not None else Text("-" * BAR_WIDTH, style="bright_black")
        percent = f"{pool.busy_share:4.0%} busy" if pool.busy_share is not None else "   - busy"
        work = trainer_state if name == "trainer" else f"{pool.items} done"
        table.add_row(Text(name, style="bold"), f"x{pool.num_actors}", share, percent, Text(work, overflow="ellipsis"))
    return table


def state_table(snapshot: Snapshot) -> Table:
    """Tickets by state, the buffer, staleness, speed, and what went wrong."""
    tickets = "  ".join(f"{state} {snapshot.tickets[state]}" for state in STATES if snapshot.tickets.get(state))
    age = show_seconds(snapshot.oldest_rollout_seconds)
    buffer = f"{snapshot.buffer_rollouts} rollouts, {snapshot.buffer_bytes / 2**20:.1f} MiB, oldest {age}"
    staleness = "-" if snapshot.staleness_now is None else f"{snapshot.staleness_now:.2f} versions"
    speed = f"{snapshot.clips_per_minute:.0f} clips/min, {snapshot.clips_generated} clips so far"
    table = Table.grid(padding=(0, 2))
    rows = [("tickets", tickets or "-"), ("buffer", buffer), ("staleness", staleness), ("speed", speed)]
    for name, value in [*rows, *storage_rows(snapshot.storage)]:
        table.add_row(Text(name, style="bold"), Text(value))
    for name, counts in [("failures", snapshot.failures), ("restarts", snapshot.restarts)]:
        if any(counts.values()):
            listed = ", ".join(f"{what} {count}" for what, count in counts.items() if count)
            table.add_row(Text(name, style="bold yellow"), Text(listed))
    return table


def storage_rows(storage: Storage) -> list[tuple[str, str]]:
    """What the run takes on disk and in the object store; rows of what is known."""
    names = ("rollouts", "checkpoints", "clips")
    parts = [f"{name} {show_bytes(getattr(storage, name))}" for name in names if getattr(storage, name) is not None]
    parts += [f"{show_bytes(storage.free_disk)} free"] if storage.free_disk is not None else []
    rows = [("disk", ", ".join(parts))] if parts else []
    if storage.object_store is not None:
        limit = f" of {show_bytes(storage.object_store_limit)}" if storage.object_store_limit else ""
        spilled = f", {show_bytes(storage.spilled)} spilled" if storage.spilled else ""
        rows.append(("objects", f"{show_bytes(storage.object_store)}{limit}{spilled}"))
    return rows


def reward_table(snapshot: Snapshot, config: Config) -> Table:
    """The reward by version: of cohorts, of their top decile, of the held-out prompts."""
    table = Table.grid(padding=(0, 2))
    label = score_label(config)
    rows = [
        ("held-out", [mean_score(evaluation, label) for evaluation in snapshot.evaluations]),
        ("cohort mean", [cohort.reward.get("mean") for cohort in snapshot.cohorts]),
        ("cohort top", [cohort.reward.get("top") for cohort in snapshot.cohorts]),
    ]
    table.add_row(Text("reward", style="bold"), Text("by version", style="bright_black"), Text(label))
    for name, values in rows:
        table.add_row(name, Text(sparkline(values[-SPARK_WIDTH:]), style="green"), first_and_last(values))
    return table


def first_and_last(values: Sequence[float | None]) -> str:
    if not values:
        return "not yet"
    return show_score(values[0]) if len(values) == 1 else f"{show_score(values[0])} -> {show_score(values[-1])}"


def message_lines(messages: Sequence[str]) -> list[Text]:
    lines = [Text(message, style="yellow", overflow="ellipsis", no_wrap=True) for message in messages[-NUM_MESSAGES:]]
    return [Text(), *lines] if lines else []
