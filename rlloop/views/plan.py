"""The plan before a run, for `--dry-run`: the resolved configuration, what each role takes, and what will be made."""

from __future__ import annotations

import yaml
from rich.console import Console
from rich.table import Table

from rlloop.config import Config
from rlloop.resources import Row, machine_cpus, machine_gpus, resources, sizes


def print_plan(config: Config, run_dir: str, console: Console | None = None) -> None:
    """Prints the configuration as YAML that `--config` reads again, then two tables."""
    console = console or Console()
    resolved = config.model_dump(mode="json") | {"run_dir": run_dir}
    console.print(yaml.safe_dump(resolved, sort_keys=False), markup=False, highlight=False, soft_wrap=True)
    console.print(resource_table(resources(config), machine_cpus(), machine_gpus()))
    console.print(size_table(config))


def resource_table(rows: list[Row], cpus: float, gpus: float) -> Table:
    """Each role's actors and shares, their sums, and what this machine has."""
    table = Table(title="what each role takes", title_justify="left")
    for column in ("role", "actors", "CPUs", "GPUs", "threads each", "nodes"):
        table.add_column(column, justify="left" if column in ("role", "nodes") else "right")
    for row in rows:
        threads = str(row.threads_each) if row.role != "control" else "-"
        table.add_row(row.role, str(row.num_actors), f"{row.cpus:g}", f"{row.gpus:g}", threads, row.node or "any")
    table.add_section()
    total_cpus, total_gpus = sum(row.cpus for row in rows), sum(row.gpus for row in rows)
    table.add_row("sum", str(sum(row.num_actors for row in rows)), f"{total_cpus:g}", f"{total_gpus:g}", "", "")
    table.add_row("this machine", "", f"{cpus:g}", f"{gpus:g}", "", "")
    return table


def size_table(config: Config) -> Table:
    """Counts that follow from the configuration."""
    counts, evaluation = sizes(config), config.evaluation
    table = Table(title="what the run makes", title_justify="left", show_header=False)
    for stage in config.stages:
        candidates, selected = counts.candidates_per_generation[stage.name], counts.selected_per_generation[stage.name]
        prompts = f"{stage.tickets} prompts x {config.sampler.clips_per_prompt} clips"
        made = f"{prompts} = {candidates}, {selected} selected" if stage.tickets else "no tickets"
        if stage.variant:
            made = f"the network goes over to score variant {stage.variant}"
        table.add_row(f"{stage.name}: a generation", made)
    table.add_row("policy versions", f"{counts.versions}, after version 0")
    table.add_row("tickets and clips", f"{counts.tickets} and {counts.candidates}")
    table.add_row("updates", str(counts.updates))
    clips = (
        f"{evaluation.num_prompts} prompts x {evaluation.seeds_per_prompt} seeds = {counts.clips_per_evaluation} clips"
    )
    table.add_row("an evaluation", f"{clips}, {counts.evaluations} times or more")
    return table
