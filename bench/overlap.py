"""Asynchronous against synchronous at equal resources: what of the possible overlap the loop reaches.

    python -m bench.overlap                     generate:train 1:1, 2:1, 1:2 at staleness 0, 1, 2, 4: twenty minutes
    python -m bench.overlap --ratios 1:1 --staleness 0 1 --versions 4 --out FILE

Generating a cohort takes g seconds (16 tickets of 1 s by two stand-in samplers), training on it t seconds (steps that
sleep). One after the other they take g + t a version, at best overlapped max(g, t): the possible gain is
(g + t) / max(g, t). Measured is the time between the versions published after the first two.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.machine import describe
from bench.results import RESULTS, write_section
from bench.stream import Run

SAMPLERS, SCORERS, TICKETS, NAP_S, UPDATES, SKIPPED, WANTED = 2, 1, 16, 1.0, 8, 2, 0.85
GENERATE_S = TICKETS * NAP_S / SAMPLERS


@dataclass(frozen=True)
class Measured:
    """One run. Seconds a version, and the share of the time in which each role had nothing to do."""

    train_s: float
    staleness: int
    seconds: float
    idle: dict[str, float]

    @property
    def possible(self) -> float:
        return (GENERATE_S + self.train_s) / max(GENERATE_S, self.train_s)


def train_seconds(ratio: str) -> float:
    """t for a ratio generate:train such as 2:1."""
    generate, train = (float(part) for part in ratio.split(":"))
    return GENERATE_S * train / generate


def measure(train_s: float, staleness: int, versions: int, folder: Path) -> Measured:
    overrides = [
        f"sampler.num_actors={SAMPLERS}", f"scorer.num_actors={SCORERS}", f"loop.max_staleness={staleness}",
        f"stages.0.tickets={TICKETS}", f"stages.0.generations={versions + SKIPPED + staleness + 2}",
        f"stages.0.phases.0.updates={UPDATES}", "stages.0.phases.0.batch_size=4",
        "stages.0.selection.top_fraction=0.2", f"generator.options.delay_s={NAP_S}",
        f"generator.options.step_delay_s={train_s / UPDATES}",
    ]  # fmt: skip
    with Run(folder / f"train{train_s:g}-staleness{staleness}", overrides) as run:
        last = SKIPPED + versions
        run.wait_for(lambda watch: last in watch.published, f"version {last}", 300 + 5 * last * (GENERATE_S + train_s))
        watch = run.watch
        begin, end = watch.published[SKIPPED], watch.published[last]
        busy = [watch.busy[ticket] for ticket, when in watch.buffered.items() if begin <= when < end]
        seconds = end - begin
        idle = {
            "sampler": 1 - sum(row["sampler"] for row in busy) / (SAMPLERS * seconds),
            "scorer": 1 - sum(row["scorer"] for row in busy) / (SCORERS * seconds),
            "trainer": 1 - versions * train_s / seconds,
        }
        return Measured(train_s, staleness, seconds / versions, idle)


def rows(ratio: str, found: list[Measured]) -> list[str]:
    """Lines of the table for one ratio; the gain is against the synchronous run, which comes first."""
    base, lines = found[0], []
    for one in found:
        gain = base.seconds / one.seconds
        share = f"**{gain / one.possible:.0%}**" if one.staleness else ""
        idle = " | ".join(f"{one.idle[role]:.0%}" for role in ("sampler", "scorer", "trainer"))
        possible = f"{one.possible:.2f}" if one.staleness else ""
        ideal = (GENERATE_S + one.train_s) / one.seconds
        cells = f"{one.seconds:.1f} | {gain:.2f} | {possible} | {share} | {ideal:.2f}"
        lines.append(f"| {ratio} | {one.staleness} | {cells} | {idle} |")
    return lines


def main(given: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratios", nargs="+", default=["1:1", "2:1", "1:2"], help="generate:train")
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 2, 4], help="the first is what gains are of")
    parser.add_argument("--versions", type=int, default=6)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(given)
    folder, lines = Path(tempfile.mkdtemp(prefix="rlloop-overlap-")), []
    for ratio in arguments.ratios:
        found = [measure(train_seconds(ratio), n, arguments.versions, folder) for n in arguments.staleness]
        lines += rows(ratio, found)
        print("\n".join(lines[-len(found) :]), flush=True)
    shutil.rmtree(folder)
    command = f"python -m bench.overlap {' '.join(given)}".strip()
    text = (
        f"`{command}`, {describe()}. A cohort of {TICKETS} tickets by {SAMPLERS} stand-in samplers of {NAP_S:g} s, so "
        f"g = {GENERATE_S:g} s; {UPDATES} updates that sleep. The gain is in seconds a version, against this "
        f"table's synchronous run; possible is (g + t) / max(g, t), {WANTED:.0%} of it is wanted at staleness 1. "
        "Against g + t the gain is that over a synchronous loop that costs nothing of its own. Idle is the share "
        "without work.\n\n| generate:train | staleness | s a version | gain | possible | reached | against g + t "
        "| idle: sampler | scorer | trainer |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        + "\n".join(lines)
    )
    write_section("Asynchronous against synchronous", text, arguments.out)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
