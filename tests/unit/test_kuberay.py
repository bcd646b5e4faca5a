"""The manifest for Kubernetes: KubeRay's fields, those of its pods, and the image."""

import json
import re

import pytest

from rlloop.recipes.doctor import GIB, SHM_MOST, SHM_SHARE
from tests.unit.cluster_files import CLUSTER, environment, kuberay, read, weights_of


def test_the_manifest_has_the_fields_of_the_resource():
    """Names as in KubeRay's ray.io/v1 types: HeadGroupSpec, WorkerGroupSpec, AutoscalerOptions."""
    documents, _ = kuberay()
    claim, cluster = documents
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    spec = cluster["spec"]
    assert cluster["apiVersion"] == "ray.io/v1" and spec["authOptions"] == {"mode": "token"}
    assert set(spec) <= {
        "rayVersion",
        "authOptions",
        "enableInTreeAutoscaling",
        "autoscalerOptions",
        "headGroupSpec",
        "workerGroupSpecs",
    }
    assert set(spec["autoscalerOptions"]) == {"version", "idleTimeoutSeconds"}
    assert set(spec["headGroupSpec"]) == {"serviceType", "rayStartParams", "labels", "template"}
    worker = {
        "groupName",
        "replicas",
        "minReplicas",
        "maxReplicas",
        "idleTimeoutSeconds",
        "rayStartParams",
        "labels",
        "template",
    }
    assert all(set(group) == worker for group in spec["workerGroupSpecs"])
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        check_pod(
            group["template"]["spec"], group["labels"]["node"], claim["metadata"]["name"], group["rayStartParams"]
        )
        assert set(group["template"]) == {"spec"}


# Names as in Kubernetes' core/v1 types; what none of the pods has is not among them.
POD = {"securityContext", "initContainers", "containers", "volumes"}
PLACEMENT = {"nodeSelector", "tolerations"}
CONTAINER = {"name", "image", "env", "volumeMounts"}
FIELDS = {
    "securityContext": {"fsGroup"}, "env": {"name", "value", "valueFrom"}, "valueFrom": {"secretKeyRef"},
    "secretKeyRef": {"name", "key", "optional"}, "volumeMounts": {"name", "mountPath"},
    "ports": {"containerPort", "name"}, "resources": {"requests", "limits"}, "requests": {"cpu", "memory"},
    "limits": {"cpu", "memory", "nvidia.com/gpu"}, "tolerations": {"key", "operator"},
    "volumes": {"name", "persistentVolumeClaim", "hostPath", "emptyDir"}, "persistentVolumeClaim": {"claimName"},
    "hostPath": {"path", "type"}, "emptyDir": {"medium", "sizeLimit"},
}  # fmt: skip


