"""What is trained and how: the trainer, and stages with their selections and phases of updates."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rlloop.config.sections import NodeType, Section


class Trainer(Section):
    """Ray Train workers, DeepSpeed inside."""

    num_workers: int = Field(1, ge=1, description="ranks of data parallelism")
    min_workers: int | None = Field(
        None,
        ge=1,
        description="below num_workers: go on with fewer when nodes vanish, grow when they return",
    )
    num_cpus: float = Field(0.5, ge=0, description="logical CPUs of each worker")
    num_gpus: float = Field(0.0, ge=0, description="GPUs of each worker")
    threads: int = Field(2, ge=1, description="torch threads of each worker")
    node: NodeType | None = Field(None, description="type of node that the workers run on; null: anywhere")
    zero_stage: Literal[1, 2] = Field(1, description="what ZeRO shards: optimizer states; 2: gradients too")
    weight_decay: float = Field(1e-6, ge=0, description="of AdamW")
    adam_betas: tuple[float, float] = Field((0.9, 0.95), description="of AdamW")
    adam_eps: float = Field(1e-8, gt=0, description="of AdamW")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16: autocast around the loss")
    ema_sigmas: list[Annotated[float, Field(gt=0, lt=0.28)]] = Field(
        default_factory=list, description="relative widths of the post-hoc EMA's tracks, two or more; empty: no EMA"
    )
    ema_every: int = Field(500, ge=1, description="updates between stored EMA snapshots")
    clip_grad_norm: float = Field(1.0, gt=0, description="a longer gradient is scaled down to this norm")
    checkpoint_every: int = Field(50, ge=1, description="updates between checkpoints inside a generation")
    checkpoint_minutes: float | None = Field(
        None, gt=0, description="also after so many minutes since the last one; null: by updates alone"
    )
    keep_checkpoints: int = Field(3, ge=1, description="newest checkpoints kept beside the stages' first and last")
    max_failures: int = Field(
        8, ge=0, description="restarts of the worker group that may come without a new checkpoint"
    )

    @model_validator(mode="after")
    def _check(self) -> Trainer:
        sigmas = self.ema_sigmas
        if sigmas and not 1 < len(set(sigmas)) == len(sigmas):
            raise ValueError(f"ema_sigmas is {sigmas}; expected two or more different widths, or [] for no EMA")
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers is {self.min_workers}, above num_workers {self.num_workers}; lower it")
        return self


class Phase(Section):
    """Updates at one learning rate on a mixture of selections."""

    updates: int = Field(60, ge=1, description="optimizer steps")
    learning_rate: float = Field(1e-4, gt=0, description="after warm-up")
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

    top_fraction: float = Field(0.1, gt=0, le=1, description="share of the ranked rollouts that is kept")
    per: Literal["cohort", "prompt"] = Field("cohort", description="rank over the whole cohort or inside each ticket")
    window: int = Field(0, ge=0, description="threshold from the quantile of the last N rollouts; 0: the cohort alone")
    min_examples: int = Field(1, ge=1, description="clips that a cohort has to give at least; a pair is two")
    on_too_few: Literal["stop", "skip"] = Field(
        "stop", description="below min_examples: end the run, or publish the next version with the same weights"
    )
    rank_by: dict[str, float] = Field(
        default_factory=lambda: {"tunejury_mini": 1.0},
        description="score name -> weight; several are blended as z-scores over the cohort",
        min_length=1,
    )


class Stage(Section):
    """A run of generations with one algorithm."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", description="what sources, overrides and tables call it")
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
