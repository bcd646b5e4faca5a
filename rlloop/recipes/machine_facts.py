"""What a machine is, as plain values that travel: versions, GPUs, memory, disks, weights, clock, authentication.

Separate from the judgements on them (doctor.py), so that those are functions of values. Reads only; starts nothing but
nvidia-smi.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

CONNECT_S, CONNECTS_AT_ONCE = 3.0, 32
PACKAGES = ("ray", "torch", "torchaudio", "deepspeed")
RAY_PORTS = {6379: "Ray's control store", 8265: "Ray's dashboard", 52365: "Ray's agent, without which no job starts"}


@dataclass(frozen=True)
class Facts:
    """One machine. Sizes in bytes; `weights`: name -> verified | present | partial | absent."""

    node: str
    types: tuple[str, ...] = ()
    system: str = ""
    python: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    code: str = ""  # digest of this project's source as it is imported here
    torch_cuda: str | None = None  # that torch was built for; None: without CUDA
    torchaudio_error: str = ""
    driver: str = ""
    gpus: tuple[tuple[str, int], ...] = ()  # name, memory
    has_cuda: bool = False  # torch can use it
    memory: int = 0
    shm: int = 0
    disks: dict[str, tuple[int, int]] = field(default_factory=dict)  # what for -> free, all
    weights: dict[str, str] = field(default_factory=dict)
    compiler: str = ""
    auth_mode: str = ""
    has_token: bool = False
    sees_run_dir: bool | None = None  # None: not asked
    clock_offset_s: float = 0.0
    clock_error_s: float = 0.0
    unmet: dict[str, str] = field(default_factory=dict)  # requirement of this project -> version that is here, or ''
    unreached: tuple[str, ...] = ()  # nodes that cannot be connected to from here
    error: str = ""  # why nothing is known of this node


def gather(weights: Sequence[str] = (), folders: dict[str, str] | None = None, node: str = "") -> Facts:
    """Looks at this machine; imports torch, which takes seconds.

    Args:
        weights: names of the catalogue; folders: what for -> a folder whose disk counts.
    """
    driver, gpus = nvidia()
    torch_cuda, has_cuda, audio_error = torch_state()
    return Facts(
        node=node or socket.gethostname(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions={name: version(name) for name in PACKAGES},
        unmet=unmet_requirements(),
        code=code_digest(),
        torch_cuda=torch_cuda,
        torchaudio_error=audio_error,
        driver=driver,
        gpus=gpus,
        has_cuda=has_cuda,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        shm=free_and_all("/dev/shm")[1] if os.path.isdir("/dev/shm") else 0,
        disks={
            what: free_and_all(folder) for what, folder in {**(folders or {}), "tmp": tempfile.gettempdir()}.items()
        },
        weights=weight_states(weights),
        compiler=shutil.which("g++") or "",
        auth_mode=os.environ.get("RAY_AUTH_MODE", "").lower(),
        has_token=has_token(os.environ, Path.home()),
    )


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def unmet_requirements(package: str = "rlloop") -> dict[str, str]:
    """Requirement -> the version that is here instead, '' without one; {} where the project itself is not installed."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in importlib.metadata.requires(package) or ()]
    except importlib.metadata.PackageNotFoundError:
        return {}
    here = {each: version(each.name) for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})}
    return {
        str(each): found for each, found in here.items() if not each.specifier.contains(found or "0", prereleases=True)
    } | {str(each): "" for each, found in here.items() if not found}


def code_digest() -> str:
    """sha256 over the Python files of rlloop and actors where they are imported from, 12 digits."""
    root = Path(__file__).resolve().parents[2]
    files = sorted(file for room in ("rlloop", "actors") for file in (root / room).rglob("*.py"))
    whole = hashlib.sha256()
    for file in files:
        whole.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return whole.hexdigest()[:12]


def torch_state() -> tuple[str | None, bool, str]:
    """(CUDA that torch was built for, whether it can use it, why torch or torchaudio cannot be imported or '')."""
    try:
        import torch
    except (ImportError, OSError, RuntimeError) as error:
        return None, False, f"import torch: {' '.join(str(error).split())[:160]}"
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        return torch.version.cuda, torch.cuda.is_available(), " ".join(str(error).split())[:160]
    return torch.version.cuda, torch.cuda.is_available(), ""


def nvidia() -> tuple[str, tuple[tuple[str, int], ...]]:
    """(driver's version, name and memory of each GPU); ('', ()) without nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=driver_version,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "", ()
    return parse_nvidia(done.stdout) if done.returncode == 0 else ("", ())


def parse_nvidia(text: str) -> tuple[str, tuple[tuple[str, int], ...]]:
    """From nvidia-smi's lines `driver, name, MiB`; memory that it does not tell counts as 0."""
    rows = [[part.strip() for part in line.split(",")] for line in text.splitlines() if line.count(",") == 2]
    gpus = tuple((name, int(memory) * 2**20 if memory.isdigit() else 0) for _, name, memory in rows)
    return (rows[0][0] if rows else ""), gpus


def free_and_all(folder: str) -> tuple[int, int]:
    """Bytes free and in all on the disk of a folder, or of its nearest parent that exists."""
    path = Path(folder).expanduser().absolute()
    while not path.exists():
        path = path.parent
    usage = shutil.disk_usage(path)
    return usage.free, usage.total


def weight_states(names: Sequence[str]) -> dict[str, str]:
    """name -> the least that can be said of its files; records of earlier checksums are read, not the files."""
    from rlloop.weights.catalogue import entries
    from rlloop.weights.records import read_records, state

    order, found = ("absent", "partial", "present", "verified"), {}
    for entry in entries(list(names)):
        records = read_records(entry)
        found[entry.name] = min(
            (state(entry, file, records) for file in entry.files if not file.is_optional), key=order.index
        )
    return found


def has_token(environment, home: Path) -> bool:
    """Whether Ray finds a token: RAY_AUTH_TOKEN, the file of RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token."""
    if environment.get("RAY_AUTH_TOKEN"):
        return True
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or home / ".ray" / "auth_token")
    return path.is_file() and bool(path.read_text().strip())


def taken_ports() -> dict[int, str]:
    """Ports that Ray would want on this machine and that something answers on."""
    taken = {}
    for port, what in RAY_PORTS.items():
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                taken[port] = what
    return taken


def not_connected(addresses: Mapping[str, tuple[str, int]]) -> tuple[str, ...]:
    """Names of the addresses that this machine cannot connect to."""
    with ThreadPoolExecutor(CONNECTS_AT_ONCE) as threads:
        are_open = list(threads.map(is_open, addresses.values()))
    return tuple(name for name, reached in zip(addresses, are_open, strict=True) if not reached)


def is_open(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, CONNECT_S).close()
    except OSError:
        return False
    return True
