"""How often the alarm rings for nothing, and how soon it rings for something, on scores of real runs.

    python bench/alarm.py runs/bench/seed* --work runs/alarm --out bench/alarm.md

The runs' evaluations give scores of the same prompts and seeds under many policies; embeddings that they did not keep
are made again from the checkpoints and kept in --work. From them come null curves, in which no judge has a true trend:

  dealt   in every prompt the policies are dealt to the curve's versions anew; a policy's seeds stay together
  clips   in every prompt its clips, of all policies and seeds, are dealt to versions and seeds anew
  drift   every prompt takes a random walk of its own: each step is what one real step between two versions of a run
          did to it, less the mean over prompts; prompts wander apart more and more, their mean only by chance

A false alarm is counted where a judge's test fires, whatever the reward does, so the rates are upper bounds: the alarm
also asks that the reward rises.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from rlloop.config import Alarm, Config
from rlloop.evaluation.alarm import Evaluated, look
from rlloop.evaluation.frechet import FrechetStatistics
from rlloop.loop.snapshot import EvaluationResult
from rlloop.recipes.embedders import MINI_REFERENCE, musicnn_embedder
from rlloop.recipes.evaluations import stored_results
from rlloop.recipes.judges import embeddings_path
from rlloop.rewards.base import Clip

REWARD, SHIFT = "tunejury_mini", "frechet_mini"
SCORES = ("judge_mini", "alignment_mini")
WATCHED = {"judge_mini and frechet_mini": ("judge_mini", SHIFT), "alignment_mini": ("alignment_mini",)}
SETTINGS = Alarm()
LENGTHS = (4, 11)
FALLS = {4: (0.1, 0.2, 0.3, 0.5), 11: (0.03, 0.05, 0.1, 0.2)}
REWARD_STEP = 0.05  # a version, in the curves with a true fall


@dataclass(frozen=True)
class Policies:
    """Real evaluations: `scores` name -> [N, P, S], `embeddings` [N, P, S, D]; `runs` are chains of rows by version."""

    scores: dict[str, np.ndarray]
    embeddings: np.ndarray
    runs: list[list[int]]

    @property
    def num(self) -> int:
        return len(self.embeddings)


Curve = tuple[dict[str, np.ndarray], np.ndarray]  # scores name -> [V, P, S], embeddings [V, P, S, D]


def read_policies(folders: list[Path], work: Path) -> Policies:
    """All evaluated versions; version 0, which the runs share, once."""
    results, embeddings, runs = [], [], []
    for folder in folders:
        chain = []
        for result in stored_results(folder):
            if result.version == 0 and runs:
                assert result.scores == results[0].scores, f"{folder} started from another policy than {folders[0]}"
                chain.append(0)
                continue
            chain.append(len(results))
            results.append(result)
            embeddings.append(embed_version(folder, result, work))
        runs.append(chain)
    scores = {name: np.array([r.scores[name] for r in results], dtype=float) for name in (REWARD, *SCORES)}
    return Policies(scores, np.stack(embeddings), runs)


def embed_version(folder: Path, result: EvaluationResult, work: Path) -> np.ndarray:
    """[P, S, D] of the clips that an evaluation scored, sampled again from the checkpoint where the run has none."""
    kept = embeddings_path(folder, result.version, SHIFT)
    if kept.is_file():
        return np.load(kept)
    path = work / f"{folder.name}-v{result.version:06d}.npy"
    if not path.is_file():
        work.mkdir(parents=True, exist_ok=True)
        np.save(path, _sample_and_embed(folder, result))
    return np.load(path)


def _sample_and_embed(folder: Path, result: EvaluationResult) -> np.ndarray:
    from rlloop.recipes.sampler import Sampler
    from rlloop.recipes.score_sweep import load_policy

    config = Config.model_validate(json.loads((folder / "config.json").read_text()))
    sampler, ear = Sampler(config, config.evaluation), musicnn_embedder()
    load_policy(sampler, folder / "checkpoints" / f"v{result.version:06d}-s000000")
    rows = []
    for prompt, seeds in zip(result.prompts, result.seeds, strict=True):
        drawn = sampler.sample([prompt] * len(seeds), list(seeds), config.evaluation.sampling)
        rows.append(ear.embed([Clip(wave, drawn.sample_rate_hz, prompt) for wave in drawn.audio]))
    return np.stack(rows)


def dealt(policies: Policies, length: int, rng: np.random.Generator) -> Curve:
    num_prompts = policies.embeddings.shape[1]
    order = rng.permuted(np.tile(np.arange(policies.num), (num_prompts, 1)), axis=1)[:, :length].T  # [V, P]
    return _take(policies, lambda x: x[order, np.arange(num_prompts)])


def clips(policies: Policies, length: int, rng: np.random.Generator) -> Curve:
    num, num_prompts, num_seeds = policies.embeddings.shape[:3]
    pool = rng.permuted(np.tile(np.arange(num * num_seeds), (num_prompts, 1)), axis=1)[:, : length * num_seeds]
    policy, seed = np.divmod(pool.reshape(num_prompts, length, num_seeds).transpose(1, 0, 2), num_seeds)
    return _take(policies, lambda x: x[policy, np.arange(num_prompts)[:, None], seed])


def drift(policies: Policies, length: int, rng: np.random.Generator) -> Curve:
    num_prompts = policies.embeddings.shape[1]
    pairs = np.array([pair for run in policies.runs for pair in zip(run, run[1:], strict=False)])
    steps = rng.integers(len(pairs), size=(length - 1, num_prompts))

    def walk(x: np.ndarray) -> np.ndarray:
        changes = x[pairs[:, 1]] - x[pairs[:, 0]]  # [steps, P, S, ...]
        centred = changes - changes.mean(axis=(1, 2), keepdims=True)
        return np.cumsum(np.concatenate([x[:1], centred[steps, np.arange(num_prompts)]]), axis=0)

    return _take(policies, walk)


NULLS: dict[str, Callable[[Policies, int, np.random.Generator], Curve]] = {
    "dealt": dealt,
    "clips": clips,
    "drift": drift,
}


def _take(policies: Policies, rule: Callable[[np.ndarray], np.ndarray]) -> Curve:
    """The same rule for scores and embeddings, so that a clip's stay together."""
    return {name: rule(values) for name, values in policies.scores.items()}, rule(policies.embeddings)


