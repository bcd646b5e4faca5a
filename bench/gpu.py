"""What the stack reaches on one GPU, in under eight minutes and without building anything: `make bench-gpu`.

    python -m bench.gpu                         all parts, into bench/results_gpu.md
    python -m bench.gpu --only sampling scoring --batches 1 16 --out FILE

Parts: conformance (golden cases on the CPU, then the card against the CPU in float32 and bfloat16), clips a second by
batch, plain and compiled, scoring, and a short run of configs/one_gpu.yaml. Weights are drawn, of the published sizes:
neither speed nor rounding depends on training. Each part leaves later ones their time; a row for which it does not
suffice is left out, and says so, and one that breaks (memory) costs itself. Without a card it refuses: these sizes
would take hours. On the CPU the parts run with tiny ones, in tests/unit/test_bench_gpu.py, and what the run's roles do
in test_gpu_stack.py.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.machine import commit
from bench.results import write_section
from bench.sampling import PUBLISHED, clips, difference, finish, flops, make_generator
from rlloop.models.official import MODES, Mode
from rlloop.models.policy import FluxAudioGenerator
from rlloop.rewards.base import Clip, Reward

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results_gpu.md")
BUDGET_S = 450.0
RESERVED_S = {"sampling": 150.0, "scoring": 45.0, "one_gpu": 150.0}  # what the parts before leave
FIRST_S = {"plain": 30.0, "compiled": 75.0}  # a setting's first row: moving the networks, and compiling them
COPIES_SHARE = 0.01  # of the peak: below it a card that is kept busy by more clips is not, but what feeds it
GOLDEN = ("fluxaudio_s_44k_euler", "bigvgan_v2_44k", "tunejury")
TOLERANCES = {"float32": 2e-3, "bfloat16": 1e-1}
# Dense peaks in TFLOP/s as their makers state them: float32 outside and TF32 and bfloat16 inside tensor cores.
PEAKS = {
    "H200": (67, 495, 989), "H100 PCIe": (51, 378, 756), "H100": (67, 495, 989), "A100": (19.5, 156, 312),
    "L40S": (91.6, 183, 366), "L4": (30.3, 60, 121), "A10G": (35, 35, 70), "RTX 4090": (82.6, 82.6, 165),
}  # fmt: skip
KINDS = ("float32", "tf32", "bfloat16")
ARITHMETIC = "arithmetic and memory"


@dataclass
class Card:
    """A device, its peaks, and until when the parts may run."""

    device: torch.device
    mode: Mode = MODES["44k"]
    num_steps: int = PUBLISHED.num_steps
    batches: Sequence[int] = (1, 4, 16, 64)
    repeats: int = 2
    clip_seconds: float = 10.0
    rewards: Mapping[str, Callable[[], Reward]] = field(default_factory=dict)
    golden: Sequence[str] = GOLDEN
    deadline: float = field(default_factory=lambda: time.monotonic() + BUDGET_S)

    @cached_property
    def drawn(self) -> FluxAudioGenerator:
        """Drawing the weights takes seconds of CPU, so it is done once; take a copy."""
        return make_generator(self.mode)

    @cached_property
    def step_flops(self) -> float:
        """Floating-point operations of one guided solver step of one clip."""
        generator = copy.deepcopy(self.drawn).place(device=self.device.type)
        return flops(lambda: generator.sample_latents(["x"], [1], replace(PUBLISHED, num_steps=1)))

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def share(self, flops_per_second: float, kind: str) -> str:
        """Of the card's peak; empty where that is not known."""
        peaks = next((peaks for name, peaks in PEAKS.items() if re.search(rf"\b{name}\b", self.name)), None)
        return f"{flops_per_second / (peaks[KINDS.index(kind)] * 1e12):.1%}" if peaks else ""


def seconds_of(work: Callable[[], Tensor | None], repeats: int) -> float:
    """Best of the repeats after one run that is not counted, in seconds on the wall."""
    found = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        value = work()
        if value is not None:
            finish(value)
        found.append(time.perf_counter() - began)
    return min(found[1:])


# ---- conformance


