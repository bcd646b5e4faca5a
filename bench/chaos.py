"""Kills processes of the loop at random moments, again and again, and checks that nothing but time is lost.

    make chaos ARGS="--kills 200 --seed 0"        # an hour on two cores; the same command goes on where it stopped
    make chaos ARGS="--kills 40 trainer.num_workers=2 trainer.num_cpus=0.25"

Runs of the real command with stand-in models (bench/chaos.yaml), several kills each, by turns with a Ray of their own
and on a cluster of three nodes of which any but the driver's may be lost. A killed driver's command is repeated; for
all else the run has to help itself. After each recovery the journal is replayed: no ticket in two selections, none
lost, versions monotonic, staleness within its bound. At the end every point of the curves is there once, and a
synchronous run has the weights, selections and losses of one that nobody disturbed, bit by bit. One line a kill and one
a run go to bench/chaos.jsonl, a table of them into bench/results.md. A run with a violation keeps its folder.

Kills count for the code they were made on: after a change of actors/, rlloop/ or this bench it begins anew, and the
table says of earlier ones only how many they were.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.chaos_checks import Results
from bench.chaos_cluster import Machines
from bench.chaos_killer import Orders
from bench.chaos_report import (
    Line,
    append_lines,
    code_state,
    find_reference,
    of_code,
    read_lines,
    reference_line,
    report,
    run_lines,
)
from bench.chaos_roles import WEIGHTS
from bench.chaos_run import PRESET, ChaosRun, Outcome
from bench.results import RESULTS, write_section
from rlloop.config import load

log = logging.getLogger(__name__)
SECTION = "Killed processes"
SHARE_ON_CLUSTER = 2  # every second run
MOST_KILLS_OF_A_RUN = 12
LOGS_ONLY = {"ignore": shutil.ignore_patterns("sockets", "runtime_resources"), "ignore_dangling_symlinks": True}


@dataclass(frozen=True)
class Settings:
    kills: int
    runs: int | None
    seed: int
    folder: Path
    lines: Path
    out: Path
    overrides: Sequence[str]
    code: str = field(default_factory=code_state)

    @property
    def name(self) -> str:
        """What sets these settings apart from the preset's."""
        return " ".join(self.overrides)

    @property
    def is_synchronous(self) -> bool:
        return load(PRESET, list(self.overrides)).loop.max_staleness == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Goes on until there are `--kills` kills; 1 if any violation was found."""
    settings = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("SIGTERM received"))  # its cluster is taken down then, too
    with ray_folder() as folder:
        reference = undisturbed(settings)
        for _ in range(settings.runs) if settings.runs is not None else itertools.count():
            lines = read_lines(settings.lines)
            if left(settings, lines) <= 0:
                break
            outcome = one_run(settings, lines, reference)
            write_section(
                SECTION, report(read_lines(settings.lines), time.strftime("%Y-%m-%d"), settings.code), settings.out
            )
            if outcome.violations:
                shutil.copytree(folder, settings.folder / f"ray-{time.strftime('%H%M%S')}", **LOGS_ONLY)
    lines = of_code(read_lines(settings.lines), settings.code)
    violations = [what for line in lines for what in line.get("violations", ())]
    kills = sum(line["kind"] == "kill" for line in lines)
    print(f"{kills} kills of code {settings.code}, {len(violations)} violations; {settings.out}")
    return int(bool(violations))


@contextlib.contextmanager
def ray_folder() -> Iterator[str]:
    """Where Ray keeps sessions and logs meanwhile: so its cluster is nobody else's `auto`."""
    with tempfile.TemporaryDirectory(prefix="chaos", ignore_cleanup_errors=True) as folder:
        os.environ["RAY_TMPDIR"] = folder
        yield folder


def parse(arguments: Sequence[str] | None) -> Settings:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kills", type=int, default=200, help="of this code, seed and overrides; those of earlier calls counted"
    )
    parser.add_argument("--runs", type=int, help="at most so many of this call; default: until the kills are there")
    parser.add_argument("--seed", type=int, default=0, help="decides roles and moments")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/chaos"), help="of the runs, removed when all was well"
    )
    parser.add_argument("--lines", type=Path, default=here / "chaos.jsonl", help="the file of results")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "overrides",
        nargs="*",
        help="of bench/chaos.yaml; with loop.max_staleness above 0 nothing is compared bit by bit",
    )
    found = parser.parse_args(arguments)
    return Settings(**{**vars(found), "folder": found.folder.resolve()})


def left(settings: Settings, lines: Sequence[Line]) -> int:
    """Kills that are still to be made: those of other code do not count."""
    mine = (settings.seed, settings.name)
    kills = [line for line in of_code(lines, settings.code) if line["kind"] == "kill"]
    return settings.kills - sum((line["seed"], line["settings"]) == mine for line in kills)


def undisturbed(settings: Settings) -> Results | None:
    """What the undisturbed run of these settings comes to; it is made where the file has none of this code.

    Raises:
        SystemExit: something is wrong with it already.
    """
    if not settings.is_synchronous:
        return None
    found = find_reference(of_code(read_lines(settings.lines), settings.code), settings.name)
    if found is not None:
        return found
    log.info("the undisturbed run")
    run_dir = fresh(settings.folder / "reference")
    outcome = ChaosRun(run_dir, Orders(settings.seed, 0, 0, {}, {}), settings.overrides).play(None)
    if outcome.violations or outcome.results is None:
        raise SystemExit(f"the undisturbed run is not well, nothing can be compared with it: {outcome.violations}")
    append_lines(settings.lines, [reference_line(outcome, settings.name, settings.code)])
    return outcome.results


def one_run(settings: Settings, lines: Sequence[Line], reference: Results | None) -> Outcome:
    """The next run: as many kills as fall into it, of the roles that lack kills most."""
    runs, kills = ([line for line in lines if line["kind"] == kind] for kind in ("run", "kill"))
    number = len(runs)
    on_cluster = number % SHARE_ON_CLUSTER == 1
    weights = {role: weight for role, weight in WEIGHTS.items() if on_cluster or role != "node"}
    counts = Counter(line["role"] for line in of_code(kills, settings.code))
    most = min(left(settings, lines), MOST_KILLS_OF_A_RUN)
    orders = Orders(settings.seed, len(kills), most, weights, counts)
    topology = "three nodes" if on_cluster else "one node"
    log.info("run %d (%s), %d kills so far", number, topology, len(kills))
    run_dir = fresh(settings.folder / f"run{number:03d}")
    machines = Machines() if on_cluster else None
    try:
        outcome = ChaosRun(run_dir, orders, settings.overrides, machines).play(reference)
    finally:
        if machines:
            machines.close()
    found = run_lines(
        outcome, run=number, seed=settings.seed, topology=topology, settings=settings.name, code=settings.code
    )
    append_lines(settings.lines, found)
    log.info(
        "run %d: %d kills, %d violations, %.0f s", number, len(outcome.kills), len(outcome.violations), outcome.seconds
    )
    if not outcome.violations:
        fresh(run_dir)
    return outcome


def fresh(run_dir: Path) -> Path:
    """The path of a run folder that is not there, with nothing of an earlier one beside it."""
    shutil.rmtree(run_dir, ignore_errors=True)
    for path in run_dir.parent.glob(f"{run_dir.name}.*"):
        path.unlink()
    return run_dir


if __name__ == "__main__":
    raise SystemExit(main())