def check_pod(pod, node, claim, params):
    """One container that Ray runs in, one that fetches; mounts are volumes; the environment is cluster/env.sh's."""
    check_fields(pod, node)
    check_placement(pod, node)
    (container,), (fetch,) = pod["containers"], pod["initContainers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for each in (container, fetch):
        assert {mount["name"] for mount in each["volumeMounts"]} <= set(volumes)
        assert each["image"] == container["image"]
    memory, shm = (
        int(size.removesuffix("Gi")) * GIB
        for size in (container["resources"]["limits"]["memory"], volumes["shm"]["emptyDir"]["sizeLimit"])
    )
    assert shm >= min(SHM_SHARE * memory, SHM_MOST), "Ray's object store would go to the disk"
    assert volumes["share"]["persistentVolumeClaim"]["claimName"] == claim
    assert all(isinstance(value, str) for value in params.values()), "rayStartParams are strings"
    assert json.loads(json.loads(params["resources"])) == {node: 1}
    assert float(params["num-cpus"]) == float(container["resources"]["limits"]["cpu"])
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (node != "head")
    assert fetch["command"] == ["rlloop", "weights", "fetch"] and set(fetch["args"]) == weights_of(node)[1]
    values = {variable["name"]: variable.get("value") for variable in container["env"]}
    expected = environment()
    for name in (
        "RLLOOP_RUNS",
        "RAY_JOB_STOP_SIGNAL",
        "RAY_JOB_STOP_WAIT_TIME_S",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S",
    ):
        assert values[name] == expected[name]


def check_fields(pod, node):
    """No field is misspelt, in the wrong place or missing; a server that is lenient drops what it does not know."""
    assert set(pod) == (POD if node == "head" else POD | PLACEMENT)
    (container,), (fetch,) = pod["containers"], pod["initContainers"]
    assert set(container) == CONTAINER | {"resources"} | ({"ports"} if node == "head" else set())
    assert set(fetch) == CONTAINER | {"command", "args", "securityContext"}
    assert fetch["securityContext"] == {"runAsUser": 0}
    for part in (pod, container, {**fetch, "securityContext": {}}):
        check_inner_fields({name: value for name, value in part.items() if name in FIELDS})


def check_inner_fields(part):
    for name, value in part.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                assert set(each) <= FIELDS[name], name
                check_inner_fields(each)


def check_placement(pod, node):
    """A worker goes to the nodes of its type, which carry the taint of GPU nodes; spot is where the twins have it."""
    spot = {name for name, each in read("gpu")["available_node_types"].items() if each["labels"]["market"] == "spot"}
    taints = [] if node == "head" else ["nvidia.com/gpu", *(["rlloop/spot"] if node in spot else [])]
    assert pod.get("nodeSelector") == (None if node == "head" else {"rlloop/node": node})
    found = sorted(pod.get("tolerations", []), key=lambda each: each["key"])
    assert found == [{"key": key, "operator": "Exists"} for key in taints]


MISTAKES = {
    "a pod's field": ("sampler", lambda pod: pod.update(nodeSelecter=pod.pop("nodeSelector")), "nodeSelecter"),
    "another type's nodes": ("reward", lambda pod: pod["nodeSelector"].update({"rlloop/node": "trainer"}), "trainer"),
    "a label of one's own": ("reward", lambda pod: pod["nodeSelector"].update({"market": "spot"}), "market"),
    "no toleration of GPU nodes": ("trainer", lambda pod: pod["tolerations"].clear(), "nvidia.com/gpu"),
    "spot where it is not": (
        "trainer",
        lambda pod: pod["tolerations"].append({"key": "rlloop/spot", "operator": "Exists"}),
        "rlloop/spot",
    ),
    "a toleration of a value": ("sampler", lambda pod: pod["tolerations"][0].update(operator="Equal"), "Equal"),
    "a container's field": ("head", lambda pod: pod["containers"][0].update(comand=["sh"]), "comand"),
    "a fetcher's field": ("head", lambda pod: pod["initContainers"][0].update(arg=[]), "arg"),
    "a volume's field": ("reward", lambda pod: pod["volumes"][1]["hostPath"].update(typ="Directory"), "typ"),
    "a field of a secret": (
        "reward",
        lambda pod: pod["containers"][0]["env"][-1]["valueFrom"]["secretKeyRef"].update(optionel=True),
        "optionel",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_pod_is_found(mistake):
    node, make, named = MISTAKES[mistake]
    (claim, cluster), _ = kuberay()
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    group = next(group for group in groups if group["labels"]["node"] == node)
    # through JSON: a mapping that the file names by an anchor is one object, and the mistake is to be made once
    pod = json.loads(json.dumps(group["template"]["spec"]))
    check_pod(pod, node, claim["metadata"]["name"], group["rayStartParams"])
    make(pod)
    with pytest.raises(AssertionError, match=re.escape(named)):
        check_pod(pod, node, claim["metadata"]["name"], group["rayStartParams"])


def test_the_ray_of_the_manifest_is_the_one_that_is_installed():
    import ray

    assert kuberay()[0][1]["spec"]["rayVersion"] == ray.__version__


def test_the_image_holds_what_the_package_needs():
    copied = [
        line.split()[1:-1] for line in (CLUSTER / "Dockerfile").read_text().splitlines() if line.startswith("COPY")
    ]
    assert {name for names in copied for name in names} == {
        "pyproject.toml",
        "README.md",
        "rlloop",
        "actors",
        "configs",
    }
