"""The doctor's judgements on facts by hand: what is wrong is found, with both sides and what to do."""

import json
import socket
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from rlloop.commands.doctor import start_findings
from rlloop.commands.main import app
from rlloop.config import load
from rlloop.recipes import machine_facts
from rlloop.recipes.doctor import (
    GIB,
    SHM_MOST,
    SHM_SHARE,
    arguments,
    examine,
    wanted_weights,
    weights_by_type,
    weights_of_steps,
)
from rlloop.recipes.machine_facts import (
    Facts,
    code_digest,
    has_token,
    not_connected,
    parse_nvidia,
    torch_state,
    unmet_requirements,
    weight_states,
)

VERSIONS = {"ray": "2.60.0", "torch": "2.14.1", "torchaudio": "2.11.0", "deepspeed": "0.19.8"}
WELL = Facts(
    node="a",
    types=("head", "sampler", "reward", "trainer"),
    system="Linux x86_64",
    python="3.12.3",
    versions=VERSIONS,
    code="c0de",
    torch_cuda="13.0",
    driver="595.71.05",
    gpus=(("NVIDIA L4", 24 * GIB),),
    has_cuda=True,
    memory=32 * GIB,
    shm=16 * GIB,
    disks={"tmp": (80 * GIB, 100 * GIB), "weights": (80 * GIB, 100 * GIB)},
    weights={"vae_44k": "verified"},
    compiler="/usr/bin/g++",
    auth_mode="token",
    has_token=True,
    sees_run_dir=True,
)
CLUSTER = load("cluster")


def wrong(*nodes, config=CLUSTER, is_cluster=True):
    """(level, check, node) of what is not in order, and the findings."""
    found = [f for f in examine(config, nodes, nodes[0], is_cluster) if f.level != "ok"]
    assert all(f.found and f.expected and f.todo for f in found)
    return [(f.level, f.check, f.node) for f in found], found


def test_nothing_is_wrong_with_what_is_well():
    assert wrong(WELL, replace(WELL, node="b"))[0] == []


@pytest.mark.parametrize(
    ("change", "level", "check", "said"),
    [
        ({"system": "Darwin arm64"}, "fail", "system", "Linux x86_64"),
        ({"python": "3.10.12"}, "fail", "python", "3.11 to 3.13"),
        ({"python": "3.14.0"}, "fail", "python", "3.11 to 3.13"),
        ({"torchaudio_error": "libcudart.so.13: cannot open"}, "fail", "torch", "libcudart.so.13"),
        ({"driver": "550.54.14"}, "fail", "gpu", "driver 580 or newer, for CUDA 13.0"),
        ({"has_cuda": False}, "fail", "gpu", "torch cannot use it"),
        ({"gpus": (), "driver": ""}, "fail", "gpu", "a GPU for sampler, scorer, trainer, evaluator"),
        ({"gpus": (("NVIDIA RTX 3070", 8 * GIB),)}, "warn", "memory of the gpu", "22.0 GiB or more"),
        ({"unmet": {"deepspeed<0.20,>=0.19.8": ""}}, "fail", "packages", "deepspeed missing"),
        ({"unmet": {"ray[data]<2.61,>=2.60": "2.59.0"}}, "fail", "packages", "pip install 'ray[data]<2.61,>=2.60'"),
        ({"error": "node a runs no task: ModuleNotFoundError"}, "fail", "node", "ModuleNotFoundError"),
        ({"memory": 8 * GIB}, "warn", "memory", "16.0 GiB or more"),
        ({"shm": 64 * 2**20}, "warn", "/dev/shm", "0.1 GiB"),
        ({"disks": {"tmp": (3 * GIB, 20 * GIB)}}, "warn", "disk of tmp", "3.0 GiB of 20.0 GiB free"),
        ({"disks": {"tmp": (50 * GIB, 1000 * GIB)}}, "warn", "disk of tmp", "100.0 GiB or more"),
        ({"weights": {"vae_44k": "absent", "tunejury": "verified"}}, "fail", "weights", "rlloop weights fetch vae_44k"),
        ({"weights": {"vae_44k": "present"}}, "warn", "weights", "rlloop weights verify vae_44k"),
        ({"compiler": ""}, "warn", "compiler", "g++ on PATH"),
        ({"has_token": False}, "fail", "authentication", "without a token"),
        ({"auth_mode": ""}, "warn", "authentication", "RAY_AUTH_MODE is not set"),
        ({"sees_run_dir": False}, "fail", "run_dir", "does not see"),
    ],
)
def test_each_fault_is_found_alone_with_what_to_do(change, level, check, said):
    listed, (finding,) = wrong(replace(WELL, **change))
    assert listed == [(level, check, "a")]
    assert said in f"{finding.found} {finding.expected} {finding.todo}"


