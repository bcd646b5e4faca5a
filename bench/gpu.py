"""What the stack reaches on one GPU, in under eight minutes and without building anything: `make bench-gpu`.

    python -m bench.gpu                         all parts, into bench/results_gpu.md
    python -m bench.gpu --only sampling scoring --batches 1 16 --out FILE

Parts: conformance (golden cases on the CPU, then the card against the CPU in float32 and bfloat16), clips a second by
batch, plain and compiled, scoring, and a short run of configs/one_gpu.yaml. Weights are drawn, of the published sizes:
neither speed nor rounding depends on training. A part for which the time does not suffice is left out, and says so.
Without a card all but the run works on the CPU, where only tiny sizes are bearable (tests/unit/test_bench_gpu.py).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.machine import commit
from bench.results import write_section
from bench.sampling import PUBLISHED, clips, difference, finish, flops, make_generator
from rlloop.models.official import MODES, Mode
from rlloop.rewards.base import Clip, Reward

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results_gpu.md")
BUDGET_S = 450.0
GOLDEN = ("fluxaudio_s_44k_euler", "bigvgan_v2_44k", "tunejury")
TOLERANCES = {"float32": 2e-3, "bfloat16": 1e-1}
# Dense peaks in TFLOP/s as their makers state them: float32 outside and TF32 and bfloat16 inside tensor cores.
PEAKS = {
    "H200": (67, 495, 989), "H100 PCIe": (51, 378, 756), "H100": (67, 495, 989), "A100": (19.5, 156, 312),
    "L40S": (91.6, 183, 366), "L4": (30.3, 60, 121), "A10G": (35, 35, 70), "RTX 4090": (82.6, 82.6, 165),
}  # fmt: skip
KINDS = ("float32", "tf32", "bfloat16")


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

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def share(self, flops_per_second: float, kind: str) -> str:
        """Of the card's peak; empty where that is not known."""
        peaks = next((peaks for name, peaks in PEAKS.items() if name in self.name), None)
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
    expected = make_generator(card.mode).place(device="cpu").sample_latents(prompts, seeds, settings).float().cpu()
    for dtype, tolerance in TOLERANCES.items():
        generator = make_generator(card.mode).place(dtype=dtype, device=card.device.type)
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
    settings = replace(PUBLISHED, num_steps=card.num_steps)
    one_step = one_clip_flops(card)
    lines = [
        "| setting | batch | latents s | clips/s | TFLOP/s | of peak | limited by | clips/s with audio | first s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for dtype, is_compiled, tf32 in (
        ("float32", False, False), ("float32", False, True), ("bfloat16", False, True), ("bfloat16", True, True),
    ):  # fmt: skip
        name = f"{'TF32' if tf32 and dtype == 'float32' else dtype}, {'compiled' if is_compiled else 'plain'}"
        kind = "tf32" if tf32 and dtype == "float32" else dtype
        if card.left() < (150 if is_compiled else 60):
            lines.append(f"| {name} | | left out: {card.left():.0f} s of the time are left | | | | | | |")
            continue
        generator = make_generator(card.mode).place(
            dtype=dtype, compile=is_compiled, tf32=tf32, device=card.device.type
        )
        before = None
        for batch in [card.batches[-1]] if is_compiled else card.batches:
            prompts, seeds = clips(batch)
            began = time.perf_counter()
            latents = generator.sample_latents(prompts, seeds, settings)
            finish(latents)
            first_s = time.perf_counter() - began
            seconds = seconds_of(lambda g=generator, p=prompts, s=seeds: g.sample_latents(p, s, settings), card.repeats)
            decode_s = seconds_of(lambda g=generator, x=latents: decode_in_parts(g, x), 1)
            speed = one_step * settings.num_steps * batch / seconds
            lines.append(
                f"| {name} | {batch} | {seconds:.3f} | {batch / seconds:.2f} | {speed / 1e12:.2f} "
                f"| {card.share(speed, kind)} | {limit(before, (batch, seconds))} | {batch / (seconds + decode_s):.2f} "
                f"| {first_s:.1f} |"
            )
            before = (batch, seconds)
        del generator
        torch.compiler.reset()
        if card.device.type == "cuda":
            torch.cuda.empty_cache()
    return "\n".join(lines)


