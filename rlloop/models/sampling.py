"""How latents are drawn from a FluxAudio network: the settings, and the velocity that they make of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rlloop.flow.guidance import Schedule, annealed, constant, interval, scheduled_guidance
from rlloop.flow.solver import Velocity, euler, heun
from rlloop.models.fluxaudio import Conditions, FluxAudio

SOLVERS = {"euler": euler, "heun": heun}


@dataclass(frozen=True)
class SamplingSettings:
    """How latents are drawn: guidance is the joint CFG weight, below 1 only the conditional branch runs.

    `score` None samples without one; `negative_prompt` "" takes the stored empty features; `prompt_prefix` goes before
    every prompt, not before the negative one. `guidance_end` anneals the weight to that value at t = 0,
    `guidance_interval` (low, high) guides for t in it only, `crossover_t` hands over to a second network at that t.
    """

    solver: str = "euler"
    num_steps: int = 12
    guidance: float = 3.0
    guidance_end: float | None = None
    guidance_interval: tuple[float, float] | None = None
    score: float | None = 1.5
    prompt_prefix: str = ""
    negative_prompt: str = ""
    crossover_t: float | None = None

    @property
    def schedule(self) -> Schedule:
        """Guidance weight by t.

        Raises:
            ValueError: a guidance interval that is none.
        """
        weight = constant(self.guidance) if self.guidance_end is None else annealed(self.guidance, self.guidance_end)
        return weight if self.guidance_interval is None else interval(weight, *self.guidance_interval)

    @property
    def is_guided(self) -> bool:
        """Whether the negative branch runs at any t."""
        return max(self.guidance, self.guidance_end or 0.0) >= 1


def guided_velocity(
    network: FluxAudio,
    predict: Callable[..., Tensor],
    positive: Mapping[str, Tensor],
    negative: Mapping[str, Tensor] | None,
    settings: SamplingSettings,
) -> Velocity:
    """Velocity of a network under its guidance schedule; the text of both branches is projected here, once.

    Args:
        predict: `network.predict_flow`, or that compiled.
        positive: features of B prompts, {"text" [B, M, text_dim], "text_c" [B, text_c_dim]}, on any device.
        negative: of the one negative prompt; None takes the empty features that the network stores.
    Returns:
        a velocity of float32 x [B, L, D] in float32, whatever the dtype of the network's weights.
    Raises:
        ValueError: a score for a network that takes none, or a guidance interval that is none.
    """
    if settings.score is not None and network.spec.score_variant is None:
        raise ValueError(f"score is {settings.score}, but the network takes none; set it to null")
    weights, size = network.t_embed.mlp[0].weight, len(positive["text"])

    def features(of: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return of["text"].to(weights), of["text_c"].to(weights)

    def branch(cond: Conditions, score: Tensor) -> Velocity:
        return lambda x, t: predict(x.to(weights.dtype), t, cond, score).float()

    cond = network.preprocess_conditions(*features(positive))
    score = torch.full((size,), torch.nan if settings.score is None else settings.score, device=weights.device)
    if not settings.is_guided:
        return branch(cond, score)
    empty = {"text": network.empty_string_feat[None], "text_c": network.empty_string_feat_c[None]}
    null = network.get_empty_conditions(size, features(negative or empty))
    both = Conditions(*(torch.cat(pair) for pair in zip(cond, null, strict=True)))
    scores = torch.cat([score, torch.full_like(score, torch.nan)])
    return scheduled_guidance(branch(cond, score), branch(both, scores), settings.schedule)
