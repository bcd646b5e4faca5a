"""`rlloop doctor`: whether this machine, or the cluster that it is part of, is ready for a run, and what to do."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rlloop.config import Config
    from rlloop.recipes.doctor import Finding
    from rlloop.recipes.machine_facts import Facts


def run(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides, as for a run.")
    ] = None,
    config: Annotated[str, typer.Option(help="The preset or file that is to run.")] = "mini",
    address: Annotated[
        str | None, typer.Option(help="Address of a cluster, or auto. Default: RAY_ADDRESS, else this machine alone.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Findings as JSON, one list.")] = False,
) -> None:
    """Checks versions, GPUs, memory, disks, weights, authentication and the run directory before a run, and what a
    start would refuse: settings, prompts without features, a corpus of another generator. On one machine also Ray's
    ports, on a cluster the nodes' clocks against each other and whether each reaches the others.

    Starts and changes nothing. Status 1 if a finding would stop the run.

    Example: rlloop doctor --config one_gpu

    ray job submit -- rlloop doctor --config cluster prompts=FILE heldout_prompts=FILE
    """
    from rlloop.config import find_preset, load
    from rlloop.preflight import choose_run_dir, on_cluster, working_dir

    settings = load(config, overrides or [])
    run_dir = uri = choose_run_dir(settings, find_preset(config).stem, os.environ)
    if "://" in uri:
        run_dir = working_dir(uri, os.environ)
    if address:
        os.environ["RAY_ADDRESS"] = address
    look = look_at_cluster if on_cluster(os.environ) else look_at_machine
    findings = [*look(settings, Path(run_dir)), *start_findings(settings)]
    findings += [copy_finding(uri)] if "://" in uri else []
    if as_json:
        print(json.dumps([finding.as_json() for finding in findings], indent=1))
    else:
        show(findings)
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(1)


def look_at_machine(config: Config, run_dir: Path) -> list[Finding]:
    """Findings of this machine alone."""
    from rlloop.recipes.doctor import examine, weights_by_type
    from rlloop.recipes.machine_facts import gather
    from rlloop.weights.catalogue import root

    names = sorted({name for names in weights_by_type(config).values() for name in names})
    facts = gather(names, {"run_dir": str(run_dir), "weights": str(root())})
    return [*examine(config, [facts], facts, is_cluster=False), *machine_findings(config, run_dir, facts)]


def machine_findings(config: Config, run_dir: Path, facts: Facts) -> list[Finding]:
    """What concerns a machine that runs Ray by itself: its resources against the roles, ports, the run directory."""
    from rlloop.recipes.doctor import Finding
    from rlloop.recipes.machine_facts import taken_ports
    from rlloop.resources import check_fits, machine_cpus, machine_gpus, resources

    found = [run_dir_finding(config, run_dir)]
    problem = check_fits(resources(config), machine_cpus(), machine_gpus())
    if problem:
        found.append(Finding("fail", "resources", facts.node, problem, "the roles fit", "see --dry-run"))
    else:
        found.append(Finding("ok", "resources", facts.node, f"{machine_cpus()} CPUs, {machine_gpus()} GPUs"))
    for port, what in taken_ports().items():
        todo = f"RAY_ADDRESS=auto to join it, or stop what listens on {port}; a run of its own needs neither port"
        found.append(Finding("warn", "ports", facts.node, f"{port} ({what}) is taken", "a free port", todo))
    return found


def run_dir_finding(config: Config, run_dir: Path) -> Finding:
    """Whether the run could be made or resumed where it would live. What it creates it removes."""
    from rlloop.preflight import prepare_run_dir
    from rlloop.recipes.doctor import Finding

    made = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    try:
        prepare_run_dir(config, str(run_dir))
    except ValueError as error:
        return Finding("fail", "run_dir", "driver", str(error), "a place to write", "run_dir=PATH or RLLOOP_RUNS")
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # it was not made
                folder.rmdir()
    return Finding("ok", "run_dir", "driver", str(run_dir))


def start_findings(config: Config) -> list[Finding]:
    """What a start looks at before anything else, in the settings and in the files that they name, as findings."""
    from rlloop import preflight
    from rlloop.recipes.doctor import Finding

    checks = {
        "targets": preflight.check_targets,
        "evaluation": preflight.check_evaluated_scores,
        "devices": preflight.check_devices,
        "buffer": preflight.check_buffer,
        "limits": preflight.check_limits,
        "prompts": preflight.check_prompts,
        "corpus": check_corpus_folder,
    }
    found = []
    for name, check in checks.items():
        try:
            check(config)
        except ValueError as error:
            found.append(Finding("fail", name, "driver", str(error), "what a run can start with", "as the line says"))
        else:
            found.append(Finding("ok", name, "driver", "a run can start with it"))
    return found


def check_corpus_folder(config: Config) -> None:
    """The corpus can be read and trained on; the mini stack's is made as a run starts.

    Raises:
        ValueError: it cannot.
    """
    from rlloop.data.corpus import open_corpus
    from rlloop.recipes.corpus_check import check_corpus

    if config.corpus and config.corpus != "mini":
        check_corpus(config, open_corpus(Path(config.corpus).expanduser()))


def copy_finding(uri: str) -> Finding:
    """Whether the store of the run's copy answers; it is not written to."""
    from rlloop.recipes.doctor import Finding
    from rlloop.recipes.run_copy import RunCopy

    try:
        found = RunCopy(uri).manifest()
    except (OSError, ValueError) as error:
        said, todo = " ".join(str(error).split())[:200], "its address, the network, credentials in the environment"
        return Finding("fail", "copy of the run", "driver", said, "a store that answers", todo)
    return Finding("ok", "copy of the run", "driver", uri if found is None else f"{uri}, start {found.epoch}")


def look_at_cluster(config: Config, run_dir: Path) -> list[Finding]:
    """Findings of all nodes of the cluster that is joined."""
    from actors.doctor import cluster_facts, placement
    from actors.startup import start_ray
    from rlloop.recipes.doctor import examine

    start_ray()
    place = run_dir_finding(config, run_dir)
    nodes, driver = cluster_facts(config, run_dir if place.level == "ok" else None)
    return [*examine(config, nodes, driver, is_cluster=True), place, placement(config)]


def show(findings: list[Finding]) -> None:
    """What is wrong first, then a line for the rest."""
    from rich.console import Console

    console = Console(soft_wrap=True)
    for finding in sorted(findings, key=lambda finding: ("fail", "warn", "ok").index(finding.level)):
        line = f"{finding.level:<4}  {finding.check} ({finding.node}): {finding.found}"
        line += f"; expected {finding.expected}" if finding.expected and finding.level != "ok" else ""
        line += f"; do: {finding.todo}" if finding.todo else ""
        console.print(line, markup=False, highlight=False)
    count = {level: sum(finding.level == level for finding in findings) for level in ("fail", "warn", "ok")}
    console.print(f"{count['fail']} to mend, {count['warn']} to look at, {count['ok']} in order", highlight=False)
