"""From another process to a run that goes on: finds its cluster, and its buffer by name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actors.deadline import hard_deadline
from actors.session import Session
from rlloop.loop.joining import ADDRESS_FILE, AUTH_MODE, cannot_join

CALL_TIMEOUT_S = 60.0
JOIN_S = 120.0


def note_address(session: Session) -> None:
    """Writes where this start's Ray is found; a stale file does no harm, whoever reads it looks for the actors."""
    import ray

    path = session.path / ADDRESS_FILE
    where = {"address": ray.get_runtime_context().gcs_address, "auth_mode": os.environ.get(AUTH_MODE, "")}
    path.with_suffix(".tmp").write_text(json.dumps(where))
    os.replace(path.with_suffix(".tmp"), path)


@contextmanager
def attached(run: str, address: str, join_s: float = JOIN_S) -> Iterator[Session]:
    """The session of the newest start of a run, for calls with a deadline of their own; connected within the block.

    Args:
        run: run directory as the run printed it; it need not be mounted here.
        address: of its cluster, as rlloop.loop.joining.find_address found it before Ray was imported.
        join_s: deadline of joining it; beyond it the process ends with one line, as Ray's own wait may have no end.
    Raises:
        ValueError: no such run goes on, or its cluster wants a token that is not here; one line.
    """
    import ray

    where = str(Path(run).expanduser().resolve())
    try:
        with hard_deadline(join_s, f"the command waits for the cluster at {address}"):
            ray.init(address=address, log_to_driver=False, logging_level="error", configure_logging=True)
    except ray.exceptions.AuthenticationError as error:
        raise ValueError(cannot_join(address, str(error), os.environ)) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"cannot join the cluster at {address}: {why_not(str(error))}") from None
    try:
        yield Session(where, newest_epoch(where))
    finally:
        ray.shutdown()


def why_not(said: str) -> str:
    """The cause in one line. Ray joins through a node of the cluster on this machine, and waits 60 s for one."""
    if "No node info found" in said or "node_ip_address.json" in said:
        return (
            "this machine is no node of it, and Ray joins only from one; from outside give the dashboard, "
            "--address http://HOST:8265"
        )
    return said.strip().splitlines()[0]


def newest_epoch(run_dir: str) -> int:
    """Number of the start whose buffer is alive on this cluster.

    Raises:
        ValueError: there is none.
    """
    import ray

    actors = ray.util.list_named_actors(all_namespaces=True)
    places = [a["namespace"].rsplit(":", 1) for a in actors if a["name"] == "buffer"]
    epochs = [int(place[1]) for place in places if place[0] == f"rlloop:{run_dir}"]
    if not epochs:
        others = sorted({place[0].removeprefix("rlloop:") for place in places})
        raise ValueError(f"no run goes on in {run_dir} on this cluster; runs there: {', '.join(others) or 'none'}")
    return max(epochs)
