"""Streaming a large corpus: memory against a small one, rows a second against a trainer's needs, and seeks.

    python -m bench.corpus                    500,000 rows of small clips, into bench/results.md
    python -m bench.corpus --rows 20000 --out FILE

Corpora are made in a temporary folder and removed. Each is streamed by a process of its own, so that its peak is its
own, and its files are dropped from the page cache before, so that they are read from the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from bench.machine import commit
from bench.results import RESULTS, write_section
from rlloop.data.corpus import CorpusRow, CorpusSpec, CorpusWriter, open_corpus
from rlloop.data.corpus_stream import CorpusStream

BATCH = 64
WINDOW = 2048  # the default of corpus_window
TRAINER_ROWS, TRAINER_STEP_S = 16, 0.3  # the mini stack on two cores
SMALL = CorpusSpec((64, 8), "bench", ("reward",), {"text": (16, 32), "text_c": (64,)})
PUBLISHED = CorpusSpec((430, 40), "bench", ("reward",), {"text": (77, 1024), "text_c": (512,)})


@dataclass(frozen=True)
class Work:
    """What a measuring process does; `paced` steps are taken at the trainer's pace."""

    steps: int
    seeks: int
    paced: int = 0


@dataclass(frozen=True)
class Measured:
    """growth: bytes of peak resident memory over that before the corpus was opened.   rates in rows a second, on
    the wall and of this process's CPU time, reader and caller together, in which others on the machine hardly show.
    seek_s: from making a stream to its first batch, at random positions.   paced_waited_s: of the paced steps, without
    the first.
    """

    rows: int
    growth: int
    open_s: float
    rows_per_s: float
    rows_per_cpu_s: float
    seek_s: list[float]
    paced_waited_s: float


def row_bytes(spec: CorpusSpec) -> int:
    """Bytes of a row's arrays on disk."""
    shapes = [spec.latent_shape, spec.latent_shape, *spec.feature_shapes.values()]
    return 2 * sum(int(np.prod(shape)) for shape in shapes)


def make_rows(spec: CorpusSpec, count: int) -> Iterator[CorpusRow]:
    """Clips whose arrays are pieces of one long draw: speed does not depend on the values."""
    shapes = {"mean": spec.latent_shape, "std": spec.latent_shape, **spec.feature_shapes}
    largest = max(int(np.prod(shape)) for shape in shapes.values())
    numbers = np.random.default_rng(0).standard_normal(largest + 4096, dtype=np.float32)
    for n in range(count):
        arrays = {name: numbers[n % 4096 :][: int(np.prod(shape))].reshape(shape) for name, shape in shapes.items()}
        mean, std = arrays.pop("mean"), arrays.pop("std")
        yield CorpusRow(f"clip {n}", f"a song of number {n}", mean, std, arrays, {"reward": n / count})


def make(folder: Path, spec: CorpusSpec, count: int) -> Path:
    """Writes a corpus, with a bar of progress."""
    with CorpusWriter(folder, spec) as writer:
        for row in track(make_rows(spec, count), f"{count:,} rows of {row_bytes(spec):,} bytes", total=count):
            writer.add(row)
    return folder


