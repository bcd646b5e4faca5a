"""The configuration: its schema with units, YAML presets, dotted overrides, and checks across fields.

Every field is documented beside it; an unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
)

SET_JUDGES = ("frechet_mini", "fad_clap")  # they judge the clips of an evaluation as one set
PRESETS = Path(__file__).resolve().parent.parent / "configs"


class Section(BaseModel):
    """A part of the configuration: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Generator(Section):
    """Which text-to-music model is improved."""

    target: str = Field(
        "mini",
        description="'mini' (bundled), 'fluxaudio' (official parts), or what builds one: package.module:function",
    )
    text_encoder: str = Field("auto", description="mini only: auto, words (fallback), or a folder with MiniLM")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments for the target")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="weights of the sampler's copy of the network")
    compile: bool = Field(False, description="torch.compile the sampler's network: minutes at its start, then faster")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="of the sampler; auto: CUDA where its role reserves a GPU and there is one"
    )
    tf32: bool = Field(False, description="CUDA may round the inputs of float32 products to TF32 in samplers")

    @property
    def placement(self) -> dict[str, Any]:
        """How a sampler's copy runs; the trained network stays float32 and uncompiled whatever these say."""
        return {"dtype": self.dtype, "compile": self.compile, "device": self.device, "tf32": self.tf32}


class Sampling(Section):
    """How latents are drawn: solver, guidance, conditioning score."""

    solver: Literal["euler", "heun"] = "euler"
    num_steps: int = Field(12, ge=1, description="solver steps from noise to data")
    guidance: float = Field(3.0, ge=0, description="CFG weight w; below 1 only the conditional branch runs")
    guidance_end: float | None = Field(
        None, ge=0, description="w at t = 0, reached linearly from t = 1; null: constant"
    )
    guidance_interval: tuple[float, float] | None = Field(None, description="[low, high]: guided for t in it only")
    score: float | None = Field(1.5, description="conditioning score s; null samples without one")
    prompt_prefix: str = Field("", description="goes before every prompt whose features are looked up")
    negative_prompt: str = Field("", description="prompt of the negative branch; empty uses the stored empty features")
    crossover_t: float | None = Field(
        None, ge=0, le=1, description="t from which the second network (generator.options.crossover) takes over"
    )

    @model_validator(mode="after")
    def _check(self) -> Sampling:
        if self.guidance_interval and not 0 <= self.guidance_interval[0] < self.guidance_interval[1] <= 1:
            raise ValueError(f"guidance_interval is {list(self.guidance_interval)}; expected 0 <= low < high <= 1")
        return self


class Role(Section):
    """Actors of one pool and what each takes."""

    num_actors: int = Field(1, ge=1)
    num_cpus: float = Field(0.25, ge=0, description="logical CPUs that each actor reserves")
    num_gpus: float = Field(0.0, ge=0, description="GPU share that each actor reserves")
    threads: int = Field(1, ge=1, description="torch threads inside each actor")


class Sampler(Role):
    clips_per_prompt: int = Field(4, ge=1, description="clips of one ticket; they are one forward batch")


