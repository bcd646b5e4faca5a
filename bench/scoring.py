"""Scores a second of the bundled rewards: a ticket's clips together against one clip at a time.

python -m bench.scoring                     10 s clips, tickets of 8, on one thread, into bench/results.md
python -m bench.scoring --rewards tunejury_mini --clips 16 --out FILE
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from bench.machine import describe
from bench.results import RESULTS, write_section
from rlloop.config import load
from rlloop.data.prompts import SHIPPED, read_prompts
from rlloop.recipes.scorer import Scorer

SECONDS, RATE_HZ = 10.0, 16_000


def make_audio(count: int) -> np.ndarray:
    """[count, T] float32: tones that swell, so that no guard refuses them."""
    t = np.arange(int(SECONDS * RATE_HZ)) / RATE_HZ
    rng = np.random.default_rng(0)
    tones = [
        sum(np.sin(2 * np.pi * f * t + p) for f, p in zip(rng.uniform(80, 3000, 6), rng.uniform(0, 6, 6), strict=True))
        for _ in range(count)
    ]
    return (0.05 * np.stack(tones) * (1 + np.sin(2 * np.pi * 0.5 * t)) / 2).astype(np.float32)


def clips_per_cpu_second(scorer: Scorer, audio: np.ndarray, prompts: list[str], size: int, repeats: int) -> float:
    """The best of several rounds over all clips, `size` at a time, after one that is not counted."""
    best = 0.0
    for round_ in range(repeats + 1):
        began = time.process_time()
        for first in range(0, len(audio), size):
            part = audio[first : first + size]
            scores, reasons = scorer.score(part + 0.0, RATE_HZ, prompts[: len(part)])
            assert not any(reasons), reasons
        best = max(best, len(audio) / (time.process_time() - began)) if round_ else 0.0
    return best


def main(given: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rewards", nargs="+", default=["tunejury_mini", "alignment_mini", "judge_mini"])
    parser.add_argument("--clips", type=int, default=8, help="of a ticket")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(given)
    audio, lines = make_audio(arguments.clips), []
    prompts = read_prompts(SHIPPED)[:1] * arguments.clips
    for rewards in [[name] for name in arguments.rewards] + [arguments.rewards]:
        scorer = Scorer(load("mini"), rewards, threads=1, has_gpu=False)
        together, alone = (clips_per_cpu_second(scorer, audio, prompts, n, arguments.repeats) for n in (len(audio), 1))
        lines.append(f"| {', '.join(rewards)} | {together:.2f} | {alone:.2f} | **{together / alone:.2f}** |")
        print(lines[-1], flush=True)
    command = f"python -m bench.scoring {' '.join(given)}".strip()
    text = (
        f"`{command}`, {describe()}. Clips of {SECONDS:g} s at {RATE_HZ} Hz, {len(audio)} together against one by one, "
        "best of the rounds, by CPU seconds of one thread.\n\n"
        "| rewards | clips/s together | one at a time | ratio |\n| --- | --- | --- | --- |\n" + "\n".join(lines)
    )
    write_section("Scoring on the CPU", text, arguments.out)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
