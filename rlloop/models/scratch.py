"""The untrained network that the published SFT begins with (reference.md sections 1, 2.5 and 2.6)."""

from __future__ import annotations

from dataclasses import replace

import torch

from rlloop.models.fluxaudio import FluxAudio, FluxAudioSpec
from rlloop.models.latent_statistics import PUBLISHED
from rlloop.models.prompt_table import PromptTable

SCRATCH = "scratch"
SEED = 14159265  # the published one


def untrained(spec: FluxAudioSpec, variant: str | None, table: PromptTable) -> FluxAudio:
    """A network with drawn weights, published latent statistics and the table's features of the empty prompt.

    Args:
        variant: score variant; None is v1, as published.
    Raises:
        ValueError: no statistics are known for these latents, or the table lacks the empty prompt.
    """
    if spec.latent_dim not in PUBLISHED:
        raise ValueError(f"latent statistics are published for {list(PUBLISHED)} channels, these are {spec.latent_dim}")
    if table.missing([""]):
        raise ValueError(
            f"{table.folder} has no features of the empty prompt, which an untrained network takes as its null text; "
            "compute them: rlloop features PROMPTS --negative '' --out FOLDER"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = FluxAudio(replace(spec, score_variant=variant or "v1"))
    mean, std = PUBLISHED[spec.latent_dim]
    empty = table.encode([""])
    values = {"latent_mean": mean, "latent_std": std, "empty_string_feat": empty["text"][0]}
    values["empty_string_feat_c"] = empty["text_c"][0]
    for name, value in values.items():
        parameter = getattr(network, name)
        parameter.data.copy_(torch.as_tensor(value, dtype=torch.float32).reshape(parameter.shape))
    return network