def conformance(card: Card) -> str:
    from rlloop.recipes.conformance import run_cases
    from rlloop.recipes.golden_case import read_index

    folder = REPOSITORY / "tests" / "golden"
    index = read_index(folder)
    lines = ["| what | difference | tolerance | verdict |", "| --- | --- | --- | --- |"]
    for outcome in run_cases(folder, {name: index[name] for name in card.golden}):
        numbers = " | ".join("" if v is None else f"{v:.1e}" for v in (outcome.difference, outcome.bound))
        remarks = f" {'; '.join(outcome.remarks)}" if outcome.remarks else ""
        lines.append(f"| golden {outcome.name}, CPU | {numbers} | {verdict(outcome.has_passed)}{remarks} |")
    settings = replace(PUBLISHED, num_steps=min(4, card.num_steps))
    prompts, seeds = clips(2)
    expected = copy.deepcopy(card.drawn).place(device="cpu").sample_latents(prompts, seeds, settings).float().cpu()
    for dtype, tolerance in TOLERANCES.items():
        generator = copy.deepcopy(card.drawn).place(dtype=dtype, device=card.device.type)
        share = difference(generator.sample_latents(prompts, seeds, settings).float().cpu(), expected)
        lines.append(
            f"| {settings.num_steps} solver steps in {dtype} on the card against float32 on the CPU | {share:.1e} "
            f"| {tolerance:g} | {verdict(share <= tolerance)} |"
        )
    return "\n".join(lines)


def verdict(has_passed: bool) -> str:
    return "pass" if has_passed else "**FAIL**"


# ---- sampling


def sampling(card: Card) -> str:
    """Clips a second by batch: latents alone, and with decoding to audio."""
    lines = [
        "| setting | batch | latents s | clips/s | TFLOP/s | of peak | limited by | clips/s with audio | first s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind, how in (
        ("float32", "plain"), ("tf32", "plain"), ("bfloat16", "plain"), ("bfloat16", "compiled"), ("tf32", "compiled"),
    ):  # fmt: skip
        lines += setting_rows(card, kind, how)
        torch.compiler.reset()
        if card.device.type == "cuda":
            torch.cuda.empty_cache()
    return "\n".join(lines)


def setting_rows(card: Card, kind: str, how: str) -> list[str]:
    """Rows of one setting by batch, as far as time and memory go; compiled for the smallest and the largest batch."""
    lines: list[str] = []
    name, before = f"{'TF32' if kind == 'tf32' else kind}, {how}", None
    needed_s = FIRST_S[how]
    generator = None
    for batch in card.batches if how == "plain" else sorted({card.batches[0], card.batches[-1]}):
        began = time.monotonic()
        if card.left() < needed_s:
            said = f"left out: {card.left():.0f} s of the time are left, {needed_s:.0f} s may be needed"
            return [*lines, f"| {name} | {batch} | {said} | | | | | | |"]
        try:
            if generator is None:
                dtype = "bfloat16" if kind == "bfloat16" else "float32"
                generator = copy.deepcopy(card.drawn).place(
                    dtype=dtype, compile=how == "compiled", tf32=kind == "tf32", device=card.device.type
                )
            line, before = setting_row(card, generator, kind, batch, before)
        except Exception as error:  # larger batches would break, too; the other settings still count
            return [*lines, f"| {name} | {batch} | {broken(error)} | | | | | | |"]
        lines.append(f"| {name} {line}")
        spent = time.monotonic() - began
        needed_s = spent * growth(card.batches, batch)
    return lines


def setting_row(card: Card, generator, kind: str, batch: int, before) -> tuple[str, tuple[int, float]]:
    """(the row's cells from the batch on, what the next one compares with)."""
    settings = replace(PUBLISHED, num_steps=card.num_steps)
    prompts, seeds = clips(batch)
    began = time.perf_counter()
    latents = generator.sample_latents(prompts, seeds, settings)
    finish(latents)
    first_s = time.perf_counter() - began
    seconds = seconds_of(lambda: generator.sample_latents(prompts, seeds, settings), card.repeats)
    decode_s = seconds_of(lambda: decode_in_parts(generator, latents), 1)
    speed = card.step_flops * settings.num_steps * batch / seconds
    cells = (
        f"| {batch} | {seconds:.3f} | {batch / seconds:.2f} | {speed / 1e12:.2f} "
        f"| {card.share(speed, kind)} | {limit(before, (batch, seconds))} | {batch / (seconds + decode_s):.2f} "
        f"| {first_s:.1f} |"
    )
    return cells, (batch, seconds)


def growth(batches: Sequence[int], batch: int) -> float:
    """How many times the time of this batch the next one may take."""
    larger = [other for other in batches if other > batch]
    return min(larger) / batch if larger else 1.0


def broken(error: Exception) -> str:
    return f"**Failed**: {type(error).__name__}: {' '.join(str(error).split())[:200].replace('|', '/')}"


