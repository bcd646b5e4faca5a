"""The default run: how long to its first clip and its first training step, and what metrics and ledger cost.

    python -m bench.startup                     into bench/results.md, three minutes

Caches are warm when the default command has run once on this machine. The first clip is the first that is sampled,
scored and in the buffer; the first step is the end of the trainer's first update. The share of the driver (views,
TensorBoard, summary) and of the buffer (ledger, journal, files) is that of their processes in all CPU time of the run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from bench.machine import describe
from bench.results import RESULTS, write_section
from bench.stream import REPOSITORY, Run

WANTED_S = 45.0
FIRST_STEP = Path("checkpoints") / "v000000-s000001"


def measure(folder: Path, seconds: float) -> tuple[float, float, dict[str, float]]:
    """Seconds to the first clip and to the first step, and CPU seconds by process in between and after."""
    overrides = ["trainer.checkpoint_every=1", "limits.journal_tail=1TB"]
    with Run(folder / "run", overrides, REPOSITORY / "configs" / "mini.yaml") as run:
        run.wait_for(lambda watch: watch.buffered, "the first clip")
        first_clip = min(run.watch.buffered.values()) - run.began
        before = run.cpu_seconds()
        run.measure(seconds)
        spent = run.cpu_seconds() - before
        marker = folder / "run" / FIRST_STEP / "marker.json"
        run.wait_for(lambda _: marker.exists(), "the first step", 1200)
        point = json.loads((marker.parent / "points.json").read_text())[0]
        return first_clip, point["time"] - run.began, dict(spent)


def main(given: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="over which CPU time is counted")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(given)
    folder = Path(tempfile.mkdtemp(prefix="rlloop-startup-"))
    first_clip, first_step, spent = measure(folder, arguments.seconds)
    shutil.rmtree(folder)
    total = sum(spent.values())
    shares = " | ".join(f"{spent.get(name, 0.0) / total:.1%}" for name in ("driver", "Buffer", "Pump", "SamplerStage"))
    command = f"python -m bench.startup {' '.join(given)}".strip()
    text = (
        f"`{command}`, {describe()}. configs/mini.yaml; to the first clip at most {WANTED_S:g} s are wanted with warm "
        f"caches. Shares are of all CPU time of the run in the {arguments.seconds:g} s from the first clip on.\n\n"
        "| first clip s | first step s | driver with metrics | buffer with ledger | pump | samplers |\n"
        f"| --- | --- | --- | --- | --- | --- |\n| **{first_clip:.1f}** | {first_step:.1f} | {shares} |"
    )
    print(text)
    write_section("Start of the default run", text, arguments.out)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
