"""Absentees: starts the stream anew where a node is lost and nothing takes its place (rule: rlloop.loop.absence)."""

from __future__ import annotations

import logging
import time
from typing import Any

import ray

from actors.session import Session
from rlloop.loop.absence import Absence, observe

log = logging.getLogger(__name__)
LOOK_EVERY_S = 2.0


class Absentees:
    """Looks every other second at the nodes that are there and at those on which the segment's actors reported.

    The pump owns the actors of its segment: when it is killed they go, it comes again by itself, and the next segment
    leases anew what nobody committed.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.state, self.looked = session, Absence(), 0.0

    def look(self, report: dict[str, Any]) -> None:
        now = time.monotonic()
        if not report or now < self.looked + LOOK_EVERY_S:
            return
        self.looked = now
        try:
            nodes = {node["NodeID"]: node["Alive"] for node in ray.nodes()}
            alive = frozenset(node for node in nodes if nodes[node])
            if gone := frozenset(nodes) - alive:  # known before an actor is loaded again elsewhere, which takes seconds
                self.session.tell("buffer", "nodes_lost", gone)
            wanted, places = sum(report["sizes"].values()), report["places"]
            self.state, is_over = observe(self.state, alive, report["segment"], places, wanted, now)
            if is_over:
                there = sum(node in alive for node in places.values())
                self.session.note(
                    f"a node is lost and not replaced: the stream goes on with {there} of {wanted} actors"
                )
                ray.kill(self.session.actor("pump"), no_restart=False)
        except (ray.exceptions.RayError, ValueError) as error:  # it restarts, or Ray's head does: the next look
            log.warning("%s", error)
