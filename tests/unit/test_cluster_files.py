"""The files of cluster/ against Ray's own schema, each other and the presets, without a cloud."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from actors.cluster import possible_nodes
from actors.scaling import how_to_go_on
from rlloop.config import PRESETS, load
from rlloop.recipes.doctor import weights_of_steps
from rlloop.resources import Nodes, check_nodes, node_types, resources, rows_on
from tests.unit.cluster_files import (
    CLOUDS,
    CLUSTER,
    REPOSITORY,
    TYPES,
    environment,
    node_groups,
    prepared,
    read,
    weights_of,
)

PLACED = [path.stem for path in sorted(PRESETS.glob("*.yaml")) if node_types(load(path))]
OFFICIAL = ("fluxaudio_s_44k_gclef", "vae_44k", "bigvgan_v2_44k")


def test_a_preset_names_node_types():
    assert "cluster" in PLACED


@pytest.mark.parametrize("name", [*CLOUDS, "gpu-onprem"])
def test_ray_takes_the_file_as_it_is(name):
    config = prepared(name)
    assert config["cluster_name"] == "rlloop" and config["max_workers"] >= 4
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert all(command.startswith("source ~/rlloop/cluster/env.sh") for command in commands)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for remote, local in config["file_mounts"].items():
        assert local.startswith("~/") or (remote == f"~/rlloop/{local}" and (REPOSITORY / local).exists())


def test_a_wrong_key_is_refused_by_the_same_check():
    from ray.autoscaler._private.util import prepare_config, validate_config

    wrong = read("gpu")
    wrong["available_node_types"]["sampler"]["max_nodes"] = 4
    with pytest.raises(Exception, match="max_nodes"):
        validate_config(prepare_config(wrong))


@pytest.mark.parametrize("name", CLOUDS)
def test_each_type_has_its_own_size_disk_time_and_set_up(name):
    config = prepared(name)
    nodes = config["available_node_types"]
    assert set(nodes) == TYPES and config["head_node_type"] == "head"
    assert sum(node["max_workers"] for node in nodes.values()) <= config["max_workers"]
    for node, has in nodes.items():
        assert has["resources"][node] == 1 and has["labels"]["node"] == node
        assert TYPES & set(has["resources"]) == {node}
        set_up = has.get("worker_setup_commands", config["head_setup_commands"])
        assert [c.partition("bash ")[2] for c in set_up if "setup.sh" in c] == [f"~/rlloop/cluster/setup.sh {node}"]
    workers = TYPES - {"head"}
    assert "GPU" not in nodes["head"]["resources"] and all(nodes[node]["resources"]["GPU"] == 1 for node in workers)
    assert all(nodes[node]["idle_timeout_s"] >= 300 for node in workers)
    assert {node for node in TYPES if nodes[node]["labels"]["market"] == "spot"} == {"sampler"}
    text = json.dumps({node: nodes[node]["node_config"] for node in TYPES})
    assert text.lower().count('"spot"') == 1 and "spot" in json.dumps(nodes["sampler"]["node_config"]).lower()
    disks = [
        json.dumps(nodes[node]["node_config"].get("BlockDeviceMappings", nodes[node]["node_config"].get("disks")))
        for node in TYPES
    ]
    assert all("Size" in disk for disk in disks) and len(set(disks)) >= 3


def test_google_machines_have_disks_that_they_take_and_leave_none_behind():
    config = prepared("gpu-gcp")
    zone = config["provider"]["availability_zone"]
    for node in config["available_node_types"].values():
        machine = node["node_config"]
        for disk in machine["disks"]:  # G2 does not attach pd-standard, which is the default
            assert disk["initializeParams"]["diskType"] == f"zones/{zone}/diskTypes/pd-balanced" and disk["autoDelete"]
        if node["labels"]["market"] == "spot":  # the default is STOP: such a machine is no node any more, and stays
            assert machine["scheduling"]["instanceTerminationAction"] == "DELETE"


def mounted_with(tmp_path, command):
    """The options that a set-up command mounts the share with: setup.sh as it is, what it calls only noted."""
    home = tmp_path / "home"
    shutil.copytree(CLUSTER, home / "rlloop" / "cluster")
    (tmp_path / "bin").mkdir()
    for name, script in {
        "sudo": f'echo "$@" >> {tmp_path}/asked\n[ "$1" = mkdir ] && "$@"\n[ "$1" != mount ]',  # the mount ends it
        "mountpoint": "exit 1", "g++": "", "mount.nfs": "", "python3": "",
    }.items():  # fmt: skip
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    given = {"HOME": str(home), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    given |= {"RLLOOP_SHARE": "10.0.0.2:/runs", "RLLOOP_MOUNT": str(tmp_path / "mnt")}
    subprocess.run(["bash", "-c", command], env=given, capture_output=True, timeout=30)
    (line,) = [line for line in (tmp_path / "asked").read_text().splitlines() if line.startswith("mount ")]
    return line.split()[line.split().index("-o") + 1].split(",")


@pytest.mark.parametrize(("name", "version"), [("gpu", "4.1"), ("gpu-gcp", "3"), ("gpu-onprem", "4.1")])
def test_every_provider_mounts_with_the_version_that_its_share_speaks(name, version, tmp_path):
    config = prepared(name)
    for number, node in enumerate(config["available_node_types"].values()):
        commands = [*node.get("worker_setup_commands", []), *config["head_setup_commands"]]
        command = next(command for command in commands if "setup.sh" in command)
        (tmp_path / str(number)).mkdir()
        assert f"vers={version}" in mounted_with(tmp_path / str(number), command)


@pytest.mark.parametrize(("name", "cloud"), [("gpu", "aws"), ("gpu-gcp", "gcp")])
def test_workers_listen_for_their_own_cloud_once_ray_runs(name, cloud):
    *_, start, listen = read(name)["worker_start_ray_commands"]
    assert "ray start" in start and f"~/rlloop/cluster/notice.py {cloud} <" in listen
    assert subprocess.run(["bash", "-n", "-c", listen]).returncode == 0
    assert subprocess.run([sys.executable, CLUSTER / "notice.py", cloud, "--help"], capture_output=True).returncode == 0


def test_the_twins_have_one_shape():
    groups = {name: node_groups(name) for name in (*CLOUDS, "kuberay")}
    for name in ("gpu-gcp", "kuberay"):
        for node in TYPES - {"head"}:
            mine, other = groups["gpu"][node][3], groups[name][node][3]
            for key in ("min_workers", "max_workers", "idle_timeout_s"):
                assert mine[key] == other[key], (name, node, key)
            assert mine["labels"]["node"] == other["labels"]["node"] == node


@pytest.mark.parametrize("name", [*CLOUDS, "kuberay"])
@pytest.mark.parametrize("preset", PLACED)
def test_presets_with_node_types_fit_every_cluster(name, preset):
    config = load(preset)
    nodes = [
        Nodes(most, cpus, gpus, frozenset({"head" if node == "headgroup" else node}))
        for node, (cpus, gpus, most, _) in node_groups(name).items()
    ]
    assert check_nodes(resources(config), nodes) is None
    bounds = config.sampler.autoscale
    assert bounds is None or bounds.max * config.sampler.num_gpus <= node_groups(name)["sampler"][2]


@pytest.mark.parametrize("name", [*CLOUDS, "gpu-onprem", "kuberay"])
@pytest.mark.parametrize("preset", PLACED)
def test_a_cluster_that_has_just_come_up_takes_the_presets(name, preset):
    """One node of each type, and nobody says which may come: neither the run nor the doctor may refuse it."""
    if name == "gpu-onprem":  # its machines' CPUs are found by Ray; no fewer than the clouds' are expected
        least = [(8, 0 if node == "head" else 1, 1, node) for node in TYPES]
    else:
        least = [
            (cpus, gpus, max(each["min_workers"], node.startswith("head")), "head" if "head" in node else node)
            for node, (cpus, gpus, _, each) in node_groups(name).items()
        ]
    alive = [Nodes(count, cpus, gpus, frozenset({node})) for cpus, gpus, count, node in least if count]
    assert sum(node.count for node in alive) == 4
    assert check_nodes(rows_on(load(preset), []), alive) is None


@pytest.mark.parametrize("name", CLOUDS)
def test_what_may_come_is_read_from_what_ray_up_leaves_on_the_head(tmp_path, name):
    left = tmp_path / "ray_bootstrap_config.yaml"
    left.write_text(json.dumps(prepared(name)))
    found = possible_nodes(left)
    assert {(*node.types, node.count, node.gpus_each) for node in found} == {
        ("head", 1, 0), ("sampler", 4, 1), ("reward", 2, 1), ("trainer", 1, 1)
    }  # fmt: skip
    head = Nodes(1, 8, 0, frozenset({"head"}))
    config = load("cluster")
    assert check_nodes(rows_on(config, found), [head], found) is None
    too_many = load("cluster", ["sampler.autoscale.max=5"])
    assert "sampler 5), there are 4" in check_nodes(rows_on(too_many, found), [head], found)


def test_where_nothing_says_what_may_come_nothing_is_guessed(tmp_path):
    left = tmp_path / "ray_bootstrap_config.yaml"
    assert possible_nodes(left) == []
    damaged = ("", "[", "a: 1", "{}", "1", "a: {max_workers: x}", "a: {resources: 3}")
    for text in (*damaged, *(f"available_node_types: {{{inner}}}" for inner in damaged[2:])):
        left.write_text(text)
        assert possible_nodes(left) == [], text
    left.write_text(json.dumps(prepared("gpu-onprem")))
    assert possible_nodes(left) == []
    assert "--anyway" in how_to_go_on([]) and "not known" in how_to_go_on([])
    assert "not known" not in how_to_go_on([Nodes(1, 1, 0)])


def test_node8_fits_eight_gpus_and_one_gpu_one():
    for preset, gpus in (("node8", 8), ("one_gpu", 1)):
        config = load(preset)
        assert check_nodes(resources(config), [Nodes(1, 32 if gpus == 8 else 4, gpus)]) is None
        assert check_nodes(resources(config), [Nodes(1, 32, gpus - 1)]) is not None


def test_the_environment_of_a_node():
    found = environment()
    assert found["RLLOOP_RUNS"] == "/mnt/rlloop/runs" and found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_JOB_STOP_SIGNAL"] == "SIGINT" and found["RAY_JOB_STOP_WAIT_TIME_S"] == "120"
    assert found["PATH"].startswith("/home/me/rlloop/.venv/bin:")
    assert environment(RLLOOP_MOUNT="/data")["RLLOOP_RUNS"] == "/data/runs"
    features = load("cluster").generator.options["prompts"]
    assert features.startswith(found["RLLOOP_MOUNT"] + "/")


def test_a_node_fetches_what_its_roles_load():
    from rlloop.weights.catalogue import catalogue

    for node in TYPES:
        status, names = weights_of(node)
        assert status == 0 and names <= set(catalogue()) and set(OFFICIAL) <= names
        for preset in ("official", "paper"):  # what `rlloop generate` does to clips, wherever there is a card
            assert set(weights_of_steps(load(preset).postprocess)) == {"demucs_mdx_extra"} <= names
    assert {"tunejury", "clap_scoring", "mert_v1_330m", "roberta_base"} <= weights_of("reward")[1]
    assert {"flan_t5_large", "clap_conditioning", "roberta_base"} <= weights_of("head")[1]
    assert weights_of("samplr")[0] == 1
    options = load("cluster").generator.options
    assert {options["network"], options["autoencoder"], options["vocoder"]} == set(OFFICIAL)


@pytest.mark.parametrize("script", ["setup.sh", "env.sh", "node_of.sh"])
def test_scripts_parse(script):
    assert subprocess.run(["bash", "-n", CLUSTER / script]).returncode == 0


def test_every_machine_of_the_on_premise_file_has_a_type():
    def node_of(address):
        done = subprocess.run(["bash", CLUSTER / "node_of.sh", address], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    found = [node_of(address) for address in read("gpu-onprem")["provider"]["worker_ips"]]
    assert set(found) == TYPES - {"head"}
    assert node_of("10.9.9.9") is None


def test_what_a_job_uploads_is_small_and_without_runs(tmp_path):
    """Ray's own packer on this working tree with planted runs: the package holds nothing of them, of .git or .venv."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _zip_files

    planted = tmp_path / "tree"
    left_out = shutil.ignore_patterns(".git", ".venv*", "runs", "__pycache__")
    shutil.copytree(REPOSITORY, planted, ignore=left_out)
    for name in ("runs/a/journal.log", ".git/x", ".venv/lib.so", "bench/out.bin", "a.pt", "features/f.parquet"):
        (planted / name).parent.mkdir(parents=True, exist_ok=True)
        (planted / name).write_bytes(b"0" * 10)
    package = tmp_path / "package.zip"
    _zip_files(str(planted), get_runtime_env_default_excludes(), str(package), include_gitignore=True)
    names = zipfile.ZipFile(package).namelist()
    assert "rlloop/main.py" in names and "configs/cluster.yaml" in names and "actors/driver.py" in names
    assert not [
        n for n in names if n.startswith(("runs/", ".git/", ".venv/", "bench/", "features/")) or n.endswith(".pt")
    ]
    assert package.stat().st_size < 25 * 2**20


def test_the_guide_names_only_what_is_there():
    guide = (REPOSITORY / "docs" / "cluster.md").read_text()
    named = set(re.findall(r"(?<![\w/.])((?:cluster|tests|configs|docs)/[\w/.-]+\w)", guide))
    assert {"cluster/gpu.yaml", "cluster/env.sh", "tests/ray/test_job.py"} <= named
    assert not [name for name in named if not (REPOSITORY / name).exists()]
    for name in ("gpu", "gpu-gcp"):
        config = read(name)
        for node in config["available_node_types"].values():
            machine = node["node_config"].get("InstanceType")
            assert machine is None or machine in guide
    for placeholder in ("ImageId", "SecurityGroupIds", "SubnetIds", "RLLOOP_SHARE"):
        assert placeholder in guide
