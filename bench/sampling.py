"""How fast FluxAudio samples here and what each setting costs and changes: batch, bfloat16, torch.compile, parts.

    python -m bench.sampling                  FluxAudio-S at 44.1 kHz on drawn weights, into bench/results.md
    python -m bench.sampling --steps 4 --out FILE

Weights are drawn by the rule of the golden cases: speed and rounding do not depend on training. Seconds are the best of
the repeats; on one CPU thread they are CPU seconds, in which others on the machine hardly show.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.machine import commit
from bench.results import RESULTS, write_section
from rlloop.models.bigvgan import BigVGAN
from rlloop.models.fluxaudio import FluxAudio
from rlloop.models.official import MODES, Mode
from rlloop.models.policy import FluxAudioGenerator, SamplingSettings, build_autoencoder
from rlloop.recipes.golden_rule import array, fill

BATCH = 16
DTYPES = ("float32", "bfloat16")
PUBLISHED = SamplingSettings(num_steps=25, guidance=4.0, score=5.0, negative_prompt="noise")


@dataclass(frozen=True)
class Timed:
    """Best seconds of several runs, those on the wall of the warm-up before them, and what the last returned."""

    seconds: float
    warm_up_s: float
    value: Tensor


def make_generator(mode: Mode) -> FluxAudioGenerator:
    """A stack of the mode's sizes with drawn weights and drawn prompt features."""
    sizes = replace(mode.spec.network, score_variant="v2")
    spec = replace(mode.spec, network=sizes)

    def encode(prompts: Sequence[str]) -> dict[str, Tensor]:
        rows = {"text": (sizes.text_seq_len, sizes.text_dim, 0.3), "text_c": (sizes.text_c_dim, 0.05)}
        return {
            key: torch.stack([torch.from_numpy(array(f"{key}/{prompt}", shape, scale)) for prompt in prompts])
            for key, (*shape, scale) in rows.items()
        }

    vocoder = fill(BigVGAN(mode.vocoder)).fold_weight_norm().requires_grad_(False)
    return FluxAudioGenerator(spec, fill(FluxAudio(sizes)), fill(build_autoencoder(spec)), vocoder, encode)


def clips(count: int) -> tuple[list[str], list[int]]:
    """Prompts and seeds of so many clips."""
    return [f"clip {n}" for n in range(count)], list(range(42, 42 + count))


def timed(work: Callable[[], Tensor], repeats: int, warm_up: Callable[[], Tensor] | None = None) -> Timed:
    """Times `work`; the first call of a process may compile or allocate, so a warm-up (else `work`) goes before."""
    began = time.perf_counter()
    value = (warm_up or work)()
    finish(value)
    warm_up_s, seconds = time.perf_counter() - began, []
    clock = time.process_time if not value.is_cuda and torch.get_num_threads() == 1 else time.perf_counter
    for _ in range(repeats):
        began = clock()
        value = work()
        finish(value)
        seconds.append(clock() - began)
    return Timed(min(seconds), warm_up_s, value.float().cpu())


