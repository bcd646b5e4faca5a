"""A command of this project as a job on a cluster, for machines outside it that reach its dashboard alone."""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from collections.abc import Sequence
from typing import Any

POLL_S, ENDS_WITHIN_S = 0.2, 60.0  # between a job's last line and its status
API_ADDRESS = "RAY_API_SERVER_ADDRESS"  # goes before the address that Ray's client is given


def run_as_job(address: str, arguments: Sequence[str]) -> int:
    """Runs `rlloop ARGUMENTS` on the head of a cluster, prints what it says, and answers its status.

    Args:
        address: http://HOST:8265, the dashboard; with RAY_AUTH_MODE=token its token goes along, as Ray's own.
    Raises:
        ValueError: nothing answers there, or it turns the request away; one line.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    os.environ[API_ADDRESS] = address
    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(entrypoint=entrypoint(arguments))
    except AuthenticationError as error:
        raise ValueError(f"{address}: {first_line(error)}; export RAY_AUTH_MODE=token with its token") from None
    except (ConnectionError, RuntimeError) as error:
        raise ValueError(f"{address} takes no jobs: {first_line(error)}; is it the dashboard's address?") from None
    asyncio.run(print_log(client, job))
    return status_of(client, job)


def entrypoint(arguments: Sequence[str]) -> str:
    """The job's command line."""
    return shlex.join(["rlloop", *arguments])


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


async def print_log(client: Any, job: str) -> None:
    """Prints what a job says until it ends."""
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


def status_of(client: Any, job: str) -> int:
    """Exit status of a job that has said its last: 0, what its command ended with, or 1 where Ray ended it.

    Raises:
        ValueError: it does not end.
    """
    began = time.monotonic()
    while True:
        found = client.get_job_info(job)
        if found.status.is_terminal():
            return 0 if found.status == "SUCCEEDED" else found.driver_exit_code or 1
        if time.monotonic() - began > ENDS_WITHIN_S:
            raise ValueError(f"job {job} has said its last and is {found.status} after {ENDS_WITHIN_S:.0f} s")
        time.sleep(POLL_S)
