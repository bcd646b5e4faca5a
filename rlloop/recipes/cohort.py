"""Closing a cohort: rank its rollouts, let the algorithm choose, and describe what was there."""

from __future__ import annotations

from collections import Counter

import numpy as np

from rlloop.algorithms.base import Algorithm
from rlloop.algorithms.selection import Candidates, window_threshold
from rlloop.config import Stage
from rlloop.loop.cohort_scores import CohortScores
from rlloop.loop.ledger import Ledger
from rlloop.loop.records import Selected
from rlloop.loop.snapshot import CohortStats
from rlloop.rewards.blend import blend


def cohort_candidates(ledger: Ledger, k: int, stage: Stage) -> Candidates:
    """Rollouts of cohort k with their ranking score, in (score descending, ticket, clip) order; missing left out."""
    found = ledger.scores_of(k)
    return Candidates(found.places, found.clips.reshape(-1), _ranking_column(found, stage))


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
    stage, found = ledger.plan.stage_of(k), ledger.scores_of(k)
    label = next(iter(stage.selection.rank_by))
    tickets, _ = found.keys()
    of_tickets = np.array([ledger.tickets[n].version or 0 for n in found.tickets], np.int64)
    versions = of_tickets[tickets - found.tickets.start]
    examples = {(t, c) for t, c, _ in ledger.selections[k].examples}
    chosen = found.chosen(examples)
    scores = found.scores(label)
    is_scored = ~np.isnan(scores)
    rewards, of_version = scores[is_scored], versions[is_scored]
    return CohortStats(
        generation=k,
        stage=stage.name,
        num_rollouts=len(tickets),
        num_selected=len(examples),
        reward={
            "mean": mean(rewards),
            "std": float(rewards.std()) if rewards.size else float("nan"),
            "min": float(rewards.min(initial=np.inf)),
            "max": float(rewards.max(initial=-np.inf)),
            "top": mean(scores[is_scored & chosen]),
        },
        scores=mean_scores(found),
        policy_versions=dict(Counter(versions.tolist())),
        reward_by_version={
            int(v): (mean(rewards[of_version == v]), int((of_version == v).sum())) for v in np.unique(of_version)
        },
        missing=dict(found.reasons),
        staleness_mean=mean(k - versions) if tickets.size else 0.0,
        staleness_max=int((k - versions).max(initial=0)),
        closed_at=closed_at,
    )


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def mean_scores(found: CohortScores) -> dict[str, float]:
    """Mean of each named score over the rollouts that have it."""
    columns = {name: found.scores(name) for name in sorted(found.tables)}
    present = {name: column[~np.isnan(column)] for name, column in columns.items()}
    return {name: mean(values) for name, values in present.items() if values.size}


def _ranking_column(found: CohortScores, stage: Stage) -> np.ndarray:
    """[tickets * places] what is ranked by, in the order of (ticket, clip); NaN where missing, or no clip is."""
    names = stage.selection.rank_by
    return blend({name: found.column(name) for name in names}, names)


def _threshold(ledger: Ledger, k: int, stage: Stage) -> float | None:
    """Quantile over the last `window` rollouts up to and including cohort k, of the same stage."""
    scores = np.zeros(0)
    for generation in reversed(ledger.plan.generations[: k + 1]):
        if generation.stage != ledger.plan.generations[k].stage or len(scores) >= stage.selection.window:
            break
        found = ledger.scores_of(generation.k)
        scores = np.concatenate([found.there(_ranking_column(found, stage)), scores])
    return window_threshold(scores[-stage.selection.window :], stage.selection.top_fraction)