def first_ring(curve: Curve, judges: tuple[str, ...], reference: np.ndarray, *, needs_reward: bool) -> int | None:
    """The version at whose evaluation the alarm first rings; None if it never does."""
    scores, embeddings = curve
    history = [
        Evaluated(version, {name: values[version] for name, values in scores.items()}, {SHIFT: embeddings[version]})
        for version in range(len(embeddings))
    ]
    for count in range(1, len(history) + 1):
        settings = {"num_planned": len(history), "window": SETTINGS.window, "level": SETTINGS.level}
        findings = look(history[:count], REWARD, judges, references={SHIFT: reference}, **settings)
        if any(f.is_alarm if needs_reward else f.p_value <= f.level for f in findings):
            return count - 1
    return None


def row_generator(*row: object) -> np.random.Generator:
    """The random numbers of one row of a table, which no other row shares: seeded by what the row is of."""
    return np.random.default_rng(list(" | ".join(map(str, row)).encode()))


def false_alarms(policies: Policies, reference: np.ndarray, num_curves: int) -> list[str]:
    """Rows of the table of null curves."""
    rows = []
    for length in LENGTHS:
        for null, make in NULLS.items():
            for name, judges in WATCHED.items():
                rng = row_generator(length, null, name)
                rung = sum(
                    first_ring(make(policies, length, rng), judges, reference, needs_reward=False) is not None
                    for _ in range(num_curves)
                )
                interval = binomtest(rung, num_curves).proportion_ci(0.95, "exact")
                rows.append(
                    f"| {length} | {null} | {name} | {rung} of {num_curves} | {rung / num_curves:.2%} "
                    f"| {interval.low:.2%} to {interval.high:.2%} |"
                )
                print(rows[-1], flush=True)
    return rows


