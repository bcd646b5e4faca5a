"""Whether the nodes reach each other on ports that the system chooses, as gloo, NCCL and Ray's workers take them."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Sequence

from actors.cluster import is_gone, node_name, on_nodes
from actors.session import first_line
from rlloop.recipes.machine_facts import not_connected

log = logging.getLogger(__name__)


class Door:
    """An actor that listens on its node while it lives, and closes whatever connects."""

    def __init__(self) -> None:
        import ray

        self.host = ray.util.get_node_ip_address()
        self.socket = socket.create_server(
            ("", 0), family=socket.AF_INET6 if ":" in self.host else socket.AF_INET, backlog=128
        )
        threading.Thread(target=self._turn_away, name="door", daemon=True).start()

    def address(self) -> tuple[str, int]:
        return self.host, self.socket.getsockname()[1]

    def _turn_away(self) -> None:
        while True:
            self.socket.accept()[0].close()


def unreached(nodes: Sequence[dict], timeout_s: float) -> dict[str, tuple[str, ...]]:
    """Node -> the nodes that it cannot connect to, each by its name, in the order of `nodes`.

    Of nodes on which nothing could listen, or that are gone meanwhile, nothing is said.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    kind, doors = ray.remote(Door), {}
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        doors[node_name(node)] = kind.options(num_cpus=0, scheduling_strategy=strategy).remote()
    asked = {name: door.address.remote() for name, door in doors.items()}
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=timeout_s)
    addresses = {}
    for name, answer in asked.items():
        try:
            addresses[name] = ray.get(answer, timeout=0.1)
        except ray.exceptions.RayError as error:
            log.warning("%s: no port could be opened there: %s", name, first_line(error))
    found = on_nodes(not_connected, list(nodes), addresses, timeout_s=timeout_s, failed={})
    gone = {node_name(node) for node in nodes if is_gone(node)}
    return {name: tuple(other for other in others if other not in gone) for name, others in found.items()}
