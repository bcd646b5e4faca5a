"""The published weights that rlloop knows by name, and where they lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path

FILES = {
    "fluxaudio_s_44k_gclef": "gclef_crpoA_fluxaudio_s.pt",
    "vae_16k": "v1-16.pth",
    "vae_44k": "v1-44.pth",
    "bigvgan_16k": "best_netG.pt",
    "bigvgan_v2_44k": "bigvgan_generator.pt",
    "flan_t5_large": "",
    "clap_conditioning": "music_speech_audioset_epoch_15_esc_89.98.pt",
    "clap_scoring": "music_audioset_epoch_15_esc_90.14.pt",
    "roberta_base": "",
    "mert_v1_330m": "",
    "tunejury": "tunejury.pt",
    "demucs_mdx_extra": "",
}


def root() -> Path:
    """The folder of all weights: $RLLOOP_WEIGHTS, else ~/.cache/rlloop/weights."""
    return Path(os.environ.get("RLLOOP_WEIGHTS") or Path.home() / ".cache" / "rlloop" / "weights")


def resolve(name_or_path: str | Path) -> Path:
    """An existing path as it is, else the local file or folder of a catalogue name.

    Raises:
        ValueError: neither, or not fetched yet; says what to do.
    """
    path = Path(name_or_path)
    if path.exists():
        return path
    name = str(name_or_path)
    if name not in FILES:
        raise ValueError(f"{name} is neither an existing path nor a known name; known are {', '.join(FILES)}")
    local = root() / name / FILES[name]
    if not local.exists():
        raise ValueError(
            f"weights {name} are not at {local}; `rlloop weights fetch {name}`, or without internet "
            "`rlloop weights import FOLDER`"
        )
    return local
