"""How long `rlloop scale` takes on a run of stand-ins: until every actor of the new size has its model.

    python -m bench.scaling                     into bench/results.md, three minutes

A stand-in takes 1.0 s a ticket and loads nothing, so what is measured is the end of the segment, the start of the new
processes and the command itself; a real model's load comes on top.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.machine import describe
from bench.results import RESULTS, write_section
from bench.stream import REPOSITORY, Run

SIZES = (6, 2, 8, 2)
PLAN = ("sampler.num_actors=2", "scorer.num_actors=2", "stages.0.generations=40", "stages.0.tickets=40")


def scale(run_dir: Path, samplers: int) -> tuple[float, float]:
    """Seconds of the whole command, and those that it says from its request until all new actors work."""
    began = time.monotonic()
    command = [sys.executable, "-m", "rlloop.commands.main", "scale", str(run_dir), "--samplers", str(samplers)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=600)
    found = re.search(r"in effect after ([\d.]+) s", done.stdout)
    assert found, done.stdout
    return time.monotonic() - began, float(found[1])


def pause(run: Run, begin: float, end: float) -> float:
    """The longest time without a commit between two moments."""
    run.watch.read()
    times = sorted(when for when in run.watch.buffered.values() if begin - 5 <= when <= end + 5)
    return max((b - a for a, b in zip(times, times[1:], strict=False)), default=end - begin)


def measure(folder: Path) -> list[str]:
    """A line of the table a change."""
    lines, before = [], 2
    with Run(folder / "run", list(PLAN)) as run:
        run.wait_for(lambda watch: len(watch.buffered) >= 10, "ten tickets")
        for size in SIZES:
            begin = time.time()
            whole, effect = scale(folder / "run", size)
            run.measure(8.0)
            lines.append(f"| {before} to {size} | {effect:.1f} | {whole:.1f} | {pause(run, begin, time.time()):.1f} |")
            print(lines[-1], flush=True)
            before = size
        assert not run.watch.failed, "a ticket failed"
    return lines


def main(given: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(given)
    folder = Path(tempfile.mkdtemp(prefix="rlloop-scaling-"))
    lines = measure(folder)
    shutil.rmtree(folder)
    text = (
        f"`python -m bench.scaling`, {describe()}. In effect: every actor of the new size has its model. Pause: "
        "between two commits. A ticket "
        "takes 1.0 s; stand-ins load no model.\n\n"
        "| samplers | in effect after s | the command s | longest pause s |\n| --- | --- | --- | --- |\n"
    ) + "\n".join(lines)
    write_section("Pools that change their size", text, arguments.out)


if __name__ == "__main__":
    main(sys.argv[1:])
