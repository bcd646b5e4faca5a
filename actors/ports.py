"""Whether the nodes reach each other on ports that the system chooses, as gloo, NCCL and Ray's workers take them."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from actors.cluster import node_name, on_nodes

CONNECT_S, AT_ONCE = 3.0, 32
Address = tuple[str, int]


class Door:
    """An actor that listens on its node while it lives; nobody is let in, a connection is made all the same."""

    def __init__(self) -> None:
        import ray

        self.socket = socket.create_server((ray.util.get_node_ip_address(), 0), backlog=1024)

    def address(self) -> Address:
        return self.socket.getsockname()[:2]


def unreached(nodes: Sequence[dict], timeout_s: float, failed: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Node -> the nodes that it cannot connect to, each by its name, in the order of `nodes`.

    Args:
        failed: as of `on_nodes`.
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
        except ray.exceptions.RayError as error:  # of one without a door nothing can be said
            failed[name] = f"no port could be opened there: {type(error).__name__}"
    return on_nodes(not_connected, [*nodes], addresses, timeout_s=timeout_s, failed=failed)


def not_connected(addresses: Mapping[str, Address]) -> tuple[str, ...]:
    """Names of the addresses that this machine cannot connect to."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        are_open = list(threads.map(is_open, addresses.values()))
    return tuple(name for name, reached in zip(addresses, are_open, strict=True) if not reached)


def is_open(address: Address) -> bool:
    try:
        socket.create_connection(address, CONNECT_S).close()
    except OSError:
        return False
    return True