def drop_from_cache(folder: Path) -> None:
    """Asks the kernel to forget the files' pages; they are synced already."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


# ---- in a process of its own


def resident(key: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def measure(folder: Path, work: Work) -> Measured:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = resident("VmRSS"), time.perf_counter()
    corpus = open_corpus(folder)
    open_s = time.perf_counter() - began

    with CorpusStream(corpus, seed=0, stage=0, window=WINDOW) as stream:
        began, cpu_began = time.perf_counter(), time.process_time()
        for step in range(work.steps):
            stream.rows(range(step * BATCH, (step + 1) * BATCH))
        rows_per_s = work.steps * BATCH / (time.perf_counter() - began)
        rows_per_cpu_s = work.steps * BATCH / (time.process_time() - cpu_began)

    drop_from_cache(folder)
    rng, seek_s = np.random.default_rng(0), []
    for _ in range(work.seeks):
        position = int(rng.integers(100 * len(corpus)))
        began = time.perf_counter()
        with CorpusStream(corpus, seed=0, stage=0, window=WINDOW) as stream:
            stream.rows(range(position, position + BATCH))
            seek_s.append(time.perf_counter() - began)

    paced_waited_s = 0.0
    if work.paced:
        with CorpusStream(corpus, seed=0, stage=1, window=WINDOW) as stream:
            stream.rows(range(TRAINER_ROWS))
            first_s = stream.waited_s
            for step in range(1, work.paced):
                time.sleep(TRAINER_STEP_S)
                stream.rows(range(step * TRAINER_ROWS, (step + 1) * TRAINER_ROWS))
            paced_waited_s = stream.waited_s - first_s
    growth = resident("VmHWM") - before
    return Measured(len(corpus), growth, open_s, rows_per_s, rows_per_cpu_s, seek_s, paced_waited_s)


def measure_apart(folder: Path, work: Work) -> Measured:
    """`measure` in a process of its own."""
    drop_from_cache(folder)
    command = [sys.executable, "-m", "bench.corpus", "--measure", str(folder), "--work", json.dumps(asdict(work))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


# ---- the report


def table_row(name: str, spec: CorpusSpec, found: Measured) -> str:
    size = found.rows * row_bytes(spec) / 1e9
    seeks = f"{np.median(found.seek_s):.2f} (longest {max(found.seek_s):.2f})"
    speed = f"{found.rows_per_s:,.0f} ({found.rows_per_s * row_bytes(spec) / 1e6:,.0f} MB/s)"
    return (
        f"| {name} | {found.rows:,} | {row_bytes(spec) / 1e3:.1f} kB | {size:.2f} GB | {found.open_s:.2f} "
        f"| {found.growth / 1e6:,.0f} MB | {speed} | {found.rows_per_cpu_s:,.0f} | {seeks} |"
    )


def report(arguments: argparse.Namespace) -> str:
    """Makes and streams the three corpora, one after the other."""
    work, need = Work(arguments.steps, arguments.seeks), TRAINER_ROWS / TRAINER_STEP_S
    with tempfile.TemporaryDirectory(prefix="bench-corpus-") as name:
        small = measure_apart(make(Path(name) / "small", SMALL, arguments.rows // 100), work)
        paced = Work(arguments.steps, arguments.seeks, arguments.paced)
        large = measure_apart(make(Path(name) / "large", SMALL, arguments.rows), paced)
    with tempfile.TemporaryDirectory(prefix="bench-corpus-") as name:
        published_work = Work(max(1, arguments.published // BATCH), arguments.seeks)
        published = measure_apart(make(Path(name), PUBLISHED, arguments.published), published_work)
    bound = (2 * WINDOW + 4 * 64) * row_bytes(PUBLISHED) / 1e9
    command = f"python -m bench.corpus {arguments.given}".strip()
    machine = f"{cpu()}, {os.cpu_count()} cores, shared (load {os.getloadavg()[2]:.0f}), commit {commit()}"
    return (
        f"`{command}`, {time.strftime('%Y-%m-%d')}, {machine}. Batches of {BATCH}, window {WINDOW}, "
        f"{arguments.steps:,} steps (published sizes: {published_work.steps}) one after the other, {arguments.seeks} "
        "seeks to random positions (a new stream to its first batch), files dropped from the page cache before.\n\n"
        "| corpus | rows | a row | on disk | open s | peak memory above start | rows/s | rows/CPU s | seek s |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        + "\n".join(
            [
                table_row("small", SMALL, small),
                table_row("large", SMALL, large),
                table_row("published sizes", PUBLISHED, published),
            ]
        )
        + f"\n\nThe large corpus has {large.rows / small.rows:.0f} times the rows of the small one and takes "
        f"**{large.growth / small.growth:.2f}** times its memory. At the published sizes two windows and four row "
        f"groups, the stated bound of what is held, are {bound:.2f} GB; the corpus has {published.rows / WINDOW:.2f} "
        "windows there, to spare the disk.\n\n"
        f"A trainer of the mini stack takes {TRAINER_ROWS} rows every {TRAINER_STEP_S} s, {need:.0f} a second: the "
        f"reader of the large corpus gives **{large.rows_per_s / need:.0f}** times that, at the published sizes "
        f"{published.rows_per_s / need:.1f} times. At that pace, {arguments.paced - 1} steps after the first waited "
        f"{large.paced_waited_s * 1e3:.1f} ms for it altogether."
    )


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main(given: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000, help="of the large corpus; the small one has a hundredth")
    parser.add_argument("--published", type=int, default=4608, help="rows of the published sizes")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeks", type=int, default=20)
    parser.add_argument("--paced", type=int, default=160, help="steps at a trainer's pace")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    arguments.given = " ".join(given)
    if arguments.measure:
        print(json.dumps(asdict(measure(arguments.measure, Work(**json.loads(arguments.work))))))
        return
    text = report(arguments)
    write_section("Streaming a corpus", text, arguments.out)
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