class RewardEntry(Section):
    """A reward, in a configuration: its name alone, or a mapping where it takes options.

    A plain name is a built-in (`clap_score`) or a dotted path `package.module:Class`, whose scores go by the class.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", description="what its scores are called, in rank_by for example")
    target: str = Field(description="built-in name or package.module:name of a class or function; default: the name")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments for the target")

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"name": given.rsplit(":", 1)[-1], "target": given}
        return {"target": given.get("name"), **given} if isinstance(given, dict) else given

    @model_serializer(mode="wrap")
    def _contract(self, handler: SerializerFunctionWrapHandler) -> Any:
        return self.target if self.is_plain else handler(self)

    @property
    def is_plain(self) -> bool:
        return not self.options and self.name == self.target.rsplit(":", 1)[-1]


def plain_rewards(*names: str) -> list[RewardEntry]:
    return [RewardEntry.model_validate(name) for name in names]


class RewardPool(Role):
    """Actors that hold the same rewards."""

    rewards: list[RewardEntry] = Field(
        default_factory=lambda: plain_rewards("tunejury_mini", "alignment_mini"),
        description="names, dotted paths, or mappings of name, target and options",
        min_length=1,
    )


class Scorer(RewardPool):
    """The first pool of scorers; a reward that wants other machines or more actors gets a pool of its own."""

    pools: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$")], RewardPool] = Field(
        default_factory=dict, description="further pools: name -> rewards, num_actors, num_cpus, num_gpus, threads"
    )

    @property
    def all_pools(self) -> dict[str, RewardPool]:
        """Role name -> pool, in the order in which a ticket passes them."""
        return {"scorer": self, **{f"scorer_{name}": pool for name, pool in self.pools.items()}}

    @property
    def all_rewards(self) -> list[RewardEntry]:
        return [reward for pool in self.all_pools.values() for reward in pool.rewards]


class Trainer(Section):
    """Ray Train workers, DeepSpeed inside."""

    num_workers: int = Field(1, ge=1)
    num_cpus: float = Field(0.5, ge=0, description="logical CPUs of each worker")
    num_gpus: float = Field(0.0, ge=0, description="GPUs of each worker")
    threads: int = Field(2, ge=1, description="torch threads of each worker")
    zero_stage: Literal[1, 2] = 1
    weight_decay: float = Field(1e-6, ge=0)
    adam_betas: tuple[float, float] = (0.9, 0.95)
    adam_eps: float = Field(1e-8, gt=0)
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16: autocast around the loss")
    ema_sigmas: list[Annotated[float, Field(gt=0, lt=0.28)]] = Field(
        default_factory=list, description="relative widths of the post-hoc EMA's tracks, two or more; empty: no EMA"
    )
    ema_every: int = Field(500, ge=1, description="updates between stored EMA snapshots")
    clip_grad_norm: float = Field(1.0, gt=0)
    checkpoint_every: int = Field(50, ge=1, description="updates between checkpoints inside a generation")
    keep_checkpoints: int = Field(3, ge=1, description="newest checkpoints kept beside the stages' first and last")
    max_failures: int = Field(8, ge=0, description="restarts of the worker group before the run ends")

    @model_validator(mode="after")
    def _check(self) -> Trainer:
        sigmas = self.ema_sigmas
        if sigmas and not 1 < len(set(sigmas)) == len(sigmas):
            raise ValueError(f"ema_sigmas is {sigmas}; expected two or more different widths, or [] for no EMA")
        return self


class Phase(Section):
    """Updates at one learning rate on a mixture of selections."""

    updates: int = Field(60, ge=1, description="optimizer steps")
    learning_rate: float = Field(1e-4, gt=0)
    final_learning_rate: float | None = Field(None, ge=0, description="reached linearly at the end; null: constant")
    warmup: int = Field(0, ge=0, description="updates of linear warm-up")
    drop_at: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        default_factory=list, description="shares of the updates, counted from the end of warm-up, where the rate falls"
    )
    drop_factor: float = Field(0.1, gt=0, lt=1, description="what the rate is multiplied by at each of drop_at")
    batch_size: int = Field(16, ge=1, description="examples (pairs, where an algorithm takes pairs) of a global batch")
    micro_batch_size: int | None = Field(
        None, ge=1, description="examples of one forward pass of a worker, the rest accumulates; null: all at once"
    )
    sources: dict[str, float] = Field(
        default_factory=lambda: {"current": 1.0},
        description="corpus, current, previous, generation:K or stage:NAME (its last selection) -> weight",
    )
    weights_are: Literal["shares", "copies"] = Field(
        "shares", description="of sources: shares of the examples, or how often each row of a source is listed"
    )

    def rate(self, step: int) -> float:
        """Learning rate of update `step`, from 0: warm-up (n+1)/(W+1), then constant, linear or in drops.

        The published schedule counts its drops from the end of warm-up (reference.md section 7).
        """
        warm = min(1.0, (step + 1) / (self.warmup + 1))
        last = self.learning_rate if self.final_learning_rate is None else self.final_learning_rate
        falls = sum(step >= self.warmup + int(share * self.updates) for share in self.drop_at)
        return warm * self.drop_factor**falls * (self.learning_rate + (last - self.learning_rate) * step / self.updates)


class Selection(Section):
    """Which rollouts of a closed cohort are trained on."""

    top_fraction: float = Field(0.1, gt=0, le=1)
    per: Literal["cohort", "prompt"] = Field("cohort", description="rank over the whole cohort or inside each ticket")
    window: int = Field(0, ge=0, description="threshold from the quantile of the last N rollouts; 0: the cohort alone")
    min_examples: int = Field(1, ge=1, description="clips that a cohort has to give at least; a pair is two")
    on_too_few: Literal["stop", "skip"] = "stop"
    rank_by: dict[str, float] = Field(
        default_factory=lambda: {"tunejury_mini": 1.0},
        description="score name -> weight; several are blended as z-scores over the cohort",
        min_length=1,
    )


class Stage(Section):
    """A run of generations with one algorithm."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    algorithm: str = Field("expert_iteration", description="built-in name or dotted path package.module:Class")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments for the algorithm")
    generations: int = Field(1, ge=1, description="versions that this stage publishes")
    tickets: int = Field(40, ge=0, description="prompt groups of each generation; 0: it trains on what there is")
    phases: list[Phase] = Field(default_factory=lambda: [Phase()], description="none: the weights stay as they are")
    variant: Literal["v1", "v2", "v3", "v4", "v5"] | None = Field(
        None,
        description="score variant that the network goes over to, in a stage without tickets and phases",
    )
    selection: Selection = Field(default_factory=Selection)
    sampling_score: float | None = Field(None, description="conditioning score s of its tickets; null: sampling.score")
    text_drop: float = Field(0.1, ge=0, le=1, description="share of examples trained on the empty prompt")
    score_drop: float = Field(0.1, ge=0, le=1, description="share of examples trained without a score")
    score_drop_mode: Literal["independent", "tied", "batch"] = Field(
        "independent", description="of the text drop; tied: one draw decides both; batch: one draw for a whole step"
    )
    label_score: str = Field("tunejury_mini", description="the score that an example carries as its label")
    corpus_label: str | None = Field(None, description="its name in the corpus, where that is another")

    @property
    def label_in_corpus(self) -> str:
        return self.corpus_label or self.label_score