def detections(policies: Policies, reference: np.ndarray, num_curves: int) -> list[str]:
    """Rows of the table of curves with a true fall: a dealt null, a rising reward, one judge that falls steadily."""
    rows = []
    start = policies.embeddings[0].reshape(-1, policies.embeddings.shape[-1]).astype(float)
    away = start.mean(axis=0) - reference
    away /= np.linalg.norm(away)
    units = {**{name: policies.scores[name][0].std() for name in SCORES}, SHIFT: (start @ away).std() * away}
    for length in LENGTHS:
        for judge in (*SCORES, SHIFT):
            judges = ("alignment_mini",) if judge == "alignment_mini" else ("judge_mini", SHIFT)
            for fall in FALLS[length]:
                rng = row_generator(length, judge, fall)
                rings = [
                    first_ring(
                        _with_fall(dealt(policies, length, rng), judge, fall * units[judge]), judges, reference,
                        needs_reward=True,
                    )
                    for _ in range(num_curves)
                ]  # fmt: skip
                when = [ring for ring in rings if ring is not None]
                median = f"{np.median(when):.0f}" if when else "-"
                total = fall * (length - 1)
                rows.append(f"| {length} | {judge} | {fall:g} | {total:g} | {len(when) / num_curves:.0%} | {median} |")
                print(rows[-1], flush=True)
    return rows


def _with_fall(curve: Curve, judge: str, step: float | np.ndarray) -> Curve:
    """Adds what a hacked reward does: it rises, and `judge` gets worse by `step` a version."""
    scores, embeddings = dict(curve[0]), curve[1]
    time_axis = np.arange(len(embeddings))
    scores[REWARD] = scores[REWARD] + REWARD_STEP * time_axis[:, None, None]
    if judge == SHIFT:
        return scores, embeddings + time_axis[:, None, None, None] * step
    scores[judge] = scores[judge] - step * time_axis[:, None, None]
    return scores, embeddings


def real_runs(policies: Policies, reference: np.ndarray) -> list[str]:
    """What the rule says of the runs themselves."""
    lines = []
    for name, judges in WATCHED.items():
        curves = [
            ({key: values[run] for key, values in policies.scores.items()}, policies.embeddings[run])
            for run in policies.runs
        ]
        rings = [first_ring(curve, judges, reference, needs_reward=True) for curve in curves]
        lines.append(f"- {name}: {sum(ring is not None for ring in rings)} of {len(rings)} runs ring.")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--work", type=Path, default=Path("runs/alarm"))
    parser.add_argument("--out", type=Path, default=Path("bench/alarm.md"))
    parser.add_argument("--curves", type=int, default=2000)
    parser.add_argument("--falling-curves", type=int, default=200)
    arguments = parser.parse_args()
    began = time.monotonic()
    policies = read_policies(arguments.runs, arguments.work)
    reference = FrechetStatistics.load(MINI_REFERENCE).mean
    nulls = false_alarms(policies, reference, arguments.curves)
    falls = detections(policies, reference, arguments.falling_curves)
    text = [
        "# The alarm: how often for nothing, how soon for something",
        "",
        f"`python bench/alarm.py {' '.join(path.name for path in arguments.runs)} --curves {arguments.curves} "
        f"--falling-curves {arguments.falling_curves}`, {time.strftime('%Y-%m-%d')}, {platform.machine()}, "
        f"{(time.monotonic() - began) / 60:.0f} minutes; {policies.num} policies, "
        f"{policies.embeddings.shape[1]} prompts, {policies.embeddings.shape[2]} seeds.",
        "",
        f"Null curves (bench/alarm.py says how they are made) under evaluation.alarm.level {SETTINGS.level:g}. The "
        "intervals are exact (Clopper and Pearson).",
        "",
        "| evaluations | null | watched | false alarms | rate | 95 % interval |",
        "|---|---|---|---|---|---|",
        *nulls,
        "",
        "A true fall: `dealt` curves whose reward rises by "
        f"{REWARD_STEP:g} a version while one judge gets worse by a share of the standard deviation of its clips under "
        "version 0 (of `frechet_mini`: of its embeddings, along the line away from the reference) a version.",
        "",
        "| evaluations | what falls | a version | in all | rings | median version |",
        "|---|---|---|---|---|---|",
        *falls,
        "",
        "The runs themselves:",
        "",
        *real_runs(policies, reference),
    ]
    arguments.out.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    sys.exit(main())
