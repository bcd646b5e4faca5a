"""`rlloop scale`: other sizes of the sampler and scorer pools while a run goes on."""

from __future__ import annotations

from typing import Annotated

import typer

Address = Annotated[
    str | None, typer.Option(help="HOST:PORT of the cluster; default: RAY_ADDRESS, else the run's own.")
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

    Examples: rlloop scale runs/mini --samplers 6

    rlloop scale runs/mini --scorers 2 --pool scorer_clap=3 --address 10.0.0.5:6379
    """
    import os

    from rlloop.loop.joining import find_address

    found = find_address(run_dir, address, os.environ)
    from actors.scaling import scale, show

    sizes = {**({"sampler": samplers} if samplers else {}), **({"scorer": scorers} if scorers else {})}
    sizes |= dict(parse(one) for one in pool or ())
    if sizes:
        scale(run_dir, found, sizes, may_exceed=anyway, waits=wait)
    else:
        show(run_dir, found)


def parse(given: str) -> tuple[str, int]:
    """`NAME=N` as (name, number).

    Raises:
        ValueError: it is something else.
    """
    name, _, number = given.partition("=")
    if not name or not number.isdigit():
        raise ValueError(f"--pool {given}: expected NAME=N, such as scorer_clap=2")
    return name, int(number)
