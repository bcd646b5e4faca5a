"""Checks of the held-out judges: nothing is selected by them or trained with them, and their alarm can ring."""

from __future__ import annotations

from rlloop.config.run import Config, resolve_rewards

SET_JUDGES = ("frechet_mini", "fad_clap")  # they judge the clips of an evaluation as one set

ALARM_PROMPTS, ALARM_EVALUATIONS = 4, 3  # the least that rlloop.evaluation takes for a trend


def trained_scores(config: Config) -> set[str]:
    """Scores that some stage ranks by or trains with."""
    return {name for stage in config.stages for name in (*stage.selection.rank_by, stage.label_score)}


def judge_problems(config: Config) -> list[str]:
    """A judge is evaluated, and held out: nothing is selected by it or trained with it."""
    return [*named_judge_problems(config), *twin_problems(config), *silent_alarm_problems(config)]


def named_judge_problems(config: Config) -> list[str]:
    """Judges that the configuration names are there and are not used."""
    used, there = trained_scores(config), [reward.name for reward in config.evaluation.scores]
    problems = []
    for judge in config.evaluation.alarm.judges or ():
        if judge in used:
            problems.append(
                f"evaluation.alarm.judges: '{judge}' is ranked by or trained with in a stage; a judge is held out"
            )
        elif judge == "fad_clap" and not config.evaluation.fad_reference:
            problems.append("evaluation.alarm.judges: 'fad_clap' needs evaluation.fad_reference=FILE")
        elif judge not in (*there, *SET_JUDGES):
            problems.append(
                f"evaluation.alarm.judges: '{judge}' is not among evaluation.scores {there}; add it there, or name "
                f"{' or '.join(SET_JUDGES)}"
            )
    return problems


def twin_problems(config: Config) -> list[str]:
    """A reward under another name is no judge: one target with the same options gives the same scores."""
    used, judges = trained_scores(config), config.judges()
    trained = [reward for reward in config.scorer.all_rewards if reward.name in used]
    watched = [reward for reward in config.evaluation.scores if reward.name in judges]
    return [
        f"evaluation.scores: judge '{judge.name}' is {judge.target} with the options of '{reward.name}', which a stage "
        "ranks by or trains with; take it out, or name other judges in evaluation.alarm.judges"
        for judge in resolve_rewards(watched, config)
        for reward in trained
        if (judge.target, judge.options) == (reward.target, reward.options)
    ]


def silent_alarm_problems(config: Config) -> list[str]:
    """An alarm that is to end the run has to be able to ring."""
    evaluation, action = config.evaluation, config.evaluation.alarm.action
    if action == "warn":
        return []
    key, problems = f"evaluation.alarm.action is {action}", []
    reward = config.headline_score
    weight = min((stage.selection.rank_by.get(reward, 1.0) for stage in config.stages if stage.tickets), default=1.0)
    versions = sum(stage.generations for stage in config.stages)
    count = 1 + (versions if evaluation.in_between else len(config.stages))
    if not config.judges():
        problems.append(f"{key}, but no score of evaluation.scores is held out as a judge; add one, or set it to warn")
    if weight <= 0:
        problems.append(
            f"{key}; it asks whether '{reward}' rises, which a stage ranks by with weight {weight:g}: name a score "
            "with a weight above 0 first in rank_by, or set it to warn"
        )
    if evaluation.num_prompts < ALARM_PROMPTS:
        problems.append(
            f"{key}, which takes {ALARM_PROMPTS} held-out prompts; evaluation.num_prompts is {evaluation.num_prompts}: "
            "raise it, or set the action to warn"
        )
    if count < ALARM_EVALUATIONS:
        how = "true" if evaluation.in_between else "false"
        problems.append(
            f"{key}, which takes {ALARM_EVALUATIONS} evaluations; {count} are made of {versions} versions in "
            f"{len(config.stages)} stages with evaluation.in_between {how}: have more, or set the action to warn"
        )
    return problems
