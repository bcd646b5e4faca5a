"""Storage gauges of a run: a thread of the driver that counts bytes every few seconds, so that no view waits for it.

Folders it lists are bounded themselves: kept checkpoints, averages, journal parts, event files. What grows faster is
counted by who writes it: rollouts by the buffer, clips by the evaluator.
"""

from __future__ import annotations

import logging
import threading
from functools import cache
from pathlib import Path

import ray

from rlloop.loop.snapshot import Storage
from rlloop.recipes.disk import checkpoint_bytes, folder_bytes, free_bytes

log = logging.getLogger(__name__)
EVERY_S = 5.0
TIMEOUT_S = 5.0


class StorageWatch:
    """Life: started -> `now` is renewed until the process ends."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.now = run_dir, Storage()
        self._address = ray.get_runtime_context().gcs_address  # asked here: after Ray's end the thread would start it
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="storage", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.now = measure(self.run_dir, self._address)
            except Exception as error:  # a gauge: the picture before stands
                log.debug("storage: %s", error)
            self._stop.wait(EVERY_S)


def measure(run_dir: Path, address: str) -> Storage:
    """Bytes by kind now; rollouts and clips are not counted here. `address` is of Ray's control store."""
    used, limit = object_store_bytes(address)
    return Storage(
        checkpoints=checkpoint_bytes(run_dir),
        events=folder_bytes(run_dir / "tensorboard"),
        journal=folder_bytes(run_dir / "journal") + folder_bytes(run_dir / "journal" / "archive"),
        object_store=used,
        object_store_limit=limit,
        spilled=spilled_bytes(),
        free_disk=free_bytes(run_dir),
    )


def object_store_bytes(address: str) -> tuple[int | None, int | None]:
    """(used, available in all) over all nodes. The interface is Ray's own and may go: then neither is known."""
    try:
        from ray._private.internal_api import get_memory_info_reply

        reply = get_memory_info_reply(_cluster_state(address), timeout_seconds=TIMEOUT_S)
        return int(reply.store_stats.object_store_bytes_used), int(reply.store_stats.object_store_bytes_avail)
    except Exception as error:
        log.debug("object store: %s", error)
        return None, None


@cache
def _cluster_state(address: str):
    """Ray's view of the cluster; one connection a process."""
    from ray._private.internal_api import get_state_from_address

    return get_state_from_address(address)


def spilled_bytes() -> int | None:
    """Objects that Ray has on this node's disk now."""
    node = getattr(ray._private.worker, "_global_node", None)
    if node is None:
        return None
    return folder_bytes(Path(node.get_session_dir_path()), "ray_spilled_objects*/*")
