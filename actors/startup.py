"""Before anything runs: the lock, the epoch, the stored configuration, version 0, and Ray itself."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.deadline import hard_deadline
from actors.session import CONFIG_FILE, CORPUS_FILE, PROMPTS_FILE, Session, namespace_of
from rlloop.config import Config
from rlloop.loop import checkpoints
from rlloop.loop.files import as_kind, read_as, read_json
from rlloop.loop.joining import cannot_join, joins_cluster, token_path

log = logging.getLogger(__name__)
START_ATTEMPTS = 3
JOIN_S = 300.0
ENVIRONMENT = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # 60 by default: too short on a busy small machine
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_DEDUP_LOGS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # roles share cores: a thread that spins takes them from the others
    "TOKENIZERS_PARALLELISM": "false",
    # Processes of many threads, as the buffer and the pump, else grow by an arena a thread over days.
    "MALLOC_ARENA_MAX": "2",
    # What Ray remembers of tasks and dead actors, and what its processes log, is bounded for runs of days by default:
    # 100,000 of each in the memory of one process, six files of 512 MiB a process.
    "RAY_task_events_max_num_task_in_gcs": "2000",
    "RAY_maximum_gcs_destroyed_actor_cached_count": "200",
    "RAY_maximum_gcs_dead_node_cached_count": "100",
    "RAY_ROTATION_MAX_BYTES": str(16 * 2**20),
    "RAY_ROTATION_BACKUP_COUNT": "2",
}
# A group of fewer workers is tried only when the larger one did not start in time; the group's start takes a minute.
ELASTIC = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120"}
# Of a Ray that this process starts, without dashboard: nobody reads these, and every process pays for them each second.
UNREAD = {"RAY_task_events_report_interval_ms": "0", "RAY_enable_metrics_collection": "0", "RAY_event_stats": "0"}


@dataclass(frozen=True)
class CorpusNote:
    """Which corpus a run began with."""

    path: str
    identity: str
    rows: int


def lock_run_dir(run_dir: Path):
    """Holds the run directory for this driver; the kernel releases it when the process ends, however it ends.

    Raises:
        ValueError: another run holds it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    file = (run_dir / "driver.lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        raise ValueError(
            f"run directory {run_dir} is in use by another run (process {holder}); stop that one or choose run_dir=PATH"
        ) from None
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()
    return file


def refuse_other_config(run_dir: Path, config: Config) -> None:
    """A run directory holds one run: its configuration must have the digest of the first start.

    Raises:
        ValueError: the directory holds a run of another configuration; names the first key that differs.
    """
    path = run_dir / CONFIG_FILE
    if path.exists():
        try:
            found = Config.model_validate(read_json(path))
        except ValueError as error:
            raise ValueError(f"{path}: is no configuration of this project ({str(error).splitlines()[0]})") from None
        if found.digest() != config.digest():
            key, old, new = first_difference(found.model_dump(mode="json"), config.model_dump(mode="json"))
            raise ValueError(
                f"run directory {run_dir} holds a run with {key}={old}, this one has {key}={new}; "
                "choose another run_dir=PATH, or use the same settings to resume"
            )


def store_config(run_dir: Path, config: Config) -> None:
    """Keeps the resolved configuration, where every actor reads it. Last of all: what was refused leaves no run."""
    _write_json(run_dir / CONFIG_FILE, config.model_dump(mode="json"))


def store_prompts(run_dir: Path, config: Config) -> None:
    """Keeps the prompts in the run directory, where every node finds them; a resumed run must have the same.

    Raises:
        ValueError: the prompts have changed since the run began, or their files cannot be read.
    """
    from rlloop.recipes.build import heldout_prompts, training_prompts

    prompts = {"train": training_prompts(config), "heldout": heldout_prompts(config)}
    path = run_dir / PROMPTS_FILE
    if not path.exists():
        _write_json(path, prompts)
        return
    kept = read_as(dict[str, list[str]], path)
    for split, found in prompts.items():
        if kept.get(split) != found:
            raise ValueError(
                f"the {split} prompts are {len(found)} others than the {len(kept.get(split, []))} that run directory "
                f"{run_dir} began with; give the same file, or choose another run_dir=PATH"
            )


