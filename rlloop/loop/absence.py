"""When a pool that lost actors with their node is started anew. A rule on values: the driver asks and carries it out.

Ray restarts an actor wherever there is room, and what waits at it waits with it, for ever where there is none. Actors
of a new segment get tickets only once they run, so a segment begun anew needs nobody who is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

GRACE_S = 30.0  # in which Ray finds room on another node, or an autoscaler's spare one


@dataclass(frozen=True)
class Absence:
    """What the rule remembers: the nodes of the last look, and since when actors of which segment may be missing."""

    alive: Set[str] = frozenset()
    segment: int = 0
    since: float | None = None


def observe(
    before: Absence, alive: Set[str], segment: int, places: Mapping[str, str], wanted: int, now: float
) -> tuple[Absence, bool]:
    """One look; whether the segment's stream must be started anew.

    Args:
        alive: ids of the nodes that are there. places: actor of the segment -> node on which it last reported.
        wanted: actors that the segment's pools shall have. now: seconds of any clock that does not jump.
    """
    is_missing = sum(node in alive for node in places.values()) < wanted
    since = before.since if segment == before.segment and is_missing else None
    if since is None and is_missing and before.alive - alive:
        since = now
    is_over = since is not None and now - since >= GRACE_S
    return Absence(alive, segment, None if is_over else since), is_over