class Loop(Section):
    max_staleness: int = Field(1, ge=0, description="versions that a rollout may lag; 0 is synchronous and on-policy")
    max_attempts: int = Field(3, ge=1, description="attempts of a ticket before it counts as failed")
    segment_slots: int = Field(512, ge=8, description="slots of one Ray Data execution")
    wait_timeout_s: float = Field(120.0, gt=0, description="deadline of waits between processes")
    stall_timeout_s: float = Field(900.0, gt=0, description="no commit and no step for so long ends the run")
    max_buffer_bytes: int = Field(2 * 2**30, ge=2**20, description="bound on what the buffer may have to hold")


class Alarm(Section):
    """What happens when the reward rises while a held-out judge falls over several evaluations."""

    judges: list[str] | None = Field(
        None,
        description="evaluation.scores that no stage ranks by or trains with, or frechet_mini; null: all there are",
    )
    action: Literal["warn", "stop", "rollback"] = Field(
        "warn", description="stop ends the run; rollback also names the version that the judge liked best its result"
    )
    # bench/alarm.md: the rates on null curves are near the level, so this keeps them below 5 % with their intervals.
    level: float = Field(0.03, gt=0, lt=1, description="bound on the chance of a false alarm in a whole run")
    window: int = Field(4, ge=3, description="evaluations of the short span, which sees a judge fall that had risen")


class Evaluation(Role):
    """Fixed (prompt, seed) pairs, scored with a pinned version; nothing here is ever selected or trained on."""

    num_actors: Literal[1] = 1
    num_prompts: int = Field(20, ge=1, description="held-out prompts")
    seeds_per_prompt: int = Field(3, ge=1)
    batch: int = Field(6, ge=1, description="clips per forward batch")
    scores: list[RewardEntry] = Field(
        default_factory=lambda: plain_rewards("tunejury_mini", "alignment_mini", "judge_mini"),
        description="as scorer.rewards; the name of one there means that one, with its options",
        min_length=1,
    )
    in_between: bool = Field(True, description="also evaluate versions between the required ones when free")
    fad_reference: str | None = Field(
        None, description="FAD-CLAP from these: an entry of `rlloop evaluate --reference FOLDER --embedding clap`"
    )
    audio_clips: int = Field(4, ge=0, description="held-out prompts whose audio is kept at every evaluation")
    alarm: Alarm = Field(default_factory=Alarm)
    sampling: Sampling = Field(default_factory=Sampling)