def one_clip_flops(card: Card) -> float:
    """Floating-point operations of one guided solver step of one clip."""
    generator = make_generator(card.mode).place(device=card.device.type)
    return flops(lambda: generator.sample_latents(["x"], [1], replace(PUBLISHED, num_steps=1)))


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
    return "launches and arithmetic" if growth < 0.75 else "arithmetic and memory"


# ---- scoring


def scoring(card: Card) -> str:
    """Each reward on 16 clips together and one by one."""
    lines = [
        "| reward | clips/s together | one by one | ratio | TFLOP/s | of float32 peak |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    rate_hz, count = 44_100, 16
    for name, build in card.rewards.items():
        if card.left() < 30:
            lines.append(f"| {name} | left out: {card.left():.0f} s of the time are left | | | | |")
            continue
        reward = build()

        def fresh() -> list[Clip]:  # arrays of their own each time: an ear remembers what it heard
            rng = np.random.default_rng(0)
            waves = 0.1 * rng.standard_normal((count, int(card.clip_seconds * rate_hz)), dtype=np.float32)
            return [Clip(wave.copy(), rate_hz, "slow strings") for wave in waves]

        def together(reward=reward) -> None:
            reward.score(fresh())

        def one_by_one(reward=reward) -> None:
            for clip in fresh():
                reward.score([clip])

        made = seconds_of(lambda: None if fresh() else None, 1)
        joint, alone = (seconds_of(work, card.repeats) - made for work in (together, one_by_one))
        speed = flops(lambda reward=reward: reward.score(fresh()[:1])) * count / joint
        lines.append(
            f"| {name} | {count / joint:.1f} | {count / alone:.1f} | **{alone / joint:.2f}** | {speed / 1e12:.2f} "
            f"| {card.share(speed, 'float32')} |"
        )
    return "\n".join(lines)


# ---- a run


def one_gpu(card: Card) -> str:
    """A short run of configs/one_gpu.yaml on drawn models: versions, clips a minute, and what each pool waited."""
    if card.device.type != "cuda":
        return "Left out: no card."
    time_s = min(150.0, card.left())
    if time_s < 90:
        return f"Left out: {card.left():.0f} s of the time are left."
    run_dir = Path(tempfile.mkdtemp(prefix="rlloop-one-gpu-")) / "run"
    rewards = [{"name": name, "target": f"bench.gpu_stack:{name}"} for name in ("tunejury", "clap_score")]
    overrides = [
        "generator.target=bench.gpu_stack:generator", "generator.options={}", "generator.dtype=bfloat16",
        f"scorer.rewards={json.dumps(rewards)}", "stages.0.generations=2", "stages.0.tickets=8",
        "stages.0.phases=[{updates: 4, learning_rate: 1.0e-5, batch_size: 4, micro_batch_size: 4}]",
        "stages.0.selection.top_fraction=0.25", "stages.0.selection.min_examples=1", "evaluation.num_prompts=2",
        "evaluation.seeds_per_prompt=1", "evaluation.in_between=false", f"run_dir={run_dir}",
    ]  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "rlloop.main",
        "--config",
        str(REPOSITORY / "configs" / "one_gpu.yaml"),
        *overrides,
    ]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    began = time.monotonic()
    try:
        found = subprocess.run(
            command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=time_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"")[-600:]
        return f"Not done within {time_s:.0f} s; it said last: `{' '.join(said.decode(errors='replace').split())}`"
    if found.returncode:
        return f"**Failed** with status {found.returncode}: `{' '.join((found.stdout + found.stderr).split())[-600:]}`"
    summary = json.loads((run_dir / "summary.json").read_text())
    kept = {key: value for key, value in summary.items() if isinstance(value, int | float | str)}
    return f"Done in {time.monotonic() - began:.0f} s: `{json.dumps(kept)}`"


PARTS: dict[str, tuple[str, Callable[[Card], str]]] = {
    "conformance": ("Conformance", conformance),
    "sampling": ("Sampling", sampling),
    "scoring": ("Scoring", scoring),
    "one_gpu": ("A short run on one card", one_gpu),
}


def run(card: Card, only: Sequence[str], out: Path, command: str) -> None:
    """Runs the parts one after the other and writes the section of this card; what breaks costs its own part."""
    parts = []
    for name in only:
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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    card = Card(
        device, batches=arguments.batches, rewards=published_rewards(), deadline=time.monotonic() + arguments.seconds
    )
    run(card, arguments.only, arguments.out, f"python -m bench.gpu {' '.join(given)}".strip())


if __name__ == "__main__":
    main(sys.argv[1:])
