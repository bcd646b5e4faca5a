"""What is wrong with a machine or a cluster before a run, from facts (machine_facts.py).

Each finding says what was found, what was expected and what to do.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rlloop.config import Config, StepEntry, resolve_rewards
from rlloop.recipes.machine_facts import Facts
from rlloop.resources import resources
from rlloop.weights.catalogue import catalogue

GIB = 2**30
CUDA_DRIVERS = {"12": 525, "13": 580}  # CUDA's major version -> the first driver that runs it
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
MEMORY = {"mini": 6 * GIB, "fluxaudio": 16 * GIB}  # mini: measured, bench/default_run.md; fluxaudio: an estimate
# Estimates, as configs/one_gpu.yaml says: 24 GB are meant, of which a card of that name tells 22.5 GiB.
CARD_MEMORY = {"fluxaudio": 22 * GIB}
SHM_SHARE, SHM_MOST = 0.3, 10**10  # of memory, and bytes: with less in /dev/shm Ray keeps objects on the disk
CLOCK_S = 2.0
SPARE = 10 * GIB  # logs and spilled objects


@dataclass(frozen=True)
class Finding:
    """One check on one node. fail: the run would not work; warn: it may not."""

    level: Literal["ok", "warn", "fail"]
    check: str
    node: str
    found: str
    expected: str = ""
    todo: str = ""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def wanted_weights(config: Config) -> dict[str, list[str]]:
    """Role -> names of the catalogue that it loads: those in its options, and those that a reward takes by default."""
    from rlloop.rewards.registry import OFFICIAL

    known = catalogue()
    generator = [value for value in config.generator.options.values() if isinstance(value, str) and value in known]

    def of_rewards(entries: Sequence) -> list[str]:
        names = []
        for entry in resolve_rewards(entries, config):
            if entry.target in OFFICIAL:
                names += [value for value in arguments(OFFICIAL[entry.target], entry.options) if value in known]
        return list(dict.fromkeys(names))

    pools = {role: of_rewards(pool.rewards) for role, pool in config.scorer.all_pools.items()}
    heard = [*generator, *of_rewards(config.evaluation.scores)]
    return {"sampler": generator, **pools, "trainer": generator, "evaluator": list(dict.fromkeys(heard))}


def weights_of_steps(entries: Sequence[StepEntry]) -> list[str]:
    """Names of the catalogue that post-processing loads: `rlloop generate` does, a run does not."""
    from rlloop.recipes.postprocess import STEPS

    known = catalogue()
    ours = [entry for entry in entries if entry.target in STEPS]
    found = [value for entry in ours for value in arguments(STEPS[entry.target], entry.options) if value in known]
    return list(dict.fromkeys(found))


def arguments(target: str, options: Mapping[str, Any]) -> list[str]:
    """Strings that a function `package.module:name` is called with: its defaults, and the options."""
    import importlib

    module, _, name = target.partition(":")
    taken = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    values = {**{key: parameter.default for key, parameter in taken.items()}, **options}
    return [value for value in values.values() if isinstance(value, str)]


def weights_by_type(config: Config) -> dict[str | None, list[str]]:
    """Type of node (None: every node) -> names of weights that are loaded there; one machine is of every type.

    Roles load theirs where they run. `rlloop generate` draws wherever there is room, so every node wants what it loads
    to post-process.
    """
    wanted, found = wanted_weights(config), {None: weights_of_steps(config.postprocess)}
    for row in resources(config):
        found[row.node] = sorted({*found.get(row.node, []), *wanted.get(row.role, [])})
    return found


def examine(config: Config, nodes: Sequence[Facts], driver: Facts, is_cluster: bool) -> list[Finding]:
    """All findings, the driver's node first.

    Args:
        nodes: facts of every node, the driver's among them.
    """
    known = [facts for facts in nodes if not facts.error]
    todo = "its Python, its packages and the logs in /tmp/ray/session_latest/logs there"
    found = [Finding("fail", "node", facts.node, facts.error, "an answer", todo) for facts in nodes if facts.error]
    found += [finding for facts in known for check in NODE_CHECKS for finding in check(config, facts, is_cluster)]
    if is_cluster and not driver.error:
        found += [finding for check in CLUSTER_CHECKS for finding in check(config, known, driver)]
    return found


def show_gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"


def check_system(config: Config, facts: Facts, is_cluster: bool) -> Iterator[Finding]:
    if facts.system != "Linux x86_64":
        yield Finding("fail", "system", facts.node, facts.system, "Linux x86_64", "take another machine")
    python = tuple(int(part) for part in facts.python.split(".")[:2])
    fits = OLDEST_PYTHON <= python <= NEWEST_PYTHON
    todo = "" if fits else "make clean; make PYTHON=/path/to/python3.12 run"
    yield Finding("ok" if fits else "fail", "python", facts.node, facts.python, "3.11 to 3.13", todo)


def check_torch(config: Config, facts: Facts, is_cluster: bool) -> Iterator[Finding]:
    """torch and torchaudio of one CUDA, and a driver that runs it."""
    versions = " ".join(f"{name} {facts.versions.get(name) or 'missing'}" for name in ("torch", "torchaudio"))
    if facts.torchaudio_error:
        expected = "torch 2.13 or 2.14 from PyPI, built for CUDA 13.0 as torchaudio 2.11 is"
        todo = "pip install 'torch>=2.13,<2.15' 'torchaudio==2.11.*' (the CUDA build also runs without a GPU)"
        yield Finding("fail", "torch", facts.node, f"{versions}: {facts.torchaudio_error}", expected, todo)
    else:
        yield Finding("ok", "torch", facts.node, f"{versions}, built for CUDA {facts.torch_cuda or 'none'}")


def check_packages(config: Config, facts: Facts, is_cluster: bool) -> Iterator[Finding]:
    """What the project requires is installed, in a version that it requires."""
    for wanted, found in sorted(facts.unmet.items()):
        name = re.split(r"[^\w.-]", wanted, maxsplit=1)[0]
        said = f"{name} {found or 'missing'}"
        yield Finding("fail", "packages", facts.node, said, wanted, f"pip install '{wanted}'")


def check_gpu(config: Config, facts: Facts, is_cluster: bool) -> Iterator[Finding]:
    """A card's driver is new enough and torch can use it; where a role of this node wants a card, there is one."""
    wants = [row.role for row in resources(config) if row.gpus_each and (not is_cluster or row.node in facts.types)]
    if not facts.gpus:
        if wants:
            expected = f"a GPU for {', '.join(wants)}"
            yield Finding("fail", "gpu", facts.node, "none", expected, "install NVIDIA's driver, or set num_gpus to 0")
        return
    oldest = CUDA_DRIVERS.get((facts.torch_cuda or "").split(".")[0], 0)
    cards = ", ".join(f"{count} x {name}" for name, count in Counter(name for name, _ in facts.gpus).items())
    found = f"{cards}, {show_gib(min(memory for _, memory in facts.gpus))}, driver {facts.driver}"
    driver = facts.driver.split(".")[0]
    if driver.isdigit() and int(driver) < oldest:
        expected = f"driver {oldest} or newer, for CUDA {facts.torch_cuda}"
        yield Finding("fail", "gpu", facts.node, found, expected, f"install driver {oldest} or newer and restart")
    elif not facts.has_cuda:
        todo = "reinstall torch from PyPI (the CUDA build); look at CUDA_VISIBLE_DEVICES and nvidia-smi"
        yield Finding("fail" if wants else "warn", "gpu", facts.node, f"{found}; torch cannot use it", "CUDA", todo)
    else:
        yield Finding("ok", "gpu", facts.node, found)
    least, memory = CARD_MEMORY.get(config.generator.target, 0), min(memory for _, memory in facts.gpus)
    if wants and 0 < memory < least:
        todo = "smaller batches (sampler.clips_per_prompt, micro_batch_size, decode_batch: 1), or a larger card"
        expected = f"{show_gib(least)} or more where one card takes all roles (an estimate)"
        yield Finding("warn", "memory of the gpu", facts.node, show_gib(memory), expected, todo)


