"""What an algorithm needs of its stage, checked before anything runs: each refusal names both numbers."""

from __future__ import annotations

from collections.abc import Iterable

from rlloop.algorithms.base import Algorithm, Candidate, load_algorithm
from rlloop.config import Config, Phase, Stage, differing_generations, generation_stages, selection_read


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
    named = {source for phase in stage.phases for source in phase.sources}
    if algorithm.needs_tickets and not stage.tickets and not selections_read(config, stage, named):
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
        problem = mixture_problem(config, stage, algorithm, phase) or batch_problem(config, stage, algorithm, phase)
        if problem:
            return f"phase {number} {problem}"
    return ""


def mixture_problem(config: Config, stage: Stage, algorithm: Algorithm, phase: Phase) -> str:
    """Which source of a phase holds something else than its algorithm takes, or ''."""
    takes = kind(algorithm)
    if phase.sources.get("corpus") and takes != "clips":
        return f"mixes in the corpus, which holds clips; {stage.algorithm} takes {takes}"
    stages = generation_stages(config)
    for source in phase.sources:
        for read in selections_read(config, stage, [source]):
            holds = kind(load_algorithm(stages[read].algorithm, stages[read].options))
            if holds != takes:
                return (
                    f"reads '{source}', which {stages[read].algorithm} selected: {holds}; {stage.algorithm} takes "
                    f"{takes}; name the selection of a stage with {stage.algorithm}"
                )
    return ""


def batch_problem(config: Config, stage: Stage, algorithm: Algorithm, phase: Phase) -> str:
    """How far the batch is above all that a phase's selections give together, or ''; the corpus is large enough."""
    if phase.sources.get("corpus"):
        return ""
    stages, wanted = generation_stages(config), [source for source, weight in phase.sources.items() if weight > 0]
    for k in differing_generations(stage, stages.index(stage)):
        read = {number for source in wanted if (number := selection_read(config, source, k)) is not None}
        kept = sum(most_units(config, stages[number]) for number in read)
        if phase.batch_size > kept:
            unit = "pairs" if algorithm.takes_pairs else "rollouts"
            return (
                f"has batch_size {phase.batch_size}, above the selection of at most {kept} {unit} that {wanted} give "
                f"at generation {k}; lower it, or raise tickets, sampler.clips_per_prompt or top_fraction"
            )
    return ""


def kind(algorithm: Algorithm) -> str:
    """What an algorithm selects and trains on."""
    return ("pairs" if algorithm.takes_pairs else "clips") + " with advantages" * algorithm.uses_advantages


def selections_read(config: Config, stage: Stage, sources: Iterable[str]) -> set[int]:
    """Generations whose selections a stage reads under these names, in its first generation and in the next."""
    generations = differing_generations(stage, generation_stages(config).index(stage))
    found = {selection_read(config, source, k) for source in sources for k in generations}
    return {number for number in found if number is not None}


def most_clips(config: Config, stage: Stage) -> int:
    """Clips that a cohort of this stage can give at most."""
    algorithm = load_algorithm(stage.algorithm, stage.options)
    return most_units(config, stage) * (2 if algorithm.takes_pairs else 1)


def most_units(config: Config, stage: Stage) -> int:
    """Units that a cohort of this stage can give at most: pairs, or clips."""
    algorithm = load_algorithm(stage.algorithm, stage.options)
    if algorithm.takes_pairs:
        return stage.tickets
    if not stage.tickets:
        return 0
    clips = config.sampler.clips_per_prompt
    ranked = [Candidate(t, c, float(-t * clips - c)) for t in range(stage.tickets) for c in range(clips)]
    threshold = None if not stage.selection.window else float("-inf")
    return len(algorithm.select(ranked, stage.selection, threshold))