def find_corpus(run_dir: Path, config: Config) -> dict[str, Any] | None:
    """Which corpus the run reads; the mini stack's is made where it is missing. Writes nothing into the run.

    Raises:
        ValueError: it cannot be read or trained on, or is another than the run began with.
    """
    if not config.corpus:
        return None
    from rlloop.data.corpus import open_corpus
    from rlloop.recipes.corpus_check import check_corpus

    folder = corpus_folder(config)
    corpus = open_corpus(folder)
    check_corpus(config, corpus)
    identity = f"{checkpoints.file_checksum(corpus.table):08x}"
    found = {"path": str(folder.resolve()), "identity": identity, "rows": len(corpus)}
    path = run_dir / CORPUS_FILE
    kept = as_kind(CorpusNote, read_json(path), str(path)) if path.exists() else CorpusNote(**found)
    if (kept.identity, kept.rows) != (identity, len(corpus)):
        raise ValueError(
            f"corpus {folder} with {len(corpus)} rows is another than the one of {kept.rows} rows that {run_dir} "
            "began with; give that one, or choose another run_dir=PATH"
        )
    return found


def store_corpus(run_dir: Path, found: dict[str, Any] | None) -> None:
    """Keeps which corpus the run reads; the same rows may lie elsewhere in a later start."""
    if found is not None:
        _write_json(run_dir / CORPUS_FILE, found)


def corpus_folder(config: Config) -> Path:
    """Where the corpus lies; the mini stack's is made when it is missing."""
    if config.corpus != "mini":
        return Path(config.corpus or "").expanduser()
    from rlloop.recipes.mini_corpus import ensure_mini_corpus

    return ensure_mini_corpus(config)


def check_network(config: Config, network: Any) -> None:
    """The network can go over to every score variant that a stage names.

    Raises:
        ValueError: it cannot; one line.
    """
    from rlloop.recipes.sampler import network_variant, set_variant

    own = network_variant(network)
    for stage in config.stages:
        if stage.variant is not None:
            try:
                set_variant(network, stage.variant)
            except ValueError as error:
                raise ValueError(f"stages.{stage.name}: {error}") from None
    set_variant(network, own)


def _write_json(path: Path, value: Any) -> None:
    """Complete or not there."""
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(value, indent=1))
    os.replace(scratch, path)