def finish(value: Tensor) -> None:
    """Waits for CUDA."""
    if value.is_cuda:
        torch.cuda.synchronize()


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest value of b."""
    return ((a - b).abs().max() / b.abs().max()).item()


# ---- one batch against one by one


def batch_section(generator: FluxAudioGenerator, settings: SamplingSettings, repeats: int) -> str:
    prompts, seeds = clips(BATCH)

    def one_by_one() -> Tensor:
        pairs = zip(prompts, seeds, strict=True)
        return torch.cat([generator.sample_latents([prompt], [seed], settings) for prompt, seed in pairs])

    together = timed(
        lambda: generator.sample_latents(prompts, seeds, settings),
        repeats,
        warm_up=lambda: generator.sample_latents(prompts, seeds, replace(settings, num_steps=1)),
    )
    alone = timed(one_by_one, repeats, warm_up=lambda: generator.sample_latents(["x"], [1], settings))
    return (
        f"**{BATCH} clips, {settings.num_steps} Euler steps with joint CFG.** In one batch {together.seconds:.1f} s, "
        f"one by one {alone.seconds:.1f} s: ratio **{alone.seconds / together.seconds:.2f}**. Largest difference of "
        f"the latents between the two, over their largest value: {difference(together.value, alone.value):.1e}."
    )


# ---- settings of the arithmetic


def settings_section(build: Callable[[], FluxAudioGenerator], repeats: int, tf32: bool) -> str:
    """float32 against bfloat16, eager against compiled, for one clip as published; on CUDA also TF32."""
    prompts, seeds = clips(1)
    variants = [{"dtype": dtype, "compile": is_compiled} for is_compiled in (False, True) for dtype in DTYPES]
    if tf32:
        variants.insert(1, {"dtype": "float32", "compile": False, "tf32": True})
    rows, base, settings, one_step = [], None, PUBLISHED, replace(PUBLISHED, num_steps=1)
    for variant in variants:
        generator = build().place(**variant)
        run = timed(
            lambda g=generator: g.sample_latents(prompts, seeds, settings),
            repeats,
            warm_up=lambda g=generator: g.sample_latents(prompts, seeds, one_step),
        )
        base = base or run
        name = f"{'TF32' if variant.get('tf32') else variant['dtype']}, {'compiled' if variant['compile'] else 'eager'}"
        compile_s = f"{max(0.0, run.warm_up_s - run.seconds / settings.num_steps):.0f}" if variant["compile"] else ""
        rows.append(
            f"| {name} | {run.seconds:.2f} | {base.seconds / run.seconds:.2f} | {compile_s} "
            f"| {difference(run.value, base.value):.1e} |"
        )
        torch.compiler.reset()
    return (
        f"**One clip, {settings.num_steps} Euler steps with joint CFG.** The difference is that of the latents from "
        "float32, eager, over their largest value. Compiling happens once in a process; its seconds are those on the "
        "wall, nothing cached.\n\n"
        "| setting | seconds | speed | compile s | difference |\n| --- | --- | --- | --- | --- |\n" + "\n".join(rows)
    )


# ---- parts against the arithmetic they must do


def flops(work: Callable[[], Tensor]) -> float:
    """Floating-point operations of matrix products, convolutions and attention."""
    counter = FlopCounterMode(display=False)  # sees neither compiled code nor the CPU's fused attention
    with torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH), counter:
        work()
    return float(counter.get_total_flops())


@cache
def matmul_speed(device: torch.device, dtype: torch.dtype, precision: str) -> float:
    """FLOP/s of one large square product: what this machine reaches when it does nothing else.

    Args:
        precision: torch.get_float32_matmul_precision(), for the cache.
    """
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / timed(lambda: a @ b, 5).seconds


def parts_rows(generator: FluxAudioGenerator, batch: int, num_steps: int, repeats: int) -> list[str]:
    """Transformer with `num_steps`, scaled to the published 25, autoencoder and vocoder for a batch: a row each."""
    prompts, seeds = clips(batch)
    settings = replace(PUBLISHED, num_steps=num_steps)
    few = timed(lambda: generator.sample_latents(prompts, seeds, settings), repeats)
    steps = PUBLISHED.num_steps / num_steps
    weights = generator.network.t_embed.mlp[0].weight
    with torch.inference_mode(), generator.precision():
        z = generator.network.unnormalise(few.value.to(weights.device)).transpose(1, 2)
        mel = generator.autoencoder.decode(z)
        decode = timed(lambda: generator.autoencoder.decode(z), repeats)
        vocode = timed(lambda: torch.cat([generator.vocode(part) for part in mel.split(BATCH)]), repeats)
        one = replace(settings, num_steps=1)
        work = {
            "transformer": (few.seconds * steps, weights.dtype, lambda: generator.sample_latents(["x"], [1], one)),
            "autoencoder": (decode.seconds, torch.float32, lambda: generator.autoencoder.decode(z[:1])),
            "vocoder": (vocode.seconds, torch.float32, lambda: generator.vocode(mel[:1])),
        }
        counted = {name: flops(call) * batch for name, (_, _, call) in work.items()}
        precision = torch.get_float32_matmul_precision()
        speeds = {name: matmul_speed(weights.device, dtype, precision) for name, (_, dtype, _) in work.items()}
    counted["transformer"] *= PUBLISHED.num_steps
    total = sum(seconds for seconds, _, _ in work.values())
    rows = [f"| {batch} | all | {total:.2f} | 100% | {sum(counted.values()) / 1e12:.2f} | | | {batch / total:.3g} |"]
    for name, (seconds, _, _) in work.items():
        speed = counted[name] / seconds
        rows.append(
            f"| | {name} | {seconds:.2f} | {seconds / total:.0%} | {counted[name] / 1e12:.2f} | {speed / 1e12:.3g} "
            f"| {speed / speeds[name]:.0%} | |"
        )
    return rows


def parts_section(generator: FluxAudioGenerator, batches: Sequence[int], num_steps: int, repeats: int) -> str:
    rows = [row for batch in batches for row in parts_rows(generator, batch, num_steps, repeats)]
    weights = generator.network.t_embed.mlp[0].weight
    return (
        f"**Parts of a clip, {PUBLISHED.num_steps} Euler steps with joint CFG** (timed over {num_steps} and scaled), "
        f"network in {str(weights.dtype).removeprefix('torch.')}, then decoding in float32. FLOP are those of "
        "products, convolutions and attention; the last share is against one large product in the same arithmetic.\n\n"
        "| batch | part | seconds | share | TFLOP | TFLOP/s | of a product's speed | clips/s |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n" + "\n".join(rows)
    )


# ---- the report


def machine(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    threads = torch.get_num_threads()
    used = "one thread (CPU seconds)" if threads == 1 else f"{threads} threads"
    return f"{name}, {used} of {os.cpu_count()} cores, torch {torch.__version__}"


def report(mode: Mode, arguments: argparse.Namespace) -> str:
    """All sections of one device."""
    settings = replace(PUBLISHED, num_steps=arguments.steps)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def build() -> FluxAudioGenerator:
        return make_generator(mode)

    is_cuda = device.type == "cuda"
    generator = build().place()
    command = f"python -m bench.sampling {arguments.given}".strip()
    sections = [
        f"`{command}`, {time.strftime('%Y-%m-%d')}, {machine(device)}, commit {commit()}. "
        f"FluxAudio-S at {mode.spec.mel.sample_rate_hz / 1000:g} kHz with drawn weights.",
        batch_section(generator, settings, arguments.repeats),
        settings_section(build, arguments.repeats, is_cuda),
        parts_section(build().place(), arguments.batches, arguments.steps, arguments.repeats),
    ]
    if is_cuda:
        for dtype, is_compiled in (("float32", False), ("bfloat16", True)):
            fast = build().place(dtype=dtype, compile=is_compiled, tf32=True)
            note = f"The same with TF32 allowed{' and the network compiled' if is_compiled else ''}."
            sections += [note, parts_section(fast, arguments.batches, arguments.steps, arguments.repeats)]
            torch.compiler.reset()
    return "\n\n".join(sections)


def parse(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    is_cuda = torch.cuda.is_available()
    parser.add_argument("--steps", type=int, default=25 if is_cuda else 2, help="solver steps of batches and parts")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64] if is_cuda else [1])
    parser.add_argument("--repeats", type=int, default=3 if is_cuda else 1, help="timed runs after a first one")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(given)
    arguments.given = " ".join(given)
    return arguments


def main(given: Sequence[str], mode: Mode = MODES["44k"]) -> None:
    arguments = parse(given)
    torch.set_num_threads(arguments.threads)
    with torch.compiler.config.patch(force_disable_caches=True):
        text = report(mode, arguments)
    write_section(f"Sampling on {'CUDA' if torch.cuda.is_available() else 'the CPU'}", text, arguments.out)
    print(text)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
