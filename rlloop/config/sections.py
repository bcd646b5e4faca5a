"""The parts of a configuration that say what runs where: generator, sampling, roles."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

NodeType = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]


class Section(BaseModel):
    """A part of the configuration: frozen; unknown keys and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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

    solver: Literal["euler", "heun"] = Field("euler", description="heun takes two network evaluations a step")
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

    num_actors: int = Field(1, ge=1, description="actors of this role")
    num_cpus: float = Field(0.25, ge=0, description="logical CPUs that each actor reserves")
    num_gpus: float = Field(0.0, ge=0, description="GPU share that each actor reserves")
    threads: int = Field(1, ge=1, description="torch threads inside each actor")
    node: NodeType | None = Field(
        None, description="type of node it runs on, a custom resource of Ray: those of cluster/; null: anywhere"
    )


class Autoscale(Section):
    """From how many actors to how many a pool may be scaled, and how often that is looked at."""

    min: int = Field(1, ge=1, description="never fewer actors")
    max: int = Field(ge=1, description="never more")
    every_s: float = Field(30.0, gt=0, description="seconds between observations; three that agree make a change")

    @model_validator(mode="after")
    def _check(self) -> Autoscale:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class Sampler(Role):
    """The pool that draws clips."""

    autoscale: Autoscale | None = Field(
        None, description="{min, max}: num_actors follows the idle shares of trainer and pools; null: it stays"
    )
    clips_per_prompt: int = Field(4, ge=1, description="clips of one ticket; they are one forward batch")
    target: str = Field(
        "rlloop.recipes.sampler:Sampler",
        description="what the sampler actors run: package.module:Class with the methods of this one",
    )
