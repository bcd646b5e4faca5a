"""Closing a cohort: rank its rollouts, let the algorithm choose, and describe what was there."""

from __future__ import annotations

from collections import Counter

import numpy as np

from rlloop.algorithms.base import Algorithm, Candidate
from rlloop.algorithms.selection import rank, window_threshold
from rlloop.config import Stage
from rlloop.loop.ledger import Ledger
from rlloop.loop.records import Selected
from rlloop.loop.snapshot import CohortStats
from rlloop.rewards.blend import blend


def cohort_candidates(ledger: Ledger, k: int, stage: Stage) -> list[Candidate]:
    """Rollouts of cohort k with their ranking score, in (score descending, ticket, clip) order; missing left out."""
    keys, scores = _rollouts(ledger, k, stage)
    return rank([Candidate(t, c, float(s)) for (t, c), s in zip(keys, scores, strict=True)])


def close_cohort(ledger: Ledger, k: int, algorithm: Algorithm) -> Selected:
    """Makes selection k from all rollouts of the closed cohort; a pure function of the ledger."""
    stage = ledger.plan.stage_of(k)
    settings = stage.selection
    candidates = cohort_candidates(ledger, k, stage)
    threshold = _threshold(ledger, k, stage) if settings.window else None
    examples = algorithm.select(candidates, settings, threshold)
    if len(examples) >= settings.min_examples:
        return Selected(k, tuple((e.ticket, e.clip, e.role) for e in examples))
    problem = (
        f"generation {k}: {len(examples)} of {len(candidates)} scored rollouts are selected, fewer than "
        f"stages.{stage.name}.selection.min_examples {settings.min_examples}; raise tickets or top_fraction"
    )
    if settings.on_too_few == "skip":
        return Selected(k, (), skipped=problem)
    return Selected(k, (), stopped=problem)


def cohort_stats(ledger: Ledger, k: int, closed_at: float) -> CohortStats:
    """Figures of a selected cohort for the views."""
    stage = ledger.plan.stage_of(k)
    keys, ranking = _rollouts(ledger, k, stage)
    chosen = {(t, c) for t, c, _ in ledger.selections[k].examples}
    finite = ranking[np.isfinite(ranking)]
    top = [s for key, s in zip(keys, ranking, strict=True) if key in chosen]
    tickets = [ledger.tickets[t] for t in ledger.plan.generations[k].tickets if ledger.tickets[t].rollouts]
    rollouts = [rollout for ticket in tickets for rollout in ticket.rollouts]
    ages = [k - ticket.version for ticket in tickets for _ in ticket.rollouts]
    named = {
        name: [r.scores[name] for r in rollouts if r.scores.get(name) is not None] for name in stage_scores(rollouts)
    }
    return CohortStats(
        generation=k,
        stage=stage.name,
        num_rollouts=len(rollouts),
        num_selected=len(chosen),
        reward={
            "mean": float(finite.mean()) if finite.size else float("nan"),
            "std": float(finite.std()) if finite.size else float("nan"),
            "min": float(finite.min()) if finite.size else float("nan"),
            "max": float(finite.max()) if finite.size else float("nan"),
            "top": float(np.mean(top)) if top else float("nan"),
        },
        scores={name: float(np.mean(values)) for name, values in named.items() if values},
        policy_versions=dict(Counter(int(ticket.version) for ticket in tickets for _ in ticket.rollouts)),
        missing=dict(Counter(reason for r in rollouts for reason in r.reasons.values())),
        staleness_mean=float(np.mean(ages)) if ages else 0.0,
        staleness_max=max(ages, default=0),
        closed_at=closed_at,
    )


def stage_scores(rollouts) -> list[str]:
    """Names of the scores that any of these rollouts carries."""
    return sorted({name for rollout in rollouts for name in rollout.scores})


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