def decode_in_parts(generator, latents: Tensor) -> Tensor:
    """Audio of all latents, eight at a time: the vocoder takes most of the memory."""
    return torch.cat([generator.decode(part.float()) for part in latents.split(8)])


def limit(before: tuple[int, float] | None, now: tuple[int, float]) -> str:
    """What a larger batch tells: time that hardly grows is spent on launching kernels, else on the arithmetic itself.

    Args:
        before, now: (batch, seconds) of the smaller batch, if any, and of this one.
    """
    if before is None:
        return ""
    growth = (now[1] / before[1] - 1) / (now[0] / before[0] - 1)
    if growth < 0.25:
        return "launches: the card was mostly idle before"
    return "launches and arithmetic" if growth < 0.75 else ARITHMETIC


# ---- scoring


def scoring(card: Card) -> str:
    """Each reward on 16 clips together and one by one."""
    lines = [
        "| reward | clips/s together | one by one | ratio | TFLOP/s | of float32 peak | limited by |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, build in card.rewards.items():
        if card.left() < 30:
            lines.append(f"| {name} | left out: {card.left():.0f} s of the time are left | | | | | |")
            continue
        try:
            lines.append(f"| {name} {reward_cells(card, build())}")
        except Exception as error:  # the other rewards still count
            lines.append(f"| {name} | {broken(error)} | | | | | |")
    return "\n".join(lines)


def reward_cells(card: Card, reward: Reward) -> str:
    rate_hz, count = 44_100, 16

    def fresh() -> list[Clip]:  # arrays of their own each time: an ear remembers what it heard
        rng = np.random.default_rng(0)
        waves = 0.1 * rng.standard_normal((count, int(card.clip_seconds * rate_hz)), dtype=np.float32)
        return [Clip(wave.copy(), rate_hz, "slow strings") for wave in waves]

    def together() -> None:
        reward.score(fresh())

    def one_by_one() -> None:
        for clip in fresh():
            reward.score([clip])

    made = seconds_of(lambda: None if fresh() else None, 1)
    joint, alone = (seconds_of(work, card.repeats) - made for work in (together, one_by_one))
    speed = flops(lambda: reward.score(fresh()[:1])) * count / joint
    share = card.share(speed, "float32")
    limited = scoring_limit((1, alone / count), (count, joint), share)
    return (
        f"| {count / joint:.1f} | {count / alone:.1f} | **{alone / joint:.2f}** | {speed / 1e12:.2f} "
        f"| {share} | {limited} |"
    )


def scoring_limit(one: tuple[int, float], many: tuple[int, float], share: str) -> str:
    """As `limit`; but time that grows with the clips while the card does next to nothing is spent beside it."""
    found = limit(one, many)
    if found == ARITHMETIC and share and float(share.rstrip("%")) < 100 * COPIES_SHARE:
        return "what feeds the card: features on the CPU, copies"
    return found


# ---- a run


def one_gpu(card: Card) -> str:
    """A short run of configs/one_gpu.yaml on drawn models: clips a second, idle pools, share of the peak."""
    if card.device.type != "cuda":
        return "Left out: no card."
    time_s = min(150.0, card.left())
    if time_s < 90:
        return f"Left out: {card.left():.0f} s of the time are left."
    run_dir = Path(tempfile.mkdtemp(prefix="rlloop-one-gpu-")) / "run"
    preset = str(REPOSITORY / "configs" / "one_gpu.yaml")
    began = time.monotonic()
    problem = problem_of([sys.executable, "-m", "rlloop.main", "--config", preset, *run_overrides(run_dir)], time_s)
    return problem or outcome(card, run_dir, time.monotonic() - began)


def run_overrides(run_dir: Path) -> list[str]:
    """What the short run sets over its preset: drawn models, two small generations, little to evaluate."""
    rewards = [{"name": name, "target": f"bench.gpu_stack:{name}"} for name in ("tunejury", "clap_score")]
    return [
        "generator.target=bench.gpu_stack:generator", "generator.options={}", "generator.dtype=bfloat16",
        f"scorer.rewards={json.dumps(rewards)}", "stages.0.generations=2", "stages.0.tickets=8",
        "stages.0.phases=[{updates: 4, learning_rate: 1.0e-5, batch_size: 4, micro_batch_size: 4}]",
        "stages.0.selection.top_fraction=0.25", "stages.0.selection.min_examples=1", "evaluation.num_prompts=2",
        "evaluation.seeds_per_prompt=1", "evaluation.in_between=false", f"run_dir={run_dir}",
    ]  # fmt: skip


def problem_of(command: Sequence[str], time_s: float) -> str:
    """Runs a command of this repository to its end; '' or what went wrong, with its last words."""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    try:
        found = subprocess.run(
            command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=time_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"")[-600:]
        return f"Not done within {time_s:.0f} s; it said last: `{' '.join(said.decode(errors='replace').split())}`"
    if found.returncode:
        return f"**Failed** with status {found.returncode}: `{' '.join((found.stdout + found.stderr).split())[-600:]}`"
    return ""


def outcome(card: Card, run_dir: Path, seconds: float) -> str:
    """What a run that took so many seconds says in its summary, and what its journal tells."""
    summary = json.loads((run_dir / "summary.json").read_text())
    kept = {key: value for key, value in summary.items() if isinstance(value, int | float | str)}
    return f"Done in {seconds:.0f} s: `{json.dumps(kept)}`\n\n{figures(card, run_dir)}"


def figures(card: Card, run_dir: Path) -> str:
    """What the journal tells of the stream, from the first lease to the last commit."""
    from rlloop.loop.journal import Journal
    from rlloop.loop.records import Buffered, Leased
    from rlloop.recipes.run_record import read_config

    config = read_config(run_dir)
    found = list(Journal(run_dir / "journal" / "journal.log").read())
    began = min(when for record, when in found if isinstance(record, Leased))
    done = [(record, when) for record, when in found if isinstance(record, Buffered)]
    seconds = max(when for _, when in done) - began
    num_clips = sum(len(record.rollouts) for record, _ in done)
    speed = num_clips * card.step_flops * config.sampling.num_steps / seconds
    kind = "bfloat16" if config.generator.dtype == "bfloat16" else "tf32" if config.generator.tf32 else "float32"
    lines = [
        "| clips | seconds | clips/s | sampling TFLOP/s | of peak | idle |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    idle = []
    for name, pool in {"sampler": config.sampler, **config.scorer.all_pools}.items():
        busy = sum(record.worker_seconds.get(name, 0.0) for record, _ in done)
        idle.append(f"{name} {1 - busy / (pool.num_actors * seconds):.0%}")
    lines.append(
        f"| {num_clips} | {seconds:.1f} | {num_clips / seconds:.2f} | {speed / 1e12:.2f} | {card.share(speed, kind)} "
        f"| {', '.join(idle)} |"
    )
    return "\n".join(lines)


PARTS: dict[str, tuple[str, Callable[[Card], str]]] = {
    "conformance": ("Conformance", conformance),
    "sampling": ("Sampling", sampling),
    "scoring": ("Scoring", scoring),
    "one_gpu": ("A short run on one card", one_gpu),
}


def run(card: Card, only: Sequence[str], out: Path, command: str) -> None:
    """Runs the parts one after the other and writes the section of this card; what breaks costs its own part."""
    parts, end = [], card.deadline
    for place, name in enumerate(only):
        card.deadline = end - sum(RESERVED_S.get(later, 0.0) for later in only[place + 1 :])
        title, work = PARTS[name]
        began = time.monotonic()
        try:
            with torch.inference_mode():
                text = work(card)
        except Exception as error:  # the other parts still count
            text = f"**Failed**: {type(error).__name__}: {' '.join(str(error).split())[:500]}"
        parts.append(f"### {title}\n\n{text}\n\n{time.monotonic() - began:.0f} s.")
        print(parts[-1], flush=True)
        when = f"`{command}`, {time.strftime('%Y-%m-%d')}, torch {torch.__version__}, commit {commit()}."
        note = f"Drawn weights of the published sizes, {card.num_steps} solver steps; float32 means no TF32."
        write_section(card.name, "\n\n".join([f"{when} {note}", *parts]), out)


def published_rewards() -> dict[str, Callable[[], Reward]]:
    from bench import gpu_stack

    return {"tunejury": gpu_stack.tunejury, "clap_score": gpu_stack.clap_score}


def main(given: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=BUDGET_S, help="for all parts")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(given)
    if not torch.cuda.is_available():
        sys.exit("bench.gpu: torch finds no CUDA card here, and on a CPU these sizes take hours (see rlloop doctor)")
    card = Card(
        torch.device("cuda"),
        batches=arguments.batches,
        rewards=published_rewards(),
        deadline=time.monotonic() + arguments.seconds,
    )
    run(card, arguments.only, arguments.out, f"python -m bench.gpu {' '.join(given)}".strip())


if __name__ == "__main__":
    main(sys.argv[1:])
