"""What a golden case of each kind computes: one function a kind, from a `Case` to every array that its npz holds.

Each setting is the entry's; where the entry is silent, sizes follow from the shapes of the inputs, and the rest is the
published default. A new kind is one function and its line in KINDS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rlloop.algorithms.losses import crpo_loss, crpo_margin
from rlloop.evaluation.frechet import frechet_distance
from rlloop.models.autoencoder import Autoencoder
from rlloop.models.bigvgan import BIGVGAN_16K, BIGVGAN_44K, LEGACY_KEYS, BigVGAN
from rlloop.models.mel import MEL_16K, MEL_44K, LogMel, MelSettings
from rlloop.recipes.golden_case import Case, one_of
from rlloop.recipes.golden_fluxaudio import fluxaudio_forward, fluxaudio_sampling
from rlloop.rewards.tunejury import TuneJuryHead

MELS = {"16k": MEL_16K, "44k": MEL_44K}
VOCODERS = {"16k": BIGVGAN_16K, "44k": BIGVGAN_44K}
AUTOENCODER_WIDTHS = {"16k": 384, "44k": 512}
LATENT_DIMS = {"16k": 20, "44k": 40}
TUNEJURY_HIDDEN = (1024, 512, 256, 128)
MAX_STRIDE = 8


def autoencoder(case: Case) -> Mapping[str, Tensor]:
    """Posterior of a mel [B, M, F], and the mel decoded from latents z [B, Z, L]; or one of the two."""
    given = {name: case.input(name) for name in ("mel", "z") if case.has_input(name)}
    known = {name: value.shape[1] for name, value in given.items()}
    mode = case.setting("mode")
    module = Autoencoder(
        case.setting("num_mels", default=known.get("mel")) or one_of("mode", MELS, mode).num_mels,
        case.setting("latent_dim", default=known.get("z")) or one_of("mode", LATENT_DIMS, mode),
        case.setting("width") or one_of("mode", AUTOENCODER_WIDTHS, mode),
        case.setting("multipliers", default=(1, 2, 4)),
    )
    case.fill(module)
    outputs = {}
    if "mel" in given:
        outputs["mean"], outputs["std"] = module.encode(given["mel"])
    if "z" in given:
        outputs["decoded"] = module.decode(given["z"])
    return outputs


def vocoder(case: Case) -> Mapping[str, Tensor]:
    """Waveform [B, 1, T] of a log-mel [B, M, F]."""
    mel = case.input("mel")
    spec = case.settings(one_of("mode", VOCODERS, case.setting("mode")), num_mels=mel.shape[1])
    module = BigVGAN(spec)
    names = case.setting("weight_norm_keys")
    if names is not None and "weight" in names:
        module.fold_weight_norm()
    spelled = legacy_spelling if names is not None and "weight_g" in names else str
    own = {spelled(key).rpartition(".")[2] for key in module.state_dict()}
    if names is not None and own != set(names):
        raise ValueError(f"weight_norm_keys {sorted(names)} are not those of this vocoder, {sorted(own)}")
    return {"waveform": case.fill(module, spelled)(mel)[:, None]}


def legacy_spelling(key: str) -> str:
    """A key of weight norm as files spell it that were written before torch had parametrizations."""
    for old, new in LEGACY_KEYS.items():
        key = key.replace(new, old)
    return key


def mel(case: Case) -> Mapping[str, Tensor]:
    """Log-mels of a waveform [T] or [B, T] in both settings, or in the one that `mode` names.

    The lower rate takes every n-th sample: `stride`, else the first n that gives as many frames as are expected.
    """
    waveform = case.input("waveform")
    if not waveform.is_floating_point():
        said = re.search(r"divided by (\d+)", case.setting("waveform", default=""))
        waveform = waveform.float() / (int(said[1]) if said else 32768)
    mode, stride = case.setting("mode"), case.setting("stride")
    names = {f"mel_{of}": settings for of, settings in MELS.items()}
    if mode is not None:
        names = {"mel" if "mel" in case.arrays else f"mel_{mode}": one_of("mode", MELS, mode)}
    outputs = {}
    for name, settings in names.items():
        num_frames = case.arrays[name].shape[-1] if name in case.arrays else 0
        taken = waveform[..., :: stride or fitting_stride(settings, waveform.shape[-1], num_frames)]
        outputs[name] = LogMel(settings)(taken.reshape(-1, taken.shape[-1]))
    return outputs


def fitting_stride(settings: MelSettings, num_samples: int, num_frames: int) -> int:
    """The smallest stride at which so many samples make so many frames; 1 if none does."""
    strides = (n for n in range(1, MAX_STRIDE + 1) if settings.num_frames(-(-num_samples // n)) == num_frames)
    return next(strides, 1)


def tunejury_head(case: Case) -> Mapping[str, Tensor]:
    """Score of features a [B, D], and its margin over b."""
    a = case.input("a")
    hidden = case.setting("hidden", default=TUNEJURY_HIDDEN)
    widths = case.setting("widths", default=(case.setting("input", "input_dim", default=a.shape[-1]), *hidden, 1))
    prefix = case.setting("prefix", default="net").rstrip(".")
    head = case.fill(TuneJuryHead(tuple(widths)), lambda key: f"{prefix}.{key.removeprefix('net.')}")
    outputs = {"score": head(a)}
    return outputs | {"margin": head(a, case.input("b"))} if case.has_input("b") else outputs


def crpo(case: Case) -> Mapping[str, Tensor]:
    """Loss and margins of n pairs, of which the errors are given."""
    count = case.setting("n")
    errors = [case.input(name)[:count] for name in ("w", "l", "ref_w", "ref_l")]
    beta, lambda_fm = case.setting("beta", default=2000.0), case.setting("lambda_fm", default=1.0)
    return {
        "loss": crpo_loss(*errors, beta=beta, lambda_fm=lambda_fm),
        "inside": crpo_margin(*errors, beta=beta),
    }


def frechet(case: Case) -> Mapping[str, Tensor]:
    """Distance between the first n embeddings gen [m, D] and ref [k, D]."""
    gen = case.input("gen")[: case.setting("n")]
    return {"fd": torch.tensor(frechet_distance(gen.numpy(), case.input("ref").numpy()), dtype=torch.float64)}


KINDS: dict[str, Callable[[Case], Mapping[str, Tensor]]] = {
    "fluxaudio_forward": fluxaudio_forward,
    "fluxaudio_euler": lambda case: fluxaudio_sampling(case, "euler"),
    "fluxaudio_heun": lambda case: fluxaudio_sampling(case, "heun"),
    "vae": autoencoder,
    "vocoder": vocoder,
    "mel": mel,
    "tunejury_head": tunejury_head,
    "crpo_loss": crpo,
    "frechet_distance": frechet,
}
