"""Loop throughput with stand-ins of stated latency, against the ideal of that latency: 1, 8 and 64 samplers.

    python -m bench.throughput                            120 s of steady state each, into bench/results.md
    python -m bench.throughput --samplers 8 --seconds 30 --out FILE
    python -m bench.throughput --samplers 64 --latency 8  as many actors, at tickets that two cores can carry
    python -m bench.throughput --samplers 8 --latency 0.1 --per-slot 1 8     how many tickets a second a machine carries
    python -m bench.throughput --samplers 64 --cohort 16 64   what cohorts of few tickets a sampler cost: small slots

A sampler takes 1.0 s a ticket, a scorer 0.25 s, and there are a quarter as many scorers; everything else is the real
loop: gate, journal, files, selection, training, publishing. The ideal is one ticket a sampler and second. Steady state
begins when every sampler has begun a ticket and a version is published.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.machine import describe
from bench.results import RESULTS, write_section
from bench.stream import Run

SAMPLER_S = 1.0
SETTLE_S = 5.0
COHORT_S = 64.0  # of work that a cohort gives each sampler; slots grow with it, up to loop.tickets_per_slot


@dataclass(frozen=True)
class Steady:
    """What one run did in its steady state."""

    samplers: int
    per_slot: int
    cohort: int  # tickets a sampler
    seconds: float
    tickets: int
    slots: int  # that these tickets came in
    versions: int
    failed: int
    to_first_ticket_s: float
    to_steady_s: float
    sampler_nap_s: float
    cpu_s: Mapping[str, float]  # by process, within `seconds`

    @property
    def share(self) -> float:
        """Of the ideal: tickets a sampler and second, times its latency."""
        return self.tickets * self.sampler_nap_s / (self.seconds * self.samplers)


def tickets_per_slot(samplers: int) -> int:
    """What docs/configuration.md advises."""
    return 8 if samplers > 32 else 1


def overrides(samplers: int, nap_s: float, seconds: float, per_slot: int, cohort_each: int) -> list[str]:
    """A plan and a segment that outlast the measurement, which begins after the first cohort."""
    cohort = cohort_each * samplers
    tickets = int(samplers * (seconds + 120) / nap_s) + cohort
    return [
        f"sampler.num_actors={samplers}",
        f"scorer.num_actors={max(1, samplers // 4)}",
        f"loop.segment_slots={tickets}",
        f"loop.tickets_per_slot={per_slot}",
        f"stages.0.tickets={cohort}",
        f"stages.0.generations={tickets // cohort + 2}",
        f"generator.options.delay_s={nap_s}",
    ]


def measure(samplers: int, nap_s: float, seconds: float, per_slot: int, cohort: int, folder: Path) -> Steady:
    settings = overrides(samplers, nap_s, seconds, per_slot, cohort)
    with Run(folder / f"samplers{samplers}-{per_slot}-{cohort}", settings) as run:
        run.wait_for(
            lambda w: len(w.workers("sampler")) >= samplers and w.published, f"{samplers} samplers at work, a version"
        )
        steady_since = time.time()
        time.sleep(SETTLE_S)
        before = run.cpu_seconds()
        begin, end = run.measure(seconds)
        watch, spent = run.watch, run.cpu_seconds() - before
        return Steady(
            samplers=samplers,
            per_slot=per_slot,
            cohort=cohort,
            seconds=seconds,
            tickets=watch.tickets_between(begin, end),
            slots=watch.slots_between(begin, end),
            versions=sum(begin <= when < end for when in watch.published.values()),
            failed=watch.failed,
            to_first_ticket_s=min(watch.buffered.values()) - run.began,
            to_steady_s=steady_since - run.began,
            sampler_nap_s=nap_s,
            cpu_s=dict(spent),
        )


def report(found: list[Steady], command: str) -> str:
    rows = [
        f"| {s.samplers} | {s.tickets / max(1, s.slots):.1f} ({s.per_slot}) | {s.cohort} | {s.tickets / s.seconds:.2f} "
        f"| **{s.share:.1%}** | {s.versions} | {s.failed} | {cpu_ms(s)} | {s.to_first_ticket_s:.0f} "
        f"| {s.to_steady_s:.0f} |"
        for s in found
    ]
    nap_s, seconds = found[0].sampler_nap_s, found[0].seconds
    return (
        f"`{command}`, {describe()}. Samplers that sleep {nap_s:g} s a ticket, a quarter as many scorers that sleep "
        f"{nap_s / 4:g} s; steady state of {seconds:g} s each. The ideal is one ticket a sampler and {nap_s:g} s.\n\n"
        "CPU is that of all processes, those that wait included; the load is the bench's own. Slots carry fewer "
        "tickets towards the end of what may start, so their mean grows with the tickets that a sampler has in a "
        "cohort, which is a generation.\n\n"
        "| samplers | tickets a slot, mean (at most) | tickets a sampler in a cohort | tickets/s | of the ideal "
        "| versions "
        "published | failed rows | CPU ms a ticket: all (sampler, scorer, pump, buffer, gate) | first ticket s "
        "| steady s |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n" + "\n".join(rows)
    )


def cpu_ms(s: Steady) -> str:
    """CPU milliseconds a ticket, of all processes and of the five that each ticket passes."""
    roles = ("SamplerStage", "ScorerStage", "Pump", "Buffer", "Gate")
    each = [f"{1000 * s.cpu_s.get(role, 0.0) / max(1, s.tickets):.0f}" for role in roles]
    return f"{1000 * sum(s.cpu_s.values()) / max(1, s.tickets):.0f} ({', '.join(each)})"


def main(given: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--per-slot", type=int, nargs="+", help="loop.tickets_per_slot; default: as advised")
    parser.add_argument("--cohort", type=int, nargs="+", help="tickets a sampler in a cohort; default: 64 s of work")
    parser.add_argument("--latency", type=float, default=SAMPLER_S, help="seconds of a ticket in a sampler")
    parser.add_argument("--seconds", type=float, default=120.0, help="of steady state")
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(given)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="rlloop-throughput-"))
    found, cohorts = [], arguments.cohort or [max(1, int(COHORT_S / arguments.latency))]
    for samplers, cohort in itertools.product(arguments.samplers, cohorts):
        for per_slot in arguments.per_slot or [tickets_per_slot(samplers)]:
            found.append(measure(samplers, arguments.latency, arguments.seconds, per_slot, cohort, folder))
            print(found[-1], f"{found[-1].share:.1%}", flush=True)
    if not arguments.folder:
        shutil.rmtree(folder)
    title = "Loop throughput"
    if arguments.cohort:
        title += ", cohorts of other sizes"
    if arguments.latency != SAMPLER_S:
        title += f", tickets of {arguments.latency:g} s"
    write_section(title, report(found, f"python -m bench.throughput {' '.join(given)}".strip()), arguments.out)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
