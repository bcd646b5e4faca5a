"""Closing a cohort: rank its rollouts, let the algorithm choose, and describe what was there."""

from __future__ import annotations

from collections import Counter

import numpy as np

from rlloop.algorithms.base import Algorithm
from rlloop.algorithms.selection import Candidates, window_threshold
from rlloop.config import Stage
from rlloop.loop.ledger import Ledger
from rlloop.loop.records import Selected
from rlloop.loop.snapshot import CohortStats
from rlloop.rewards.blend import blend


def cohort_candidates(ledger: Ledger, k: int, stage: Stage) -> Candidates:
    """Rollouts of cohort k with their ranking score, in (score descending, ticket, clip) order; missing left out."""
    keys, scores = _rollouts(ledger, k, stage)
    places = np.array(keys, np.int64).reshape(-1, 2)
    return Candidates(places[:, 0], places[:, 1], scores)


def close_cohort(ledger: Ledger, k: int, algorithm: Algorithm) -> Selected:
    """Makes selection k from all rollouts of the closed cohort; a pure function of the ledger."""
    stage = ledger.plan.stage_of(k)
    settings = stage.selection
    if not ledger.plan.generations[k].tickets:  # it trains on the corpus or on earlier selections, or on nothing
        return Selected(k, ())
    candidates = cohort_candidates(ledger, k, stage)
    threshold = _threshold(ledger, k, stage) if settings.window else None
    examples = algorithm.select(candidates, settings, threshold)
    if len(examples) >= settings.min_examples:
        advantages = tuple(float(e.advantage) for e in examples) if any(e.advantage for e in examples) else ()
        return Selected(k, tuple((e.ticket, e.clip, e.role) for e in examples), advantages=advantages)
    problem = (
        f"generation {k}: {len(examples)} of {len(candidates)} scored rollouts are selected, fewer than "
        f"stages.{stage.name}.selection.min_examples {settings.min_examples}; raise tickets or top_fraction"
    )
    if settings.on_too_few == "skip":
        return Selected(k, (), skipped=problem)
    return Selected(k, (), stopped=problem)


def cohort_stats(ledger: Ledger, k: int, closed_at: float) -> CohortStats:
    """Figures of a selected cohort for the views.

    The reward is the first score that the stage ranks by, unblended: z-scores over a cohort have mean zero anyway.
    """
    stage = ledger.plan.stage_of(k)
    label = next(iter(stage.selection.rank_by))
    chosen = {(t, c) for t, c, _ in ledger.selections[k].examples}
    found = [(n, ledger.tickets[n], r) for n in ledger.plan.generations[k].tickets for r in ledger.tickets[n].rollouts]
    scored = [(n, ticket, r, r.scores[label]) for n, ticket, r in found if r.scores.get(label) is not None]
    rewards = np.array([score for *_, score in scored])
    versions = np.array([ticket.version for _, ticket, _, _ in scored])
    ages = [k - ticket.version for _, ticket, _ in found]
    return CohortStats(
        generation=k,
        stage=stage.name,
        num_rollouts=len(found),
        num_selected=len(chosen),
        reward={
            "mean": mean(rewards),
            "std": float(rewards.std()) if rewards.size else float("nan"),
            "min": float(rewards.min(initial=np.inf)),
            "max": float(rewards.max(initial=-np.inf)),
            "top": mean(np.array([score for n, _, r, score in scored if (n, r.clip) in chosen])),
        },
        scores=mean_scores([r for *_, r in found]),
        policy_versions=dict(Counter(int(ticket.version) for _, ticket, _ in found)),
        reward_by_version={
            int(v): (mean(rewards[versions == v]), int((versions == v).sum())) for v in np.unique(versions)
        },
        missing=dict(Counter(reason for *_, r in found for reason in r.reasons.values())),
        staleness_mean=float(np.mean(ages)) if ages else 0.0,
        staleness_max=max(ages, default=0),
        closed_at=closed_at,
    )


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def mean_scores(rollouts) -> dict[str, float]:
    """Mean of each named score over the rollouts that have it."""
    names = sorted({name for rollout in rollouts for name in rollout.scores})
    present = {name: [r.scores[name] for r in rollouts if r.scores.get(name) is not None] for name in names}
    return {name: float(np.mean(values)) for name, values in present.items() if values}


def _rollouts(ledger: Ledger, k: int, stage: Stage) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Keys (ticket, clip) of a cohort's rollouts and their ranking scores, NaN where missing."""
    found = [
        (ticket, rollout)
        for ticket in ledger.plan.generations[k].tickets
        for rollout in ledger.tickets[ticket].rollouts
    ]
    keys = [(ticket, rollout.clip) for ticket, rollout in found]
    names = stage.selection.rank_by
    return keys, blend({name: [r.scores.get(name) for _, r in found] for name in names}, names)


def _threshold(ledger: Ledger, k: int, stage: Stage) -> float | None:
    """Quantile over the last `window` rollouts up to and including cohort k, of the same stage."""
    scores: list[float] = []
    for generation in reversed(ledger.plan.generations[: k + 1]):
        if generation.stage != ledger.plan.generations[k].stage or len(scores) >= stage.selection.window:
            break
        scores = [*_rollouts(ledger, generation.k, stage)[1], *scores]
    return window_threshold(scores[-stage.selection.window :], stage.selection.top_fraction)
