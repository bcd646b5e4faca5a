"""Where a run that goes on is found. Without Ray: what it needs to join must be known before it is imported."""

from __future__ import annotations

import json
import socket
from collections.abc import MutableMapping
from pathlib import Path

ADDRESS_FILE, AUTH_MODE = "ray.json", "RAY_AUTH_MODE"
CONNECT_TIMEOUT_S = 5.0


def find_address(run: str, given: str | None, environment: MutableMapping[str, str]) -> str:
    """Address of the cluster that a run is on: as given, of this environment, else noted by the run, with its tokens.

    Raises:
        ValueError: none is known, or nothing answers there; one line.
    """
    path = Path(run) / ADDRESS_FILE
    if given or environment.get("RAY_ADDRESS"):
        return given or environment["RAY_ADDRESS"]
    try:
        noted = json.loads(path.read_text())
        address, auth_mode = str(noted["address"]), str(noted["auth_mode"])
    except FileNotFoundError:
        raise ValueError(
            f"{run} holds no run that was started ({ADDRESS_FILE} is missing); give the run_dir that the run printed, "
            "and --address HOST:PORT of its cluster where the folder is not mounted here"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: names no address of a cluster ({error}); give --address HOST:PORT") from None
    if auth_mode:  # Ray turns tokens on where it starts a cluster, and leaves them off where it joins one
        environment.setdefault(AUTH_MODE, auth_mode)
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError):
        raise ValueError(
            f"{run}: its Ray at {address} does not answer, so the run has ended; its command starts it again"
        ) from None
    return address
