"""The official FluxAudio stack: network, mel autoencoder and BigVGAN from published checkpoints (reference.md 1)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlloop.models import fluxaudio
from rlloop.models.autoencoder import Autoencoder
from rlloop.models.bigvgan import BIGVGAN_16K, BIGVGAN_44K, BigVGAN, BigVGANSpec, load_bigvgan
from rlloop.models.checkpoint import load_network
from rlloop.models.fluxaudio import FluxAudio
from rlloop.models.mel import MEL_16K, MEL_44K
from rlloop.models.policy import FluxAudioGenerator, GeneratorSpec, build_autoencoder
from rlloop.models.prompt_table import PromptTable
from rlloop.models.scratch import SCRATCH, untrained
from rlloop.weights import check_tensors, read_checkpoint, resolve

log = logging.getLogger(__name__)

FLUXAUDIO_S_16K = GeneratorSpec(fluxaudio.FLUXAUDIO_S_16K, MEL_16K, autoencoder_width=384, clip_seconds=10.0)
FLUXAUDIO_S_44K = GeneratorSpec(fluxaudio.FLUXAUDIO_S_44K, MEL_44K, autoencoder_width=512, clip_seconds=10.0)
FLUXAUDIO_L_16K = replace(FLUXAUDIO_S_16K, network=fluxaudio.FLUXAUDIO_L_16K)
FLUXAUDIO_L_44K = replace(FLUXAUDIO_S_44K, network=fluxaudio.FLUXAUDIO_L_44K)


@dataclass(frozen=True)
class Mode:
    """What a sample rate fixes; whether a network is S or L its checkpoint tells."""

    name: str
    spec: GeneratorSpec
    vocoder: BigVGANSpec


MODES = {"16k": Mode("16k", FLUXAUDIO_S_16K, BIGVGAN_16K), "44k": Mode("44k", FLUXAUDIO_S_44K, BIGVGAN_44K)}


def build_official(
    network: str,
    autoencoder: str,
    vocoder: str,
    prompts: str,
    *,
    mode: str | Mode = "44k",
    variant: str | None = None,
    crossover: str | None = None,
    decode_batch: int = 4,
) -> FluxAudioGenerator:
    """The stack as it is trained: float32 on the CPU.

    Args:
        network, autoencoder, vocoder: checkpoints, as paths or names of `rlloop weights list`; network may be
            "scratch", an untrained one.
        prompts: folder that `rlloop features` filled.
        mode: "16k" or "44k"; or sizes of one's own.
        variant: score variant of the forward pass; None takes the default of `load_network`.
        crossover: checkpoint of the network that takes over at `sampling.crossover_t`.
        decode_batch: clips that are decoded at once.
    Raises:
        ValueError: a part is missing, unreadable or not of the mode's rate; one line that names the file.
    """
    mode, table = choose_mode(mode), PromptTable(Path(prompts))
    first = untrained(mode.spec.network, variant, table) if network == SCRATCH else open_network(network, mode, variant)
    return FluxAudioGenerator(
        replace(mode.spec, network=first.spec),
        first,
        open_autoencoder(autoencoder, mode),
        open_vocoder(vocoder, mode),
        table.encode,
        decode_batch=decode_batch,
        second=open_network(crossover, mode, variant) if crossover else None,
    )


def official_generator(
    network: str,
    autoencoder: str,
    vocoder: str,
    prompts: str,
    *,
    dtype: str = "float32",
    compile: bool = False,
    device: str = "auto",
    tf32: bool = False,
    **options: Any,
) -> FluxAudioGenerator:
    """The stack placed for sampling: `build_official`, then `FluxAudioGenerator.place`, which see."""
    generator = build_official(network, autoencoder, vocoder, prompts, **options)
    return generator.place(dtype=dtype, compile=compile, device=device, tf32=tf32)


def choose_mode(mode: str | Mode) -> Mode:
    """The mode of a name.

    Raises:
        ValueError: there is none of that name.
    """
    if isinstance(mode, Mode):
        return mode
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is not one of {', '.join(MODES)}")
    return MODES[mode]


def open_network(name: str, mode: Mode, variant: str | None) -> FluxAudio:
    """Loads a network of the mode's rate and logs what its loader mapped, left out and found odd."""
    path = resolve(name)
    network, report = load_network(path, variant=variant, latent_seq_len=mode.spec.network.latent_seq_len)
    for line in report.describe():
        log.info(line)
    for line in report.warnings:
        log.warning("%s: %s", path, line)
    found, expected = network.spec.latent_dim, mode.spec.network.latent_dim
    if found != expected:
        rate = next((m.name for m in MODES.values() if m.spec.network.latent_dim == found), "another rate")
        raise ValueError(
            f"{path}: this network is of {rate} ({found} latent channels), but mode {mode.name} has {expected}; choose "
            "network, autoencoder, vocoder and mode of one rate"
        )
    return network


def open_autoencoder(name: str, mode: Mode) -> Autoencoder:
    """Loads an autoencoder of the mode's rate, encoder included, raw weights as published."""
    path = resolve(name)
    state = read_checkpoint(path)
    with torch.device("meta"):
        model = build_autoencoder(mode.spec)
    refuse_other_rate(path, "autoencoder", mel_bands(state), mode)
    check_tensors(path, state, model.state_dict())
    model.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    return model


def open_vocoder(name: str, mode: Mode) -> BigVGAN:
    """Loads a vocoder of the mode's rate."""
    path = resolve(name)
    try:
        return load_bigvgan(path, mode.vocoder)
    except ValueError:
        refuse_other_rate(path, "vocoder", mel_bands(read_checkpoint(path)), mode)
        raise


def refuse_other_rate(path: Path, what: str, found: int | None, mode: Mode) -> None:
    """
    Raises:
        ValueError: a part hears another number of mel bands than the mode has.
    """
    expected = mode.spec.mel.num_mels
    if found is not None and found != expected:
        rate = next((m.name for m in MODES.values() if m.spec.mel.num_mels == found), "another rate")
        raise ValueError(
            f"{path}: this {what} is of {rate} ({found} mel bands), but mode {mode.name} has {expected}; choose "
            "network, autoencoder, vocoder and mode of one rate"
        )


def mel_bands(checkpoint: Mapping[str, Any]) -> int | None:
    """Mel bands of an autoencoder's or vocoder's checkpoint; None where nothing in it tells."""
    state = checkpoint.get("generator", checkpoint)
    for key, value in state.items() if isinstance(state, Mapping) else ():
        is_told = key == "data_mean" or key.startswith("conv_pre.")
        if is_told and isinstance(value, Tensor) and value.dim() == 3 and value.shape[1] > 1:
            return value.shape[1]
    return None
