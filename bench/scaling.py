"""How long `rlloop scale` takes on a run of stand-ins: until every actor of the new size has its model.

    python -m bench.scaling                     into bench/results.md, three minutes

A stand-in takes 1.0 s a ticket and loads nothing, so what is measured is the end of the segment, the start of the new
processes and the command itself, and which of them takes how long; a real model's load comes on top.
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
from bench.stream import REPOSITORY, Run, Watch

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


def parts(watch: Watch, size: int) -> tuple[float, float, float, float]:
    """Where the time of the last change went: its four parts, in seconds, from the journal.

    Returns:
        From the new size's record to the last ticket of the old segment; to the next segment's record; to the first
        ticket that a sampler of that begins; to the first one of the last of `size` samplers.
    """
    told = watch.scaled[-1]
    begun = min(when for when in watch.segments.values() if when > told)
    back = max([told, *(when for when in watch.buffered.values() if told < when < begun)])
    starts = sorted(watch.started[name] for name in watch.workers("sampler") if watch.started[name] > begun)
    marks = (told, back, begun, starts[0], starts[size - 1])
    return tuple(b - a for a, b in zip(marks, marks[1:], strict=False))


def measure(folder: Path) -> list[str]:
    """A line of the table a change."""
    lines, before = [], 2
    with Run(folder / "run", list(PLAN)) as run:
        run.wait_for(lambda watch: len(watch.buffered) >= 10, "ten tickets")
        for size in SIZES:
            begin = time.time()
            whole, effect = scale(folder / "run", size)
            run.measure(8.0)
            cells = " | ".join(f"{seconds:.1f}" for seconds in (effect, *parts(run.watch, size), whole))
            lines.append(f"| {before} to {size} | {cells} | {pause(run, begin, time.time()):.1f} |")
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
        "between two commits. A ticket takes 1.0 s; stand-ins load no model. The parts are read from the journal: the "
        "tickets that were begun come back; Ray Data ends the old segment and the pump begins the next; the first new "
        "sampler begins a ticket, so that all three stages have processes; the last one does.\n\n"
        "| samplers | in effect after s | tickets come back | next segment | first sampler at work | last sampler at "
        "work | the command s | longest pause s |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n"
    ) + "\n".join(lines)
    write_section("Pools that change their size", text, arguments.out)


if __name__ == "__main__":
    main(sys.argv[1:])
