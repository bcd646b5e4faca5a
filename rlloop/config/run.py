"""One run: the sections together, what follows from them, and what of them decides the results."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import yaml
from pydantic import ByteSize, Field, ValidationError, model_validator

from rlloop.config.rewards import RewardEntry, Scorer, plain_rewards
from rlloop.config.sections import Generator, Role, Sampler, Sampling, Section
from rlloop.config.targets import StepEntry
from rlloop.config.training import Stage, Trainer


class Loop(Section):
    """How far samplers may run ahead, and when waiting ends."""

    max_staleness: int = Field(1, ge=0, description="versions that a rollout may lag; 0 is synchronous and on-policy")
    max_attempts: int = Field(3, ge=1, description="attempts of a ticket before it counts as failed")
    segment_slots: int = Field(512, ge=8, description="slots of one Ray Data execution")
    tickets_per_slot: int = Field(
        1,
        ge=1,
        description="tickets that pass the pools as one, at most: 8 where a ticket takes a second or less, or beyond "
        "32 samplers; fewer towards the end of a cohort",
    )
    wait_timeout_s: float = Field(120.0, gt=0, description="deadline of waits between processes")
    stall_timeout_s: float = Field(900.0, gt=0, description="no commit and no step for so long ends the run")
    start_timeout_s: float = Field(
        1800.0, gt=0, description="the same before the first of a start: nodes come up, models load"
    )
    copy_every_s: float = Field(60.0, gt=0, description="how old the copy at a run_dir that is a URI may grow")
    max_buffer_bytes: int = Field(2 * 2**30, ge=2**20, description="bound on what the buffer may have to hold")


class Limits(Section):
    """Bytes, as a number or as 8GiB, that a run of any length stays below; what cannot fit is refused at its start."""

    min_free_disk: ByteSize | None = Field(
        None, description="less than this free where the run lives ends it; null: one more checkpoint and 64 MiB"
    )
    rollouts: ByteSize = Field(
        ByteSize(8 * 2**30), description="rollouts on disk; kept are those that a phase, the report or a restart reads"
    )
    checkpoints: ByteSize = Field(ByteSize(128 * 2**30), description="checkpoints and stored averages")
    audio: ByteSize = Field(
        ByteSize(2**30),
        description="clips in audio/, and as many again in the event files; the oldest go first, never those of "
        "version 0, of ends of stages, of the best version and of the newest",
    )
    journal: ByteSize = Field(ByteSize(4 * 2**30), description="the journal with its archive, which keeps every record")
    journal_tail: ByteSize = Field(
        ByteSize(4 * 2**20), ge=2**10, description="records since the last snapshot, which a restarted buffer reads"
    )
    object_store: ByteSize | None = Field(
        None,
        ge=80 * 2**20,
        description="Ray's object store on this machine (a cluster has its own); null: Ray's choice",
    )
    spill: ByteSize = Field(
        ByteSize(16 * 2**30), description="objects that Ray writes to the disk of the driver's node; more ends the run"
    )


class Alarm(Section):
    """What happens when the reward rises while a held-out judge falls over several evaluations."""

    judges: list[str] | None = Field(
        None,
        description="evaluation.scores that no stage ranks by or trains with, or frechet_mini, or fad_clap with "
        "fad_reference; null: all there are",
    )
    action: Literal["warn", "stop", "rollback"] = Field(
        "warn", description="stop ends the run; rollback also names the version that the judge liked best its result"
    )
    # bench/alarm.md: the rates on null curves are near the level, so this keeps them below 5 % with their intervals.
    level: float = Field(0.03, gt=0, lt=1, description="bound on the chance of a false alarm in a whole run")
    window: int = Field(4, ge=3, description="evaluations of the short span, which sees a judge fall that had risen")


class Evaluation(Role):
    """Fixed (prompt, seed) pairs, scored with a pinned version; nothing here is ever selected or trained on."""

    num_actors: Literal[1] = Field(1, description="always one")
    num_prompts: int = Field(20, ge=1, description="held-out prompts")
    seeds_per_prompt: int = Field(3, ge=1, description="clips of each held-out prompt")
    batch: int = Field(6, ge=1, description="clips per forward batch")
    scores: list[RewardEntry] = Field(
        default_factory=lambda: plain_rewards("tunejury_mini", "alignment_mini", "judge_mini"),
        description="as scorer.rewards; the name of one there means that one, with its options",
        min_length=1,
    )
    in_between: bool = Field(True, description="also evaluate versions between the required ones when free")
    fad_reference: str | None = Field(
        None,
        description="FAD-CLAP from this: a file that `rlloop evaluate CLIPS --reference FOLDER --embedding clap` "
        "leaves in its --cache",
    )
    audio_clips: int = Field(4, ge=0, description="held-out prompts whose audio is kept at every evaluation")
    alarm: Alarm = Field(default_factory=Alarm, description="of held-out judges")
    sampling: Sampling = Field(default_factory=Sampling)


class Config(Section):
    """One run. `python -m rlloop.main --dry-run` prints it resolved."""

    seed: int = Field(0, ge=0, description="decides prompts, noise, dropout and order")
    run_dir: str | None = Field(
        None,
        description="where the run lives, or the URI of its copy; default $RLLOOP_RUNS or runs/, plus the preset",
    )
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
    limits: Limits = Field(default_factory=Limits)
    stages: list[Stage] = Field(default_factory=lambda: [Stage(name="expert_iteration")], min_length=1)
    postprocess: list[StepEntry] = Field(
        default_factory=list, description="what `rlloop generate` does to a clip, in order: demucs, loudness, or own"
    )

    @model_validator(mode="after")
    def _check(self) -> Config:
        from rlloop.config.checks import cross_checks

        for problem in cross_checks(self):
            raise ValueError(problem)
        return self

    def judges(self) -> list[str]:
        """Names of the held-out judges that the alarm watches."""
        if self.evaluation.alarm.judges is not None:
            return list(self.evaluation.alarm.judges)
        from rlloop.config.judges import trained_scores

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
        decisive = self.model_dump(
            mode="json", exclude={"run_dir", "corpus", "limits", "postprocess"}
        )  # a corpus has an identity of its own
        for phase in [phase for stage in decisive["stages"] for phase in stage["phases"]]:
            phase.pop("micro_batch_size")
        for key in ("compile", "device"):
            decisive["generator"].pop(key)
        for key in ("num_cpus", "num_gpus", "num_workers", "min_workers", "node"):
            decisive["trainer"].pop(key)
        for key in ("max_failures", "keep_checkpoints", "checkpoint_minutes"):
            decisive["trainer"].pop(key)
        for key in ("wait_timeout_s", "stall_timeout_s", "start_timeout_s", "copy_every_s"):
            decisive["loop"].pop(key)
        for key in ("segment_slots", "tickets_per_slot", "max_buffer_bytes"):
            decisive["loop"].pop(key)
        for key in ("in_between", "audio_clips", "alarm"):
            decisive["evaluation"].pop(key)
        pools = decisive["scorer"].pop("pools")
        for role in (decisive["sampler"], decisive["scorer"], decisive["evaluation"], *pools.values()):
            for key in ("num_actors", "num_cpus", "num_gpus", "node", "autoscale"):
                role.pop(key, None)
        if pools:  # where a reward runs decides nothing, which threads it takes may
            decisive["scorer"]["pools"] = pools
        return hashlib.sha256(yaml.safe_dump(decisive, sort_keys=True).encode()).hexdigest()


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
