"""What `rlloop scale` does once it knows the run: check, tell the buffer, and watch until the new actors work."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Console

from actors.attach import CALL_TIMEOUT_S, attached
from actors.cluster import alive_nodes, possible_nodes
from actors.session import Session
from rlloop.loop.snapshot import PoolsNow
from rlloop.resources import Nodes, check_nodes

WAIT_S, POLL_S = 1800.0, 0.5


def show(run: str, address: str) -> None:
    """Prints the pools of a run."""
    with attached(run, address) as session:
        print_pools(pools(session))


def scale(run: str, address: str, sizes: Mapping[str, int], *, may_exceed: bool, waits: bool) -> None:
    """Gives pools of a running run other sizes.

    Raises:
        ValueError: no such run or pool, or the cluster has too little, with both numbers.
    """
    with attached(run, address) as session:
        if not may_exceed:
            refuse_too_much(session, sizes)
        began, before = time.monotonic(), pools(session)
        session.call("scale", "buffer", "scale", dict(sizes), timeout_s=CALL_TIMEOUT_S)
        print_pools(pools(session))
        if waits and any(before.sizes[name] != size for name, size in sizes.items()):
            wait_for(session, before.segment, sizes)
            print(f"in effect after {time.monotonic() - began:.1f} s")


def pools(session: Session) -> PoolsNow:
    return session.call("scale", "buffer", "pools", timeout_s=CALL_TIMEOUT_S)


def refuse_too_much(session: Session, sizes: Mapping[str, int]) -> None:
    """The sum of all roles has to fit on the nodes that there are, or that an autoscaler may add where that is known.

    Raises:
        ValueError: it does not; both numbers.
    """
    rows = session.call("scale", "buffer", "takes", dict(sizes), timeout_s=CALL_TIMEOUT_S)
    possible = possible_nodes()
    problem = check_nodes(rows, alive_nodes(), possible)
    if problem:
        raise ValueError(f"{problem}; {how_to_go_on(possible)}")


def how_to_go_on(possible: Sequence[Nodes]) -> str:
    """What ends a refusal: whether nodes may still come is for the user to know where the cluster does not say it."""
    if possible:
        return "or give --anyway, and the actors wait for nodes that come"
    return "where an autoscaler adds nodes, which is not known here, give --anyway: the actors wait until they come"


def wait_for(session: Session, segment: int, sizes: Mapping[str, int]) -> None:
    """Returns when every actor of the scaled pools has its model, in a segment after `segment`; shows who is there.

    Raises:
        ValueError: not within WAIT_S; says how many are.
    """
    began = time.monotonic()
    with Console(stderr=True).status("the stream ends early") as status:
        while True:
            now = pools(session)
            there = {name: now.at_work.get(name, 0) if now.segment > segment else 0 for name in sizes}
            if now.segment > segment and all(there[name] >= size for name, size in sizes.items()):
                return
            at_work = ", ".join(f"{name} {there[name]} of {size}" for name, size in sizes.items())
            if time.monotonic() - began > WAIT_S:
                raise ValueError(
                    f"after {WAIT_S:.0f} s at work are {at_work}; the sizes stay, the cluster may lack room"
                )
            status.update(f"at work: {at_work}" if now.segment > segment else "the tickets under way are finished")
            time.sleep(POLL_S)


def print_pools(now: PoolsNow) -> None:
    """One line a pool."""
    for name, size in now.sizes.items():
        wanted = now.wanted[name]
        change = f" -> {wanted} from the next segment on" if wanted != size else ""
        print(f"{name}: {size} actors{change}")