def check_memory(config: Config, facts: Facts, is_cluster: bool) -> Iterator[Finding]:
    needed = MEMORY.get(config.generator.target, MEMORY["mini"])
    level = "ok" if facts.memory >= needed else "warn"
    todo = "" if level == "ok" else "fewer actors, or a larger machine"
    yield Finding(level, "memory", facts.node, show_gib(facts.memory), f"{show_gib(needed)} or more", todo)
    least = int(min(SHM_SHARE * facts.memory, SHM_MOST))
    level = "ok" if facts.shm >= least else "warn"
    todo = (
        ""
        if level == "ok"
        else "docker run --shm-size=10g, or mount -o remount,size=10G /dev/shm; else Ray uses the disk"
    )
    yield Finding(level, "/dev/shm", facts.node, show_gib(facts.shm), f"{show_gib(least)} or more", todo)


def check_disks(config: Config, facts: Facts, is_cluster: bool) -> Iterator[Finding]:
    """Ray stops making objects on a disk that is 95 % full; weights that are not here yet need their room."""
    needed = {"tmp": SPARE, "weights": SPARE if "absent" in facts.weights.values() else 0}
    for what, (free, whole) in sorted(facts.disks.items()):
        least = max(needed.get(what, 0), 0.1 * whole if what == "tmp" else 0)
        level = "ok" if free >= least else "warn"
        found = f"{show_gib(free)} of {show_gib(whole)} free"
        todo = {"tmp": "free some, or RAY_TMPDIR=PATH", "weights": "free some, or RLLOOP_WEIGHTS=PATH"}.get(what, "")
        yield Finding(
            level, f"disk of {what}", facts.node, found, f"{show_gib(least)} or more", todo if level == "warn" else ""
        )


