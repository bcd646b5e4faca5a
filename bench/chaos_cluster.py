"""A Ray cluster of processes on this machine: a head that computes nothing, and workers that are lost and replaced."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from typing import Any

import psutil

log = logging.getLogger(__name__)
NUM_WORKERS, CPUS_EACH = 2, 1
REPLACED_AFTER_S = 4.0  # a cloud takes longer; the loop must bear both


class Machines:
    """Head and workers. A worker that `lose` kills is taken away and replaced in the background."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        os.environ["RAY_AUTH_MODE"] = "disabled"  # Cluster makes no token, and both sides must say the same
        # Without Ray's own exit hooks: these need the main thread, and kill a node when the thread ends that added it.
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}, shutdown_at_exit=False
        )
        for _ in range(NUM_WORKERS):
            self.cluster.add_node(num_cpus=CPUS_EACH)
        self._replacing: list[threading.Thread] = []

    @property
    def address(self) -> str:
        return self.cluster.address

    @property
    def is_whole(self) -> bool:
        return not any(thread.is_alive() for thread in self._replacing)

    def workers(self) -> dict[int, Any]:
        """pid of the raylet -> node, of the workers that live."""
        found = {raylet_pid(node): node for node in list(self.cluster.worker_nodes)}
        return {pid: node for pid, node in found.items() if psutil.pid_exists(pid)}

    def lose(self, pid: int, with_children: bool) -> None:
        """SIGKILL to a worker's raylet; with its children it is as if the power went, without they notice first."""
        node = self.workers()[pid]
        victims = [psutil.Process(pid)]
        if with_children:
            victims += victims[0].children(recursive=True)
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGKILL)
        thread = threading.Thread(target=self._replace, args=(node,), daemon=True)
        self._replacing.append(thread)
        thread.start()

    def _replace(self, node: Any) -> None:
        time.sleep(REPLACED_AFTER_S)
        try:
            self.cluster.remove_node(node, allow_graceful=False)
            self.cluster.add_node(num_cpus=CPUS_EACH)
        except Exception:  # the run then shows what a cluster does that stays small
            log.exception("a lost worker could not be replaced")

    def close(self) -> None:
        for thread in self._replacing:
            thread.join(60)
        self.cluster.shutdown()
        del os.environ["RAY_AUTH_MODE"]


def raylet_pid(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid
