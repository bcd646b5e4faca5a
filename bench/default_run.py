"""Runs the default command over several seeds, one after another, and writes what it reached and took.

    python bench/default_run.py --seeds 0 1 2 3 4 --out bench/default_run.md -- [overrides]

Peak memory is the summed PSS of all processes of the run plus the machine's shared memory in use since its start (the
object store), sampled each second or as told; mapped pages of the store count twice, so it is an upper bound.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import psutil


def pss_bytes(root: psutil.Process) -> int:
    """Summed proportional set size of a process and all its descendants."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except (OSError, psutil.NoSuchProcess):
            continue
    return total


def shared_bytes() -> int:
    """Shared memory in use on the machine."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Shmem:"))


def run(seed: int, folder: Path, overrides: list[str], memory_every_s: float) -> dict:
    """One run in its own process; returns its summary with seconds and peak memory."""
    run_dir = folder / f"seed{seed}"
    assert not run_dir.exists(), f"{run_dir} exists: a resumed run would be measured; remove it or choose --folder"
    began, peak, shared = time.monotonic(), 0, shared_bytes()
    command = [sys.executable, "-m", "rlloop.main", f"seed={seed}", f"run_dir={run_dir}", *overrides]
    with (folder / f"seed{seed}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        root = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak = max(peak, pss_bytes(root) + max(0, shared_bytes() - shared))
            except psutil.NoSuchProcess:
                break
            time.sleep(memory_every_s)
    assert process.returncode == 0, f"seed {seed}: exit status {process.returncode}, see {folder}/seed{seed}.log"
    summary = json.loads((run_dir / "summary.json").read_text())
    return {**summary, "seed": seed, "seconds": time.monotonic() - began, "peak_bytes": peak}


def row(result: dict) -> str:
    guards = "; ".join(f"{n} {g['gain']:+.3f} (p {g['p']:.2g})" for n, g in result["guards"].items())
    return (
        f"| {result['seed']} | {result['reward_before']:.3f} | {result['reward_after']:.3f} "
        f"| {result['reward_gain']:+.3f} | [{result['ci_low']:+.3f}, {result['ci_high']:+.3f}] "
        f"| {result['paired_p_value']:.1e} | {guards} "
        f"| {result['policy_versions']} | {result['clips_generated']} | {result['seconds']:.0f} "
        f"| {result['peak_bytes'] / 2**30:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    parser.add_argument("--out", type=Path, default=Path("bench/default_run.md"))
    parser.add_argument(
        "--memory-every", type=float, default=1.0, help="seconds; a sample takes 0.3 to 0.5 s of a core"
    )
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    header = (
        "| seed | before | after | gain | 95 % interval | p | guards: gain (p) "
        "| versions | clips | seconds | peak GiB |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    rows = []
    for seed in arguments.seeds:
        rows.append(row(run(seed, arguments.folder, arguments.overrides, arguments.memory_every)))
        print(rows[-1], flush=True)
        text = (
            f"# The default run over seeds\n\n`python bench/default_run.py {' '.join(sys.argv[1:])}`, "
            f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores ({platform.machine()}), no GPU. "
            "Reward: `tunejury_mini` on the held-out prompts, last published version against version 0.\n\n"
        )
        arguments.out.write_text(text + header + "\n" + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