def check_weights(config: Config, facts: Facts, is_cluster: bool) -> Iterator[Finding]:
    """What is loaded on this node is here, with its checksum. What only `rlloop generate` loads stops no run."""
    roles = {name for names in wanted_weights(config).values() for name in names}
    later = set(weights_of_steps(config.postprocess)) - roles
    for state, level, todo in (
        ("absent", "fail", "rlloop weights fetch {}"),
        ("partial", "fail", "rlloop weights fetch {}"),
        ("present", "warn", "rlloop weights verify {}"),
        ("verified", "ok", ""),
    ):
        names = [name for name, is_so in facts.weights.items() if is_so == state]
        listed = " ".join(name for name in names if name not in later)
        if listed:
            yield Finding(level, "weights", facts.node, f"{state}: {listed}", "verified", todo.format(listed))
        listed = " ".join(name for name in names if name in later)
        if listed:
            level = "warn" if level == "fail" else level
            expected = "verified, for `rlloop generate` to post-process with"
            yield Finding(level, "weights", facts.node, f"{state}: {listed}", expected, todo.format(listed))


def check_compiler(config: Config, facts: Facts, is_cluster: bool) -> Iterator[Finding]:
    """torch.compile needs a C++ compiler; packages that are built on installing do."""
    if not facts.compiler:
        level = "fail" if config.generator.compile else "warn"
        yield Finding(level, "compiler", facts.node, "no g++", "g++ on PATH", "apt-get install build-essential")


