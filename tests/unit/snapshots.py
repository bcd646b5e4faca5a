"""A small run to show: two prompts, two seeds, versions 0 to 2."""

from __future__ import annotations

from dataclasses import replace

from rlloop.loop.snapshot import CohortStats, EvaluationResult, PoolStats, Snapshot, TrainPoint

REWARD, ALIGNMENT, JUDGE = "tunejury_mini", "alignment_mini", "judge_mini"
BEGAN = 1_000_000.0


def cohort(generation: int, mean: float) -> CohortStats:
    return CohortStats(
        generation=generation,
        stage="expert_iteration",
        num_rollouts=160,
        num_selected=16,
        reward={"mean": mean, "std": 0.5, "top": mean + 0.6, "min": -1.0, "max": 1.5},
        scores={REWARD: mean, ALIGNMENT: 0.2},
        policy_versions={generation: 160},
        missing={"not finite": 2},
        staleness_mean=0.5,
        staleness_max=1,
        closed_at=BEGAN + 100 * generation,
    )


def evaluation(version: int, rewards: list, alignment: list | None = None, audio: tuple = ()) -> EvaluationResult:
    same = [[0.2, 0.3], [0.4, 0.1]]
    return EvaluationResult(
        version=version,
        stage="expert_iteration",
        prompts=["slow piano", "fast drums"],
        seeds=[[1, 2], [3, 4]],
        scores={REWARD: rewards, ALIGNMENT: alignment or same, JUDGE: same},
        audio=audio,
        seconds=40.0,
        finished_at=BEGAN + 100 * version + 50,
    )


def train_point(step: int) -> TrainPoint:
    return TrainPoint(
        step,
        step // 60,
        loss=1.0 / step,
        learning_rate=1e-4,
        grad_norm=0.5,
        seconds=0.8,
        time=BEGAN + step,
        metrics={"implicit_accuracy": 0.75},
    )


def snapshot(run_dir: str, **changes) -> Snapshot:
    """Version 2 of 3, with evaluations of 0, 1 and 2."""
    whole = Snapshot(
        time=BEGAN + 300,
        started_at=BEGAN,
        run_dir=run_dir,
        stage="expert_iteration",
        version=2,
        num_versions=3,
        generation=2,
        tickets={"open": 10, "leased": 2, "buffered": 28, "trained": 20, "dropped": 59, "failed": 1},
        segment=1,
        clips_generated=428,
        clips_per_minute=85.6,
        failures={"not finite": 4},
        restarts={"sampler": 1},
        buffer_rollouts=112,
        buffer_bytes=2**20,
        oldest_rollout_seconds=31.0,
        staleness_now=0.5,
        pools={"sampler": PoolStats(2, 428, 0.9), "trainer": PoolStats(1, 0, None)},
        trainer_state="waiting for cohort 2",
        train_step=120,
        train_steps_total=180,
        cohorts=(cohort(0, 0.1), cohort(1, 0.2)),
        train=(train_point(1), train_point(2)),
        evaluations=(
            evaluation(0, [[0.0, 0.2], [0.4, 0.2]]),
            evaluation(1, [[0.9, 0.9], [0.9, 0.9]]),
            evaluation(2, [[0.1, 0.3], [0.7, 0.5]]),
        ),
        weight_sync_seconds={1: 0.8},
        messages=("sampler 1 was restarted",),
        eta_seconds=125.0,
    )
    return replace(whole, **changes)
