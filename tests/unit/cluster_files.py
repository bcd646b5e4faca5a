"""What the tests of cluster/ share: its files as Ray reads them, their types of nodes, and a node's environment."""

import os
import subprocess
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]
CLUSTER = REPOSITORY / "cluster"
CLOUDS = ("gpu", "gpu-gcp")
TYPES = {"head", "sampler", "reward", "trainer"}


def read(name):
    return yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())


def prepared(name):
    """As `ray up` sees it, defaults filled in; refused where Ray would refuse it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(read(name))
    validate_config(config)
    return config


def kuberay():
    """(documents, what Ray's autoscaler makes of the RayCluster)."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    documents = list(yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text()))
    cluster = next(d for d in documents if d["kind"] == "RayCluster")
    cluster["metadata"]["namespace"] = "default"
    return documents, _derive_autoscaling_config_from_ray_cr(cluster)


def node_groups(name):
    """type -> (CPUs, GPUs, most nodes, node type)."""
    config = kuberay()[1] if name == "kuberay" else prepared(name)
    return {
        node: (each["resources"].get("CPU"), each["resources"].get("GPU", 0), max(1, each["max_workers"]), each)
        for node, each in config["available_node_types"].items()
    }


def environment(**given):
    """What cluster/env.sh exports, read by bash itself."""
    script = f"source {CLUSTER / 'env.sh'} && env -0"
    done = subprocess.run(
        ["bash", "-c", script],
        env={"HOME": "/home/me", "PATH": os.environ["PATH"], **given},
        capture_output=True,
        check=True,
    )
    return dict(line.split("=", 1) for line in done.stdout.decode().split("\0") if "=" in line)


def weights_of(node):
    """Names that cluster/setup.sh fetches on a type of node: its own case statement, run by bash."""
    text = (CLUSTER / "setup.sh").read_text()
    rule = text[text.index("generator=") : text.index("# shellcheck")]
    done = subprocess.run(["bash", "-c", f"node={node}\n{rule}\necho $weights"], capture_output=True, text=True)
    return done.returncode, set(done.stdout.split())