def check_authentication(config: Config, facts: Facts, is_cluster: bool) -> Iterator[Finding]:
    """Ray runs whatever reaches its ports: a cluster wants a token, and both sides the same mode.

    Where Ray starts on this machine alone, it makes its token itself.
    """
    if is_cluster and facts.auth_mode == "token" and not facts.has_token:
        todo = "ray get-auth-token --generate, and the same ~/.ray/auth_token on every node"
        yield Finding("fail", "authentication", facts.node, "RAY_AUTH_MODE=token without a token", "a token", todo)
    elif is_cluster and facts.auth_mode != "token":
        found = f"RAY_AUTH_MODE is {facts.auth_mode or 'not set'}"
        todo = "export RAY_AUTH_MODE=token before `ray start` and on every client; cluster/env.sh does"
        yield Finding("warn", "authentication", facts.node, found, "token: who reaches the ports runs code", todo)
    elif is_cluster:
        yield Finding("ok", "authentication", facts.node, "token")


def check_run_dir(config: Config, facts: Facts, is_cluster: bool) -> Iterator[Finding]:
    if facts.sees_run_dir is False:
        todo = "mount the share there, or run_dir=PATH on one"
        yield Finding("fail", "run_dir", facts.node, "does not see what the driver writes", "one shared folder", todo)


def check_versions(config: Config, nodes: Sequence[Facts], driver: Facts) -> Iterator[Finding]:
    """What is pickled here is unpickled there: Python, Ray, torch and this project's code must be the same."""
    for name, of in (
        ("python", lambda facts: ".".join(facts.python.split(".")[:2])),
        ("ray", lambda facts: facts.versions.get("ray")),
        ("torch", lambda facts: facts.versions.get("torch")),
        ("rlloop", lambda facts: facts.code),
    ):
        for facts in nodes:
            if of(facts) != of(driver):
                todo = "install the same there: bash ~/rlloop/cluster/setup.sh TYPE, or submit with --working-dir ."
                expected = f"{of(driver)}, as on {driver.node}"
                yield Finding("fail", f"version of {name}", facts.node, of(facts) or "missing", expected, todo)
    yield Finding(
        "ok", "nodes", driver.node, f"{len(nodes)}, of the types {', '.join(sorted(types_of(nodes))) or 'none'}"
    )


def check_node_ports(config: Config, nodes: Sequence[Facts], driver: Facts) -> Iterator[Finding]:
    """The trainer's workers, and Ray's unless it is told a range, connect on ports that the system chooses."""
    apart = [facts for facts in nodes if facts.unreached]
    wanted = {config.trainer.node} - {None}
    training = {facts.node for facts in nodes if wanted <= {*facts.types}} if config.trainer.num_workers > 1 else set()
    for facts in apart:
        level = "fail" if facts.node in training and training & {*facts.unreached} else "warn"
        found = f"cannot connect to {', '.join(facts.unreached)} on a port that the system chose there"
        todo = "let the firewall or security group pass all TCP among the nodes, and nothing from outside"
        yield Finding(level, "ports", facts.node, found, "every node reaches the others", todo)
    if not apart and len(nodes) > 1:
        yield Finding("ok", "ports", driver.node, f"each of {len(nodes)} nodes reaches the others")


def check_clocks(config: Config, nodes: Sequence[Facts], driver: Facts) -> Iterator[Finding]:
    """Busy shares and times in the journal are compared across nodes."""
    for facts in nodes:
        if abs(facts.clock_offset_s) - facts.clock_error_s > CLOCK_S:
            found = f"{facts.clock_offset_s:+.1f} s against {driver.node}"
            yield Finding(
                "warn", "clock", facts.node, found, f"within {CLOCK_S:g} s", "start chrony or systemd-timesyncd"
            )


def types_of(nodes: Sequence[Facts]) -> set[str]:
    return {name for facts in nodes for name in facts.types}


NODE_CHECKS = (
    check_system, check_torch, check_packages, check_gpu, check_memory, check_disks, check_weights, check_compiler,
    check_authentication, check_run_dir,
)  # fmt: skip
CLUSTER_CHECKS = (check_versions, check_node_ports, check_clocks)
