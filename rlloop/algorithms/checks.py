"""What an algorithm needs of its stage, checked before anything runs: each refusal names both numbers."""

from __future__ import annotations

from rlloop.algorithms.base import Algorithm, Candidate, load_algorithm
from rlloop.config import Config, Stage


def check_stages(config: Config) -> None:
    """Every stage's algorithm exists, takes its options, and finds what it trains on.

    Raises:
        ValueError: the first that does not, as one line.
    """
    for stage in config.stages:
        algorithm = load_algorithm(stage.algorithm, stage.options)
        problem = stage_problem(config, stage, algorithm)
        if problem:
            raise ValueError(f"stages.{stage.name}: {problem}")


def stage_problem(config: Config, stage: Stage, algorithm: Algorithm) -> str:
    """Why this stage cannot be trained, or ''."""
    clips = config.sampler.clips_per_prompt
    if stage.variant is not None:
        return ""
    if algorithm.needs_tickets and not stage.tickets and not any(":" in s for p in stage.phases for s in p.sources):
        return f"{stage.algorithm} learns from rollouts, but the stage has 0 tickets and names no earlier selection"
    if algorithm.takes_pairs and clips < 2:
        return (
            f"{stage.algorithm} sets the best clip of a prompt against its worst and needs 2 candidates a prompt, "
            f"sampler.clips_per_prompt is {clips}; raise it"
        )
    if stage.tickets and (found := most_clips(config, stage)) < stage.selection.min_examples:
        return (
            f"top_fraction {stage.selection.top_fraction} of {stage.tickets * clips} rollouts leaves {found}, fewer "
            f"than min_examples {stage.selection.min_examples}; raise tickets, sampler.clips_per_prompt or top_fraction"
        )
    for number, phase in enumerate(stage.phases):
        if algorithm.takes_pairs and phase.sources.get("corpus"):
            return f"phase {number} mixes in the corpus, whose clips are no pairs; {stage.algorithm} takes pairs alone"
        kept = most_selected(config, stage, algorithm)
        if set(phase.sources) == {"current"} and phase.batch_size > kept:
            unit = "pairs" if algorithm.takes_pairs else "rollouts"
            return (
                f"phase {number} has batch_size {phase.batch_size}, above the selection of at most {kept} {unit}; "
                "lower it, or raise tickets, sampler.clips_per_prompt or top_fraction"
            )
    return ""


def most_clips(config: Config, stage: Stage) -> int:
    """Clips that a cohort of this stage can give at most."""
    algorithm = load_algorithm(stage.algorithm, stage.options)
    return most_selected(config, stage, algorithm) * (2 if algorithm.takes_pairs else 1)


def most_selected(config: Config, stage: Stage, algorithm: Algorithm) -> int:
    """Units that a cohort of this stage can give at most: pairs, or clips."""
    if algorithm.takes_pairs:
        return stage.tickets
    if not stage.tickets:
        return 0
    clips = config.sampler.clips_per_prompt
    ranked = [Candidate(t, c, float(-t * clips - c)) for t in range(stage.tickets) for c in range(clips)]
    threshold = None if not stage.selection.window else float("-inf")
    return len(algorithm.select(ranked, stage.selection, threshold))
