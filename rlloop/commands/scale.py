"""`rlloop scale`: other sizes of the sampler and scorer pools while a run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

Address = Annotated[
    str | None,
    typer.Option(
        help="HOST:PORT of the cluster on its machines, http://HOST:8265 (the dashboard) outside them; default: "
        "RAY_ADDRESS, else the run's own."
    ),
]


def run(
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="Run directory, as the run printed it.")],
    samplers: Annotated[int | None, typer.Option(min=1, help="Actors of the sampler pool.")] = None,
    scorers: Annotated[int | None, typer.Option(min=1, help="Actors of the first pool of scorers.")] = None,
    pool: Annotated[
        list[str] | None, typer.Option(metavar="NAME=N", help="Another pool, as scorer_clap=2; may be repeated.")
    ] = None,
    address: Address = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also beyond what the cluster has: actors wait for nodes to come.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Stay until the new actors are at work.")] = True,
) -> None:
    """Changes the size of pools of a running run, without a lost ticket and without a restart of the trainer.

    The stream of tickets ends early, those under way are finished, and the next stream has the new sizes; they stay
    when the run is stopped and resumed. Without any size it prints what the pools are.

    On a machine of the cluster it joins the run itself. From any other that reaches the dashboard it does so as a job
    on the head, where RUN is looked for: --address http://HOST:8265, and RAY_AUTH_MODE=token with the cluster's token.

    Examples: rlloop scale runs/mini --samplers 6

    rlloop scale /mnt/rlloop/runs/cluster --scorers 2 --pool scorer_clap=3 --address http://127.0.0.1:8265
    """
    import os

    from rlloop.loop.joining import find_address

    found = find_address(run_dir, address, os.environ)
    sizes = {**({"sampler": samplers} if samplers else {}), **({"scorer": scorers} if scorers else {})}
    sizes |= dict(parse(one) for one in pool or ())
    if found.startswith(("http://", "https://")):
        from actors.jobs.command import run_as_job

        raise typer.Exit(run_as_job(found, job_arguments(run_dir, sizes, anyway, wait)))
    from actors.scaling import scale, show

    if sizes:
        scale(run_dir, found, sizes, may_exceed=anyway, waits=wait)
    else:
        show(run_dir, found)


def job_arguments(run_dir: str, sizes: Mapping[str, int], anyway: bool, wait: bool) -> list[str]:
    """What the job on the cluster is asked: the same, by the cluster's own address.

    Raises:
        ValueError: a path that would be looked for in the job's working directory.
    """
    if not run_dir.startswith("/"):
        raise ValueError(f"{run_dir}: give the run directory as the cluster sees it, from / on")
    asked = [f"--pool={name}={number}" for name, number in sizes.items()]
    return ["scale", run_dir, *asked, *(["--anyway"] if anyway else []), *([] if wait else ["--no-wait"])]


def parse(given: str) -> tuple[str, int]:
    """`NAME=N` as (name, number).

    Raises:
        ValueError: it is something else.
    """
    name, _, number = given.partition("=")
    if not name or not number.isdigit():
        raise ValueError(f"--pool {given}: expected NAME=N, such as scorer_clap=2")
    return name, int(number)