@pytest.mark.parametrize(("memory_gib", "least"), [(28, 9_019_431_321), (56, 10**10), (500, 10**10)])
def test_shared_memory_has_room_for_ray_s_store(memory_gib, least):
    """0.3 of memory; above 10 GB the store is as large as /dev/shm lets it be, below it goes to the disk."""
    from ray._private import ray_constants as ray

    assert (SHM_SHARE, SHM_MOST) == (
        ray.DEFAULT_OBJECT_STORE_MEMORY_PROPORTION,
        ray.REQUIRE_SHM_SIZE_THRESHOLD,
    )
    well = replace(WELL, memory=memory_gib * GIB)
    assert wrong(replace(well, shm=least))[0] == []
    assert wrong(replace(well, shm=least - 1))[0] == [("warn", "/dev/shm", "a")]


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"python": "3.11.9"}, "version of python"),
        ({"versions": {**VERSIONS, "ray": "2.59.0"}}, "version of ray"),
        ({"versions": {**VERSIONS, "torch": "2.13.0"}}, "version of torch"),
        ({"code": "01d"}, "version of rlloop"),
    ],
)
def test_versions_must_match_across_nodes(change, check):
    listed, (finding,) = wrong(WELL, replace(WELL, node="b", **change))
    assert listed == [("fail", check, "b")] and finding.expected.endswith(", as on a")
    assert wrong(WELL, replace(WELL, node="b", python="3.12.9"))[0] == []  # of Python the minor version counts


def test_nodes_that_do_not_reach_each_other_stop_a_trainer_of_several_workers():
    apart = replace(WELL, node="b", unreached=("a", "c"))
    elsewhere = replace(apart, types=("sampler",))
    listed, (finding,) = wrong(WELL, apart)
    assert listed == [("warn", "ports", "b")] and "cannot connect to a, c" in finding.found
    several = CLUSTER.model_copy(update={"trainer": CLUSTER.trainer.model_copy(update={"num_workers": 2})})
    assert wrong(WELL, apart, config=several)[0] == [("fail", "ports", "b")]
    assert wrong(WELL, elsewhere, config=several)[0] == [("warn", "ports", "b")]
    (well,) = (f for f in examine(several, [WELL, replace(WELL, node="b")], WELL, True) if f.check == "ports")
    assert well.level == "ok" and well.found == "each of 2 nodes reaches the others"


def test_a_port_is_reached_where_somebody_listens():
    with socket.create_server(("127.0.0.1", 0)) as opened, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # taken, and nobody listens
        addresses = {"a": opened.getsockname(), "b": bound.getsockname()}
        assert not_connected(addresses) == ("b",)


def test_a_clock_is_wrong_only_beyond_what_was_measured():
    late = replace(WELL, node="b", clock_offset_s=-5.0, clock_error_s=0.5)
    assert wrong(WELL, late)[0] == [("warn", "clock", "b")]
    assert wrong(WELL, replace(late, clock_error_s=4.0))[0] == []


def test_a_node_without_a_card_is_no_fault_where_no_role_wants_one():
    head = replace(WELL, types=("head",), gpus=(), driver="", has_cuda=False)
    assert wrong(head, replace(WELL, node="b"))[0] == []
    bare = replace(WELL, gpus=(), driver="", has_cuda=False, auth_mode="", has_token=False)
    assert wrong(bare, config=load("mini"), is_cluster=False)[0] == []
    assert wrong(bare, config=load("mini", ["generator.compile=true"]), is_cluster=False)[0] == []
    makes_its_token = replace(bare, auth_mode="token")
    assert wrong(makes_its_token, config=load("mini"), is_cluster=False)[0] == []
    no_compiler = replace(bare, compiler="")
    assert wrong(no_compiler, config=load("mini", ["generator.compile=true"]), is_cluster=False)[0] == [
        ("fail", "compiler", "a")
    ]


def test_weights_of_each_role_and_type_of_node():
    generator = ["fluxaudio_s_44k_gclef", "vae_44k", "bigvgan_v2_44k"]
    rewards = {"tunejury", "clap_scoring", "roberta_base", "mert_v1_330m"}
    wanted = wanted_weights(CLUSTER)
    assert wanted["sampler"] == wanted["trainer"] == generator and set(wanted["scorer"]) == rewards
    assert set(wanted["evaluator"]) == rewards | set(generator)
    by_type = weights_by_type(CLUSTER)
    assert set(by_type["sampler"]) == set(by_type["trainer"]) == set(generator)
    assert set(by_type["reward"]) == rewards | set(generator) and by_type[None] == []
    assert all(names == [] for names in wanted_weights(load("mini")).values())
    assert "my_head.pt" in arguments("rlloop.rewards.tunejury:tunejury", {"head": "my_head.pt"})
    assert "tunejury" not in arguments("rlloop.rewards.tunejury:tunejury", {"head": "my_head.pt"})


