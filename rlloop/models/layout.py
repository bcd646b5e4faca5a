"""The layouts in which FluxAudio weights are published (reference.md section 7), and what a foreign file looks like."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rlloop.models.fluxaudio import FluxAudioSpec
from rlloop.models.latent_statistics import RATES
from rlloop.models.transformer import glu_width

WRAPPERS = {"weights": "the weights of a training checkpoint", "state_dict": "a state dict in a wrapper"}
PREFIXES = ("module.", "_orig_mod.", "ema_model.")
RECOMPUTED = ("t_embed.freqs", "latent_rot", "text_rot")  # stored by old versions, computed here (section 2.7)
FRAMES = {20: 312, 40: 430}  # latents of ten seconds by channels (section 2.1)

# What else is published beside the networks: the beginning of a key, and whose it is.
OTHERS = (
    ("data_mean", "the mel autoencoder (VAE)"),
    ("generator", "a vocoder"),
    ("ups.", "a vocoder"),
    ("conv_pre.", "a vocoder"),
    ("net.0.", "a TuneJury head"),
    ("score.0.", "a TuneJury head"),
    ("text_branch.", "a CLAP model"),
    ("audio_branch.", "a CLAP model"),
    ("encoder.block.", "a T5 encoder"),
    ("shared.weight", "a T5 encoder"),
    ("encoder.layers.", "a MERT model"),
    ("ema_models.", "the EMA part of a training checkpoint, which is not a network yet"),
)
FIRST = "audio_input_proj.0.weight"


def unwrap(path: Path, found: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str], str]:
    """The tensors of a network, wherever the file holds them.

    Returns:
        tensors by key without prefixes; keys beside them that are no tensors; the layout in words.
    Raises:
        ValueError: the file is something else, and what it looks like.
    """
    layout = "a plain state dict"
    while (name := next((name for name in WRAPPERS if isinstance(found.get(name), Mapping)), None)) is not None:
        layout = WRAPPERS[name]
        if isinstance(found.get("it"), int):
            layout += f" at iteration {found['it']}"
        found = found[name]
    state = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    others = [key for key in found if key not in state]
    while (prefix := common_prefix(state)) is not None:
        layout += f", prefix {prefix}"
        loose = [key for key in state if not key.startswith(prefix)]
        others += loose
        state = {key.removeprefix(prefix): value for key, value in state.items() if key not in loose}
    refuse_others(path, [*state, *others])
    return state, others, layout


def common_prefix(state: Mapping[str, Tensor]) -> str | None:
    """The wrapper's prefix that all keys bear, but for the bookkeeping that an EMA keeps beside its model."""
    keys = [key for key in state if not key.startswith(("_extra_state", "initted", "step"))]
    return next((prefix for prefix in PREFIXES if keys and all(key.startswith(prefix) for key in keys)), None)


def refuse_others(path: Path, keys: list[str]) -> None:
    """Says what a file looks like that is no FluxAudio network.

    Raises:
        ValueError: it is none; names the key that shows it.
    """
    embedded = next((key for key in keys if key.startswith("r_embed.")), None)
    if embedded is not None:
        raise ValueError(f"{path}: {embedded} shows a MeanAudio network (two time embeddings), expected FluxAudio")
    if FIRST in keys:
        return
    for beginning, what in OTHERS:
        shown = next((key for key in keys if key.startswith(beginning)), None)
        if shown is not None:
            raise ValueError(f"{path}: {shown} shows {what}, expected a FluxAudio network (no {FIRST} here)")
    first = next(iter(keys), "nothing")
    raise ValueError(f"{path}: {FIRST} is missing, so it is no FluxAudio network; its first key is {first}")


def derive_spec(path: Path, state: Mapping[str, Tensor], latent_seq_len: int | None = None) -> FluxAudioSpec:
    """Sizes from shapes, without the score path; rotary positions are assumed, as no key tells.

    Raises:
        ValueError: a key that tells a size is missing or misshapen, or the length of the latents is told by nothing.
    """

    def shape(key: str, dims: int) -> tuple[int, ...]:
        if key not in state:
            raise ValueError(f"{path}: {key} is missing; every FluxAudio network has it")
        if state[key].dim() < dims or not state[key].numel():
            raise ValueError(f"{path}: {key} has shape {tuple(state[key].shape)}, expected {dims} dimensions")
        return tuple(state[key].shape)

    hidden, latent_dim, io_kernel = shape(FIRST, 3)[:3]
    (head_dim,) = shape("joint_blocks.0.latent_block.attn.q_norm.weight", 1)[-1:]
    if hidden % head_dim:
        raise ValueError(f"{path}: {FIRST} has {hidden} rows, which is no multiple of the head size {head_dim}")
    fused = blocks(state, "fused_blocks")
    return FluxAudioSpec(
        num_heads=hidden // head_dim,
        head_dim=head_dim,
        depth=blocks(state, "joint_blocks") + fused,
        fused_depth=fused,
        mlp_ratio=mlp_ratio(hidden, shape("audio_input_proj.2.w1.weight", 3)[0]),
        latent_dim=latent_dim,
        latent_seq_len=latent_frames(path, state, latent_dim, latent_seq_len),
        text_dim=shape("text_input_proj.0.weight", 2)[1],
        text_c_dim=shape("text_cond_proj.0.weight", 2)[1],
        text_seq_len=shape("empty_string_feat", 2)[-2],
        io_kernel=io_kernel,
        block_kernel=shape("joint_blocks.0.latent_block.linear1.weight", 3)[2],
    )


def blocks(state: Mapping[str, Tensor], name: str) -> int:
    """One more than the highest index under `name`."""
    numbers = (key.split(".")[1] for key in state if key.startswith(f"{name}."))
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)


def mlp_ratio(hidden: int, width: int) -> float:
    """A ratio that gives this width of the feed-forward; the published 4 where it does."""
    return 4.0 if glu_width(hidden, 4.0) == width else 1.5 * width / hidden


def latent_frames(path: Path, state: Mapping[str, Tensor], latent_dim: int, given: int | None) -> int:
    """Length of the latents: as given, of a stored rotary table, or of ten seconds at the rate of the channels.

    Raises:
        ValueError: none of the three.
    """
    if given is not None:
        return given
    if "latent_rot" in state:
        return state["latent_rot"].shape[1]
    if latent_dim not in FRAMES:
        raise ValueError(
            f"{path}: latent_mean has {latent_dim} channels, no published rate (20: 16 kHz, 40: 44.1 kHz); pass "
            "latent_seq_len"
        )
    return FRAMES[latent_dim]


def sizes(spec: FluxAudioSpec) -> str:
    """A specification in a few words."""
    size = {7: "S", 14: "L"}.get(spec.num_heads, "?") if spec.head_dim == 64 else "?"
    name = "a network" if size == "?" else f"FluxAudio-{size}"
    rate = RATES.get(spec.latent_dim, "an unpublished rate")
    return (
        f"{name} at {rate} (width {spec.hidden}, {spec.depth - spec.fused_depth} joint and {spec.fused_depth} fused "
        f"blocks, {spec.latent_dim} latent channels)"
    )
