"""Checks across fields: combinations that cannot work, each as one line that says what to change."""

from __future__ import annotations

from rlloop.config.judges import judge_problems
from rlloop.config.run import Config
from rlloop.config.training import Phase, Stage
from rlloop.config.trust import secret_problems


def cross_checks(config: Config) -> list[str]:
    """Combinations that cannot work; each line names both numbers and what to change."""
    problems = []
    if len({stage.name for stage in config.stages}) < len(config.stages):
        problems.append("stages: two stages have one name; give each its own")
    scored, evaluated = config.scorer.all_rewards, config.evaluation.scores
    for key, rewards in (("scorer.rewards", scored), ("evaluation.scores", evaluated)):
        names = [reward.name for reward in rewards]
        problems += [f"{key}: two are named '{name}'; give each its own name" for name in repeated(names)]
    problems += secret_problems(config)
    problems += crossover_problems(config)
    problems += autoscale_problems(config)
    problems += judge_problems(config)
    first = 0
    for stage in config.stages:
        problems += stage_problems(config, stage)
        for number, phase in enumerate(stage.phases):
            where = f"stages.{stage.name}.phases.{number}"
            problems += [f"{where}: {problem}" for problem in phase_problems(config, stage, phase, first)]
        first += stage.generations
    return problems


def crossover_problems(config: Config) -> list[str]:
    """A crossover needs both the time and the second network."""
    second = config.generator.options.get("crossover")
    times = {"sampling": config.sampling.crossover_t, "evaluation.sampling": config.evaluation.sampling.crossover_t}
    if second and all(t is None for t in times.values()):
        return [
            f"generator.options.crossover is {second}, but no sampling.crossover_t says when it takes over; set one"
        ]
    return [
        f"{key}.crossover_t is {t}, but generator.options has no crossover; name the second network's checkpoint there"
        for key, t in times.items()
        if t is not None and not second
    ]


def autoscale_problems(config: Config) -> list[str]:
    """Idle shares say something only where sampling and training overlap, and the start lies within the bounds."""
    bounds, start = config.sampler.autoscale, config.sampler.num_actors
    if bounds is None:
        return []
    if not bounds.min <= start <= bounds.max:
        return [f"sampler.num_actors is {start}, outside sampler.autoscale {bounds.min} to {bounds.max}; change one"]
    if config.loop.max_staleness == 0:
        return [
            "sampler.autoscale needs loop.max_staleness 1 or more: with 0 samplers and trainer wait for each other in "
            "turn, whatever their number; set sampler.autoscale to null or raise max_staleness"
        ]
    return []


def stage_problems(config: Config, stage: Stage) -> list[str]:
    """What a stage ranks by must be scored, and enough must be left to train on."""
    where = f"stages.{stage.name}"
    if stage.variant is not None:
        there = {"generations": stage.generations, "tickets": stage.tickets, "phases": len(stage.phases)}
        if there != {"generations": 1, "tickets": 0, "phases": 0}:
            return [
                f"{where}: a change of network (variant {stage.variant}) is one generation without tickets and phases; "
                f"found {there}; give it generations: 1, tickets: 0, phases: []"
            ]
        return []
    if not stage.phases:
        return [f"{where}: has no phases, so nothing of its {stage.tickets} tickets would be learned; add phases"]
    return score_problems(config, stage)


def score_problems(config: Config, stage: Stage) -> list[str]:
    """Its ranking scores and its label are scores of the rollouts."""
    names = [reward.name for reward in config.scorer.all_rewards]
    used = sorted({*stage.selection.rank_by, stage.label_score}) if stage.tickets else []
    return [
        f"stages.{stage.name}: score '{key}' is not among scorer.rewards {names}; add it there or rank by another"
        for key in sorted(set(used) - set(names))
    ]


def phase_problems(config: Config, stage: Stage, phase: Phase, first_generation: int) -> list[str]:
    """The batch must split over the workers, and the mixture must have a source from the first generation on."""
    problems, workers = [], config.trainer.num_workers
    if phase.batch_size % workers:
        problems.append(
            f"batch_size {phase.batch_size} is not a multiple of trainer.num_workers {workers}; change one of the two"
        )
    share = phase.batch_size // workers
    if phase.micro_batch_size and share % phase.micro_batch_size:
        problems.append(
            f"micro_batch_size {phase.micro_batch_size} does not divide the {share} examples of each of "
            f"{workers} workers; change one of the two"
        )
    if not phase.sources or sum(phase.sources.values()) <= 0 or min(phase.sources.values()) < 0:
        problems.append(f"sources {phase.sources} need weights >= 0 with a sum above 0")
    found = [source_problem(config, stage, source, first_generation) for source in phase.sources]
    problems += [problem for problem in found if problem]
    wanted = [source for source, weight in phase.sources.items() if weight > 0]
    for k in differing_generations(stage, first_generation):
        if not problems and not any(s == "corpus" or selection_read(config, s, k) is not None for s in wanted):
            problems.append(
                f"no source of {phase.sources} exists at generation {k}; give the stage tickets and add current, or "
                "name a selection that an earlier generation made"
            )
    return problems


def source_problem(config: Config, stage: Stage, source: str, first_generation: int) -> str:
    """Why a source of a mixture can never be, or ''."""
    kind, _, name = source.partition(":")
    if source == "corpus":
        return "" if config.corpus else "source 'corpus' needs corpus=FOLDER (rlloop data prepare makes one)"
    if source == "current" and not stage.tickets:
        return "source 'current' is this stage's selection, but the stage has 0 tickets; raise them"
    if kind == "stage":
        earlier = [one.name for one in config.stages[: config.stages.index(stage)] if one.tickets]
        return "" if name in earlier else f"source '{source}': no earlier stage with tickets has that name ({earlier})"
    if source not in ("current", "previous") and not (kind == "generation" and name.isdigit()):
        return f"source '{source}' is none of corpus, current, previous, generation:K, stage:NAME"
    last = first_generation + stage.generations - 1
    if any(selection_read(config, source, k) is not None for k in range(first_generation, last + 1)):
        return ""
    return (
        f"source '{source}' never exists at generation {first_generation} to {last}, which this stage makes: it names "
        "no earlier generation with tickets"
    )


def generation_stages(config: Config) -> list[Stage]:
    """The stage of each generation of the run."""
    return [stage for stage in config.stages for _ in range(stage.generations)]


def differing_generations(stage: Stage, first_generation: int) -> range:
    """Generations that show all that a stage lacks: from its second on, sources are only added."""
    return range(first_generation, first_generation + min(2, stage.generations))


def selection_read(config: Config, source: str, k: int) -> int | None:
    """Which generation's selection a source is in generation k, as rlloop.loop.plan.Plan.generation_named has it.

    None: that generation has no tickets or is not there yet, or the source is the corpus.
    """
    stages = generation_stages(config)
    kind, _, name = source.partition(":")
    if kind == "stage":
        read = max((number for number, stage in enumerate(stages) if stage.name == name), default=-1)
    else:
        read = int(name) if kind == "generation" else {"current": k, "previous": k - 1}.get(source, -1)
    is_before = 0 <= read < k or source == "current"
    return read if is_before and stages[read].tickets else None


def repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