def test_what_only_generate_loads_is_missed_but_stops_no_run():
    official = load("official")
    assert "demucs_mdx_extra" in weights_by_type(official)[None]
    at = replace(WELL, weights={"vae_44k": "absent", "demucs_mdx_extra": "absent"})
    listed, found = wrong(at, config=official)
    assert listed == [("fail", "weights", "a"), ("warn", "weights", "a")]
    assert [f.todo for f in found] == ["rlloop weights fetch vae_44k", "rlloop weights fetch demucs_mdx_extra"]
    assert weights_of_steps(load("official", ["postprocess=[loudness]"]).postprocess) == []


def test_a_node_without_an_answer_is_named_and_the_others_are_looked_at():
    silent = Facts(node="b", types=("sampler",), error="driver waits for node b to run a task since 300 s")
    assert wrong(WELL, silent, replace(WELL, node="c", compiler=""))[0] == [
        ("fail", "node", "b"),
        ("warn", "compiler", "c"),
    ]


def test_requirements_are_those_of_the_project(monkeypatch):
    versions = {"a": "1.5", "b": "", "c": "2.14.1+cu130", "d": ""}
    monkeypatch.setattr(machine_facts, "version", versions.get)
    wanted = ["a>=2,<3", "b", "c>=2.13,<2.15", "d; extra == 'test'"]
    monkeypatch.setattr(machine_facts.importlib.metadata, "requires", lambda name: wanted)
    assert unmet_requirements() == {"a<3,>=2": "1.5", "b": ""}


def test_a_torch_that_cannot_be_imported_is_a_finding(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    cuda, has_cuda, said = torch_state()
    assert (cuda, has_cuda) == (None, False) and said.startswith("import torch: ")
    listed, _ = wrong(replace(WELL, torch_cuda=cuda, torchaudio_error=said))
    assert listed == [("fail", "torch", "a")]


def test_facts_are_read_from_what_is_there(tmp_path, monkeypatch):
    driver, gpus = parse_nvidia("595.71.05, NVIDIA L4, 23034\n595.71.05, NVIDIA L4, 23034\n")
    assert driver == "595.71.05" and gpus == (("NVIDIA L4", 23034 * 2**20),) * 2
    assert parse_nvidia("No devices were found\n") == ("", ())
    assert code_digest() == code_digest() and len(code_digest()) == 12
    assert not has_token({}, tmp_path) and has_token({"RAY_AUTH_TOKEN": "x"}, tmp_path)
    (tmp_path / "token").write_text("secret")
    assert has_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}, tmp_path)
    monkeypatch.setenv("RLLOOP_WEIGHTS", str(tmp_path))
    assert weight_states(["vae_44k"]) == {"vae_44k": "absent"}


def test_the_command_says_one_line_each_and_ends_with_its_status(tmp_path, tmp_path_factory, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("RLLOOP_RUNS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("RLLOOP_WEIGHTS", str(tmp_path / "weights"))
    fine = CliRunner().invoke(app, ["doctor", f"run_dir={tmp_path / 'a' / 'b'}"])
    assert fine.exit_code == 0 and "0 to mend" in fine.output and not (tmp_path / "a").exists()
    bad = CliRunner().invoke(app, ["doctor", "--config", "official", "--json", f"run_dir={tmp_path}"])
    found = json.loads(bad.output)
    assert bad.exit_code == 1
    failed = {f["check"]: f["found"] for f in found if f["level"] == "fail"}
    assert "no prompt features there" in failed["prompts"]  # weights alone would not have let it start
    assert any(f["check"] == "weights" and "rlloop weights fetch" in f["todo"] for f in found if f["level"] == "fail")
    assert list(tmp_path.iterdir()) == []
    full = CliRunner().invoke(app, ["doctor", f"run_dir={tmp_path / 'c' / 'd'}", "limits.min_free_disk=900TB"])
    assert full.exit_code == 1 and list(tmp_path.iterdir()) == []
    lost = CliRunner().invoke(app, ["doctor", f"run_dir={tmp_path}", f"prompts={tmp_path / 'none.txt'}"])
    assert lost.exit_code == 1 and "none.txt" in lost.output
    away = CliRunner().invoke(app, ["doctor", f"run_dir=file://{tmp_path}/copy"])
    assert away.exit_code == 0 and "copy of the run" in away.output and list(tmp_path.iterdir()) == []
    unknown = CliRunner().invoke(app, ["doctor", "--config", "nowhere"])
    assert unknown.exit_code == 2


def test_files_that_a_start_would_refuse_are_found_before_it(tmp_path):
    (tmp_path / "prompts.txt").write_text("a waltz\n")
    given = [f"prompts={tmp_path}/prompts.txt", "evaluation.num_prompts=500", "stages.0.selection.min_examples=1000"]
    found = {f.check: f for f in start_findings(load("mini", given)) if f.level == "fail"}
    assert set(found) == {"prompts", "targets"}
    assert "held-out prompts exist" in found["prompts"].found and "min_examples 1000" in found["targets"].found
    (finding,) = (f for f in start_findings(load("mini", [f"corpus={tmp_path}"])) if f.level == "fail")
    assert finding.check == "corpus" and str(tmp_path) in finding.found
    assert all(f.level == "ok" for f in start_findings(load("mini")))
