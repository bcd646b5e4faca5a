"""The kinds of golden cases that run FluxAudio: one velocity, or a sampling.

Sizes follow from the entry and from the shapes of the inputs; what neither says is that of FluxAudio-S.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from torch import Tensor

from rlloop.models.fluxaudio import FluxAudio, FluxAudioSpec
from rlloop.models.sampling import SOLVERS, SamplingSettings, guided_velocity
from rlloop.recipes.golden_case import Case, one_of
from rlloop.recipes.golden_rule import fill

HEADS = {"S": 7, "L": 14}


def fluxaudio_forward(case: Case) -> Mapping[str, Tensor]:
    """Velocity at x [B, L, D] and t [B], and some frames of x normalised and un-normalised."""
    x = case.input("x")
    features = prompt_features(case, len(x))
    network = fluxaudio(case, x, features)
    score = case.input("score") if case.has_input("score") else None
    outputs = {
        "velocity": network(x, case.input("t").reshape(-1).expand(len(x)), features, score),
        "normalized": network.normalise(x),
        "unnormalized": network.unnormalise(x),
    }
    for name in ("normalized", "unnormalized"):
        frames = case.arrays[name].shape[1] if name in case.arrays else None
        outputs[name] = outputs[name][:, :frames]
    return outputs


def fluxaudio_sampling(case: Case, solver: str) -> Mapping[str, Tensor]:
    """Normalised latents from noise x0 [B, L, D] under guidance."""
    x0 = case.input("x0")
    features = prompt_features(case, len(x0))
    network = fluxaudio(case, x0, features)
    settings = SamplingSettings(
        solver=case.setting("solver", "method", default=solver),
        num_steps=case.setting("steps", "num_steps", default=25),
        guidance=case.setting("cfg", "cfg_strength", "guidance", default=4.5),
        guidance_end=case.setting("guidance_end"),
        guidance_interval=case.setting("guidance_interval"),
        score=case.setting("score"),
    )
    velocity = guided_velocity(network, network.predict_flow, features, negative_features(case), settings)
    return {"latents": one_of("solver", SOLVERS, settings.solver)(velocity, x0, settings.num_steps)}


def fluxaudio(case: Case, x: Tensor, features: Mapping[str, Tensor]) -> FluxAudio:
    """The network whose size `heads`, `hidden` or `size` (S, L) give, for latents and text as long as the inputs."""
    head_dim = case.setting("head_dim", default=FluxAudioSpec.head_dim)
    hidden, heads = case.setting("hidden"), case.setting("heads", "num_heads")
    size, _ = case.setting("size"), case.setting("mode")  # the mode says nothing that the shape of x does not
    if heads is None and hidden is not None:
        heads = hidden // head_dim
    elif heads is None:
        heads = FluxAudioSpec.num_heads if size is None else one_of("size", HEADS, str(size).upper())
    elif hidden is not None:
        head_dim = hidden // heads
    spec = case.settings(
        FluxAudioSpec(),
        num_heads=heads,
        head_dim=head_dim,
        latent_dim=x.shape[-1],
        latent_seq_len=x.shape[1],
        text_seq_len=features["text"].shape[1],
        text_dim=features["text"].shape[-1],
        text_c_dim=features["text_c"].shape[-1],
    )
    return drawn_network(spec, case.salt, case.constants)


@lru_cache(maxsize=1)
def drawn_network(spec: FluxAudioSpec, salt: int, held: tuple[str, ...]) -> FluxAudio:
    """Neighbouring cases share a network: drawing one takes longer than running it."""
    return fill(FluxAudio(spec), salt, constants=held)


def prompt_features(case: Case, size: int) -> dict[str, Tensor]:
    """Text features for `size` clips; a single row serves all."""
    features = {name: case.input(name) for name in ("text", "text_c")}
    for name, value in features.items():
        if len(value) not in (1, size):
            raise ValueError(f"{name} has {len(value)} rows for {size} clips, and the entry's rows select no others")
    return {name: value.expand(size, *value.shape[1:]) for name, value in features.items()}


def negative_features(case: Case) -> dict[str, Tensor] | None:
    """Features of the negative prompt among the inputs; None stands for the stored empty ones.

    Inputs are taken for it by their names: neg_text and neg_text_c, text_negative and text_c_negative, null_text ...
    """
    found = {}
    for name in case.inputs:
        parts = name.lower().split("_")
        if any(part.startswith(("neg", "null", "empty")) for part in parts):
            found["text_c" if "c" in parts else "text"] = name
    said = case.setting("negative")
    if len(found) == 2:
        return {name: case.input(of) for name, of in found.items()}
    if found or said is not None and "empty" not in str(said):
        raise ValueError(f"negative {said!r} is not understood; expected the empty features, or two inputs for it")
    return None