def first_difference(old: Any, new: Any, key: str = "") -> tuple[str, Any, Any]:
    """The first dotted key under which two configurations differ, with both values; run_dir is left out."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new} - {"run_dir"}):
            if old.get(name) != new.get(name):
                return first_difference(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for n, (a, b) in enumerate(zip(old, new, strict=True)):
            if a != b:
                return first_difference(a, b, f"{key}.{n}")
    return key, old, new


def remove_earlier_starts(run_dir: Path) -> None:
    """What Ray Train kept of earlier starts: this loop resumes from its own checkpoints."""
    for path in (run_dir / "ray_train").glob("epoch*"):
        shutil.rmtree(path, ignore_errors=True)


def take_epoch(run_dir: Path) -> int:
    """The next epoch of this run directory, marked by a file that only one driver can create."""
    folder = run_dir / "epochs"
    folder.mkdir(exist_ok=True)
    epoch = max((int(p.name) for p in folder.glob("[0-9]*") if p.name.isdecimal()), default=0) + 1
    (folder / f"{epoch:06d}").touch(exist_ok=False)
    return epoch


def version_zero(
    run_dir: Path, config: Config, refused: Callable[[str], None] = log.warning
) -> dict[str, np.ndarray] | None:
    """The weights that a run begins with; None where it has begun. Writes nothing.

    Raises:
        ValueError: a checkpoint of a version exists but none is valid: nothing is overwritten; or a stage asks for a
            score variant that the network cannot go over to.
    """
    from rlloop.recipes.build import build_generator
    from rlloop.recipes.sampler import network_arrays

    if checkpoints.newest(run_dir, config.digest(), generations_only=True, refused=refused):
        return None
    marked = sorted((run_dir / "checkpoints").glob(f"v*-s000000/{checkpoints.MARKER}"))
    if marked:
        raise ValueError(
            f"{marked[-1].parent}: is no valid checkpoint of this configuration, and no other version is; "
            "restore the folder or choose another run_dir=PATH"
        )
    network = build_generator(config).network
    check_network(config, network)
    return network_arrays(network)


def write_version_zero(run_dir: Path, config: Config, arrays: dict[str, np.ndarray] | None) -> None:
    """Writes the first weights as a marked checkpoint, unless it is there."""
    if arrays is None:
        return
    path = checkpoints.folder(run_dir, 0)
    shutil.rmtree(path, ignore_errors=True)  # of a start that was killed here: its marker would list what is left
    checkpoints.write_arrays(path / checkpoints.WEIGHTS, arrays)
    checkpoints.write_marker(
        path, version=0, step=0, stage=0, digest=config.digest(), world_size=0,
        weights_checksum=checkpoints.arrays_checksum(arrays),
    )  # fmt: skip


def start_ray(nodes: Sequence[str] = (), object_store_bytes: int | None = None) -> None:
    """Joins the cluster of RAY_ADDRESS or of this job, else starts Ray here, on loopback, without dashboard.

    Started here, the machine is a node of all the types `nodes` that roles ask for, with an object store of so many
    bytes (None: Ray's own choice).
    """
    import ray

    from rlloop.resources import machine_cpus

    os.environ.update({key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()})
    verbose = bool(os.environ.get("RLLOOP_VERBOSE"))
    common = {"log_to_driver": verbose, "logging_level": "warning", "configure_logging": True}
    common["runtime_env"] = {"env_vars": worker_environment(os.environ)}
    if os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_JOB_ID"):
        _join(os.environ.get("RAY_ADDRESS", "auto"), common)
        return
    token = token_path(os.environ)
    makes_token = not token.exists()
    os.environ.update({key: os.environ.get(key, value) for key, value in UNREAD.items()})
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=machine_cpus(),
                resources=dict.fromkeys(nodes, 1.0),
                include_dashboard=False,
                object_store_memory=object_store_bytes,
                **common,
            )
            if makes_token and token.exists():
                token.chmod(0o600)  # Ray leaves it to be read by everybody
            return
        except OSError as error:
            raise ValueError(
                f"Ray cannot keep its token in {token}: {error.strerror or error}; set RAY_AUTH_TOKEN_PATH"
            ) from None
        except Exception as error:  # a plain Exception when its processes are not up within 30 s
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            log.warning("Ray was not up within 30 s on this busy machine, attempt %d of %d", attempt, START_ATTEMPTS)
    raise TimeoutError(f"driver waits for Ray to start: not up within 30 s in {START_ATTEMPTS} attempts; free some CPU")


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """All that the job says of its workers' environment: the settings of `ENVIRONMENT`, and where our packages lie.

    It is stored and shown by Ray, so no token may be in it. What `ray job submit --runtime-env` says of a key stands:
    Ray refuses to be told twice.
    """
    here = str(Path(__file__).resolve().parent.parent)
    paths = dict.fromkeys([here, *filter(None, [environment.get("PYTHONPATH")])])
    own = {} if joins_cluster(environment) else {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    ours = {key: environment.get(key, value) for key, value in ENVIRONMENT.items()}
    found = {**ours, **own, "PYTHONPATH": os.pathsep.join(paths)}
    submitted = json.loads(environment.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("runtime_env") or {}
    return {key: value for key, value in found.items() if key not in (submitted.get("env_vars") or {})}


def _join(address: str, common: dict[str, Any]) -> None:
    """Joins a cluster that is up.

    Raises:
        ValueError: it is not reached, or wants another token; one line.
    """
    import ray

    try:
        with hard_deadline(JOIN_S, f"the driver waits for the cluster at {address}"):
            ray.init(address=address, **common)
    except (ConnectionError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        raise ValueError(cannot_join(address, str(error), os.environ)) from None


def record_environment(run_dir: Path, epoch: int) -> None:
    """Keeps versions and hardware of this start beside the run: what a report says that it ran on."""
    import ray

    from rlloop.loop.environment import record_start

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    kinds = ("CPU", "GPU", "accelerator_type:")  # not the addresses that are among them
    record_start(run_dir, epoch, [{k: v for k, v in node.items() if k.startswith(kinds)} for node in nodes])


def shrink_to_fit(session: Session) -> None:
    """Sizes that an earlier start was told (`rlloop scale`) stay where they fit; else the configured ones hold again.

    On a cluster nodes may still come, so nothing is changed there.
    """
    import ray

    from rlloop.preflight import on_cluster
    from rlloop.resources import check_fits

    there = ray.cluster_resources()
    rows = session.call("driver", "buffer", "takes", {})
    if not on_cluster(os.environ) and check_fits(rows, there.get("CPU", 0.0), there.get("GPU", 0.0)):
        pools = {"sampler": session.config.sampler, **session.config.scorer.all_pools}
        configured = {name: role.num_actors for name, role in pools.items()}
        session.call("driver", "buffer", "scale", configured)


def wait_for_old_epochs(run_dir: Path, epoch: int, timeout_s: float) -> None:
    """Waits until no actor of an earlier epoch of this run is left.

    Raises:
        TimeoutError: names one that is still there.
    """
    import ray

    old = {namespace_of(str(run_dir), earlier) for earlier in range(1, epoch)}
    deadline = time.monotonic() + timeout_s
    while True:
        left = [a for a in ray.util.list_named_actors(all_namespaces=True) if a["namespace"] in old]
        if not left:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"driver waits for actor {left[0]['name']} of {left[0]['namespace']} to end since {timeout_s:.0f} s"
            )
        time.sleep(0.5)
