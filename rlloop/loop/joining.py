"""Where a run that goes on is found. Without Ray: what it needs to join must be known before it is imported."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, MutableMapping
from pathlib import Path

ADDRESS_FILE, AUTH_MODE = "ray.json", "RAY_AUTH_MODE"
LISTENS_OUTSIDE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0: as on those systems by default, on loopback
CONNECT_TIMEOUT_S = 5.0


def joins_cluster(environment: Mapping[str, str]) -> bool:
    """Whether a run joins a Ray cluster that is already up."""
    return bool({"RAY_ADDRESS", "RAY_JOB_ID", "RAY_JOB_CONFIG_JSON_ENV_VAR"} & environment.keys())


def prepare(environment: MutableMapping[str, str]) -> None:
    """Settings that Ray reads when it is imported; what is set already stays (docs/decisions/0019).

    A Ray of our own listens on loopback alone and wants its token. A cluster is joined with the token that is at hand:
    Ray itself turns tokens on only where it starts one.
    """
    if joins_cluster(environment):
        if has_token(environment):
            environment.setdefault(AUTH_MODE, "token")
    else:
        environment.setdefault(LISTENS_OUTSIDE, "0")
        environment.setdefault(AUTH_MODE, "token")


def has_token(environment: Mapping[str, str]) -> bool:
    """Whether Ray would find a token; its text is not looked at."""
    if environment.get("RAY_AUTH_TOKEN"):
        return True
    return token_path(environment).is_file()


def cannot_join(address: str, said: str, environment: Mapping[str, str]) -> str:
    """One line for a cluster that was not reached or turned us away, with what Ray `said` and what to set."""
    mode, has = environment.get(AUTH_MODE, "not set"), "a" if has_token(environment) else "no"
    return (
        f"cannot join the cluster at {address}: {' '.join(said.split()).partition('. ')[0][:200]}; is it up? "
        f"{AUTH_MODE} is {mode}, {has} token is here: set RAY_AUTH_TOKEN_PATH to the cluster's, and RAY_AUTH_MODE=token"
    )


def token_path(environment: Mapping[str, str]) -> Path:
    """The file that Ray looks for, and makes where it starts a cluster without one."""
    given = environment.get("RAY_AUTH_TOKEN_PATH")
    return (
        Path(given).expanduser() if given else Path(environment.get("HOME", "~")).expanduser() / ".ray" / "auth_token"
    )


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
    if address.startswith("127.0.0.1:"):
        environment.setdefault(LISTENS_OUTSIDE, "0")
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
