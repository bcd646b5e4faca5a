"""From a marked checkpoint to the last of four idle samplers that computes with it, against a bare put and four gets.

    python -m bench.publish                     0.24 and 0.48 GB, 200 times each, into bench/results.md
    python -m bench.publish --gigabytes 0.24 --repeats 5 --out FILE

The store, its checksums and what a sampler does with a version are the run's own; the network is as many float32
parameters in the shapes of a transformer. The bare put and gets move the same bytes and do nothing else.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from actors import startup
from actors.session import Session
from actors.store import PolicyStore, fetch_arrays
from bench.machine import describe
from bench.results import RESULTS, write_section
from rlloop.config import load
from rlloop.loop import checkpoints

SAMPLERS = 4
WIDTH = 448  # FluxAudio-S
LIMITS = {0.24: 1.5}  # seconds


def make_arrays(gigabytes: float, seed: int) -> dict[str, np.ndarray]:
    """Weights of so many bytes in matrices [4 * 448, 448]."""
    rng, count = np.random.default_rng(seed), round(gigabytes * 1e9 / (4 * 4 * WIDTH * WIDTH))
    return {f"blocks.{n}.weight": rng.random((4 * WIDTH, WIDTH), dtype=np.float32) for n in range(count)}


def write_version(session: Session, version: int, arrays: dict[str, np.ndarray]) -> None:
    path = checkpoints.folder(session.path, version)
    checkpoints.write_arrays(path / checkpoints.WEIGHTS, arrays)
    checkpoints.write_marker(
        path, version=version, step=0, stage=0, digest=session.config.digest(), world_size=1,
        weights_checksum=checkpoints.arrays_checksum(arrays),
    )  # fmt: skip


class Updated:
    """An idle sampler on the CPU: fetches and verifies a version and takes it over into its network."""

    def __init__(self, session: Session, shapes: dict[str, tuple[int, ...]]) -> None:
        import torch

        torch.set_num_threads(1)
        self.session = session
        self.network = torch.nn.Module()
        for name, shape in shapes.items():
            self.network.register_parameter(name.replace(".", "_"), torch.nn.Parameter(torch.zeros(shape)))

    def update(self, version: int) -> int:
        from rlloop.recipes.sampler import take_arrays

        found, arrays = fetch_arrays(self.session, "sampler", version)
        take_arrays(self.network, {name.replace(".", "_"): array for name, array in arrays.items()})
        return found

    def get(self, refs: list) -> int:
        """The bare get."""
        import ray

        return sum(array.nbytes for array in ray.get(refs[0]).values())


class Putter:
    """The bare put."""

    def put(self, gigabytes: float) -> list:
        import ray

        self.arrays = getattr(self, "arrays", None) or make_arrays(gigabytes, 0)
        began = time.perf_counter()
        ref = ray.put(self.arrays)
        self.seconds = time.perf_counter() - began
        return [ref]


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(gigabytes: float, repeats: int, folder: Path) -> tuple[list[float], list[float]]:
    """Seconds of each publish, and of each bare put and gets; the two take turns. The first of each is a warm-up."""
    import ray

    startup.store_config(folder, load("bench/standins.yaml"))
    session = Session(str(folder), startup.take_epoch(folder))
    arrays = make_arrays(gigabytes, 0)
    write_version(session, 0, arrays)
    store = ray.remote(PolicyStore).options(name="store", namespace=session.namespace, num_cpus=0).remote(session)
    shapes = {name: array.shape for name, array in arrays.items()}
    samplers = [ray.remote(Updated).options(num_cpus=0).remote(session, shapes) for _ in range(SAMPLERS)]
    putter = ray.remote(Putter).options(num_cpus=0).remote()
    ray.get([sampler.update.remote(0) for sampler in samplers])
    ray.get(putter.put.remote(gigabytes))

    def publish(version: int) -> None:
        ray.get(store.publish.remote(version))
        ray.get([sampler.update.remote(version) for sampler in samplers])

    def bare() -> None:
        refs = ray.get(putter.put.remote(gigabytes))
        ray.get([sampler.get.remote(refs) for sampler in samplers])

    published, bares = [], []
    for version in range(1, repeats + 2):
        arrays["blocks.0.weight"] = arrays["blocks.0.weight"] + 1
        write_version(session, version, arrays)
        published.append(timed(lambda version=version: publish(version)))
        bares.append(timed(bare))
        shutil.rmtree(checkpoints.folder(session.path, version - 1))
    for actor in (store, putter, *samplers):
        ray.kill(actor)
    return published[1:], bares[1:]


def row(gigabytes: float, published: Sequence[float], bares: Sequence[float]) -> str:
    p50, p99 = np.percentile(published, [50, 99])
    bare = float(np.median(bares))
    limit = f"{LIMITS[gigabytes]:g}" if gigabytes in LIMITS else ""
    return f"| {gigabytes:g} | {p50:.2f} | {p99:.2f} | {bare:.2f} | **{p50 / bare:.2f}** | {limit} |"


def main(given: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.24, 0.48])
    parser.add_argument("--repeats", type=int, default=200, help="a p99 of fewer is their largest")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(given)
    import ray

    startup.start_ray()
    rows = []
    for gigabytes in arguments.gigabytes:
        folder = Path(tempfile.mkdtemp(prefix="rlloop-publish-"))
        rows.append(row(gigabytes, *measure(gigabytes, arguments.repeats, folder)))
        print(rows[-1], flush=True)
        shutil.rmtree(folder)
    ray.shutdown()
    command = f"python -m bench.publish {' '.join(given)}".strip()
    text = (
        f"`{command}`, {describe()}. From a marked checkpoint to the last of {SAMPLERS} idle samplers that has taken "
        f"the verified weights over into its network, {arguments.repeats} times; in between, a bare put and "
        f"{SAMPLERS} gets of the same bytes. At most three times that is wanted.\n\n"
        "| GB | p50 s | p99 s | bare p50 s | ratio | wanted s |\n| --- | --- | --- | --- | --- | --- |\n"
        + "\n".join(rows)
    )
    write_section("Publishing weights", text, arguments.out)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