class Config(Section):
    """One run. `python -m rlloop.main --dry-run` prints it resolved."""

    seed: int = Field(0, ge=0)
    run_dir: str | None = Field(None, description="where the run lives; default $RLLOOP_RUNS or runs/, plus the preset")
    prompts: str | None = Field(None, description="file of prompts to train on; default: the shipped ones")
    heldout_prompts: str | None = Field(None, description="file of prompts to evaluate on; default: the shipped ones")
    corpus: str | None = Field(
        None, description="folder of `rlloop data prepare`, or of npz files with npz.tsv; 'mini' is made when missing"
    )
    corpus_window: int = Field(2048, ge=1, description="rows of the corpus that are shuffled among each other")
    generator: Generator = Field(default_factory=Generator)
    sampling: Sampling = Field(default_factory=Sampling)
    sampler: Sampler = Field(default_factory=Sampler)
    scorer: Scorer = Field(default_factory=Scorer)
    trainer: Trainer = Field(default_factory=Trainer)
    evaluation: Evaluation = Field(default_factory=Evaluation)
    loop: Loop = Field(default_factory=Loop)
    stages: list[Stage] = Field(default_factory=lambda: [Stage(name="expert_iteration")], min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Config:
        for problem in cross_checks(self):
            raise ValueError(problem)
        return self

    def judges(self) -> list[str]:
        """Names of the held-out judges that the alarm watches."""
        if self.evaluation.alarm.judges is not None:
            return list(self.evaluation.alarm.judges)
        used = trained_scores(self)
        unused = [reward.name for reward in self.evaluation.scores if reward.name not in used]
        sets = {"frechet_mini": self.generator.target == "mini", "fad_clap": self.evaluation.fad_reference}
        return [*unused, *(name for name, has in sets.items() if has)]

    @property
    def headline_score(self) -> str:
        """The score that the run is about: what its first stage with tickets ranks by first, or its label."""
        ranked = [next(iter(stage.selection.rank_by)) for stage in self.stages if stage.tickets]
        return ranked[0] if ranked else self.stages[0].label_score

    def digest(self) -> str:
        """sha256 of what decides the results (not where the run lives or which resources it takes)."""
        decisive = self.model_dump(mode="json", exclude={"run_dir", "corpus"})  # the corpus has an identity of its own
        for phase in [phase for stage in decisive["stages"] for phase in stage["phases"]]:
            phase.pop("micro_batch_size")
        for key in ("compile", "device"):
            decisive["generator"].pop(key)
        for key in ("max_failures", "keep_checkpoints", "num_cpus", "num_gpus", "num_workers"):
            decisive["trainer"].pop(key)
        for key in ("segment_slots", "wait_timeout_s", "stall_timeout_s", "max_buffer_bytes"):
            decisive["loop"].pop(key)
        for key in ("in_between", "audio_clips", "alarm"):
            decisive["evaluation"].pop(key)
        pools = decisive["scorer"].pop("pools")
        for role in (decisive["sampler"], decisive["scorer"], decisive["evaluation"], *pools.values()):
            for key in ("num_actors", "num_cpus", "num_gpus"):
                role.pop(key, None)
        if pools:  # where a reward runs decides nothing, which threads it takes may
            decisive["scorer"]["pools"] = pools
        return hashlib.sha256(yaml.safe_dump(decisive, sort_keys=True).encode()).hexdigest()


def cross_checks(config: Config) -> list[str]:
    """Combinations that cannot work; each line names both numbers and what to change."""
    problems = []
    if len({stage.name for stage in config.stages}) < len(config.stages):
        problems.append("stages: two stages have one name; give each its own")
    scored, evaluated = config.scorer.all_rewards, config.evaluation.scores
    for key, rewards in (("scorer.rewards", scored), ("evaluation.scores", evaluated)):
        names = [reward.name for reward in rewards]
        problems += [f"{key}: two are named '{name}'; give each its own name" for name in repeated(names)]
    problems += crossover_problems(config)
    problems += judge_problems(config)
    first = 0
    for stage in config.stages:
        problems += stage_problems(config, stage)
        for number, phase in enumerate(stage.phases):
            where = f"stages.{stage.name}.phases.{number}"
            problems += [f"{where}: {problem}" for problem in phase_problems(config, stage, phase, first)]
        first += stage.generations
    return problems


def trained_scores(config: Config) -> set[str]:
    """Scores that some stage ranks by or trains with."""
    return {name for stage in config.stages for name in (*stage.selection.rank_by, stage.label_score)}


ALARM_PROMPTS, ALARM_EVALUATIONS = 4, 3  # the least that rlloop.evaluation takes for a trend


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


def score_name(reward: str | RewardEntry) -> str:
    """The name under which a reward's scores are kept: a built-in's own, or the class name of a dotted path."""
    return RewardEntry.model_validate(reward).name


def resolve_rewards(rewards: Sequence[str | RewardEntry], config: Config) -> list[RewardEntry]:
    """Rewards as they are built: a plain name of one of scorer.rewards takes that one's target and options.

    Raises:
        ValueError: one is neither a reward nor a name.
    """
    known = {reward.name: reward for reward in config.scorer.all_rewards}
    try:
        found = [RewardEntry.model_validate(reward) for reward in rewards]
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(
            f"reward {first.get('input')!r}: {first['msg']}; expected a name or package.module:name"
        ) from None
    return [known.get(r.name, r) if r.is_plain and r.target == r.name else r for r in found]


def repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def load(config: str | os.PathLike | None = None, overrides: list[str] | None = None) -> Config:
    """Reads a preset or file, applies `a.b=value` overrides, validates.

    Raises:
        ValueError: one line that says what was found, what was expected and what to change.
    """
    path = find_preset(config or "mini")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: holds a {type(raw).__name__}; expected a mapping such as 'seed: 0'")
    for override in overrides or []:
        apply_override(raw, override)
    return build(raw, source=str(path))


def build(raw: dict[str, Any], source: str = "configuration") -> Config:
    """Validates a plain mapping; turns pydantic's report into one line about the first problem."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ValueError(f"{source}: {explain(error)}") from None


def find_preset(config: str | os.PathLike) -> Path:
    """A path as given, or the name of a preset in configs/."""
    path = Path(config)
    for candidate in (path, PRESETS / path.name, PRESETS / f"{path.name}.yaml"):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))
    raise ValueError(f"no configuration file '{config}'; give a path or one of the presets: {known}")


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Sets `a.b.0.c=value` in the raw mapping; the value is read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ValueError(f"override '{override}' has no '='; expected key=value, as in sampler.num_actors=2")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        value = text
    here: Any = raw
    *parents, last = key.split(".")
    for depth, part in enumerate(parents):
        if isinstance(here, list):
            here = here[_index(here, part, key)]
        else:
            here = here.setdefault(part, {})
        if not isinstance(here, dict | list):
            raise ValueError(f"override '{override}': '{'.'.join(parents[: depth + 1])}' is a value, not a section")
    if isinstance(here, list):
        here[_index(here, last, key)] = value
    else:
        here[last] = value


def _index(items: list, part: str, key: str) -> int:
    """Position of `part` in a list of the configuration: a number, or the name of a stage."""
    named = [n for n, item in enumerate(items) if isinstance(item, dict) and item.get("name") == part]
    if named:
        return named[0]
    if part.isdigit() and int(part) < len(items):
        return int(part)
    raise ValueError(f"override '{key}': '{part}' is no position 0..{len(items) - 1} and no name in that list")


def explain(error: ValidationError) -> str:
    """The first problem of a pydantic report as one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = known_keys(first["loc"])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.3)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(sorted(known))}"
        return f"unknown key '{where}'; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message} (found {first.get('input')!r})" if where else message


def known_keys(loc: tuple[int | str, ...]) -> list[str]:
    """Field names of the section that a location of a pydantic report lies in."""
    section: Any = Config
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation
        section = next((a for a in getattr(annotation, "__args__", [annotation]) if _is_section(a)), annotation)
        if not _is_section(section):
            return []
    return list(section.model_fields)


def _is_section(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Section)
