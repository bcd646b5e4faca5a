"""Watches for the cloud's notice that it takes this machine back, and drains the node: then the trainer checkpoints.

    python ~/rlloop/cluster/notice.py aws       # beside `ray start` on every worker of cluster/gpu.yaml, or gcp

Ray does not ask for such notices itself. AWS gives two minutes, Google Cloud half a minute. On a drained node Ray
starts nothing new; what runs there goes on until it is gone, and a trainer's group with a worker there writes a
checkpoint (actors/turns.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from http.client import HTTPException

import psutil

EVERY_S, ANSWER_S, DRAIN_S = 5.0, 2.0, 60.0
GCP_GRACE_S = 30.0
FAULTS = (OSError, HTTPException, ValueError, TypeError, LookupError, subprocess.SubprocessError)
BASES = {"aws": "http://169.254.169.254/latest", "gcp": "http://metadata.google.internal/computeMetadata/v1"}


def ask(url: str, headers: dict[str, str], method: str = "GET") -> str | None:
    """What the machine's metadata service answers; None where it has nothing of that name.

    Raises:
        OSError: no answer in time, or another status than 200 and 404.
    """
    request = urllib.request.Request(url, headers=headers, method=method)  # noqa: S310 - a constant address
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def aws_grace_s(base: str) -> float | None:
    """Seconds until a spot machine is taken back; None without a notice."""
    token = ask(f"{base}/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT") or ""
    text = ask(f"{base}/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    if text is None:
        return None
    when = datetime.fromisoformat(json.loads(text)["time"])
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def gcp_grace_s(base: str) -> float | None:
    """The same on Google Cloud, which says no time."""
    text = ask(f"{base}/instance/preempted", {"Metadata-Flavor": "Google"})
    return GCP_GRACE_S if text and text.strip() == "TRUE" else None


def node_id() -> str:
    """Ray's id of this machine, from its raylet; asked when it is needed, since another `ray start` changes it.

    Raises:
        LookupError: no raylet runs here.
    """
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "raylet":
            for word in process.info["cmdline"] or ():
                if word.startswith("--node_id="):
                    return word.partition("=")[2]
    raise LookupError("no raylet runs here")


def drain(node: str, grace_s: float) -> None:
    """Tells Ray's control store that a node is about to go.

    Raises:
        OSError, subprocess.SubprocessError: it was not told.
    """
    command = ["ray", "drain-node", "--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "the cloud takes it back", "--deadline-remaining-seconds", str(int(grace_s))]
    subprocess.run(command, check=True, timeout=DRAIN_S)


def watch(cloud: str, base: str, every_s: float) -> None:
    """Asks until a notice came and Ray was told; a failure is said, once in a row, and asked again."""
    grace, said = {"aws": aws_grace_s, "gcp": gcp_grace_s}[cloud], ""
    while True:
        try:
            left_s = grace(base)
            if left_s is not None:
                node = node_id()
                drain(node, left_s)
                print(f"rlloop: this machine goes in {left_s:.0f} s, node {node} is drained", flush=True)
                return
            said = ""
        except FAULTS as error:
            if str(error) != said:
                said = str(error)
                print(f"rlloop: notices of {cloud}: {said}; asked again every {every_s:g} s", flush=True)
        time.sleep(every_s)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cloud", choices=BASES)
    parser.add_argument("--base", help="address of the metadata service, for tests")
    parser.add_argument("--every", type=float, default=EVERY_S, help="seconds between two questions")
    arguments = parser.parse_args()
    watch(arguments.cloud, arguments.base or BASES[arguments.cloud], arguments.every)
