"""A trained network back in the published layout: a flat torch state dict, and beside it what it is as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlloop.config import Config
from rlloop.loop import checkpoints
from rlloop.loop.result import is_run, result_checkpoint
from rlloop.models.checkpoint import LoadReport, export_state, load_network
from rlloop.models.fluxaudio import FluxAudioSpec
from rlloop.models.policy import MINI
from rlloop.recipes.disk import make_writable
from rlloop.weights import read_checkpoint, resolve

OURS = "ours"


@dataclass(frozen=True)
class Trained:
    """A file of weights and, where it is a checkpoint of a run, what that run says of it."""

    path: Path
    marker: checkpoints.Marker | None = None
    config: Config | None = None

    @property
    def spec(self) -> FluxAudioSpec | None:
        is_mini = self.config is not None and self.config.generator.target == "mini"
        return MINI.network if is_mini else None

    def option(self, name: str) -> Any:
        """What the run's generator was built with."""
        return self.config.generator.options.get(name) if self.config else None


def export(
    checkpoint: Path | str, out: Path, *, like: str | None = None, variant: str | None = None, frames: int | None = None
) -> list[str]:
    """Writes `out`, a flat state dict as the authors publish theirs, and `out` with the suffix .json.

    Args:
        checkpoint: a run (the version that is its result), one of its checkpoints, or a file of weights.
        like: checkpoint whose names and shapes are taken; None is the one that the run began with, "ours" none.
        variant: score variant; None is the run's, or what `load_network` takes.
        frames: latent frames; needed for weights of no published size that come without their run.
    Returns:
        lines that say what was written.
    Raises:
        ValueError: `out` exists, the checkpoint is incomplete or no network, or `like` is another kind of network.
    """
    details = out.with_suffix(".json")
    for path in (out, details):
        if path.exists():
            raise ValueError(f"{path} is there already; choose another name")
    make_writable(out.parent)
    trained = find(Path(checkpoint).expanduser())
    variant = variant or (trained.marker and trained.marker.variant) or trained.option("variant")
    network, report = load_network(trained.path, trained.spec, variant=variant, latent_seq_len=frames)
    origin = like or trained.option("network") or OURS
    state = export_state(network, None if origin == OURS else origin_of(origin, network.spec))
    write(out, state)
    details.write_text(json.dumps(describe(trained, report.spec, origin, state), indent=1) + "\n")
    return [
        f"{out}: {len(state)} tensors, {out.stat().st_size / 1e6:.1f} MB, named as in {origin}",
        f"{details}",
        f"taken from {trained.path}",
    ]


def find(path: Path) -> Trained:
    """The weights of a run, of a checkpoint folder, or of a file.

    Raises:
        ValueError: there are none, or the checkpoint's marker does not hold.
    """
    if is_run(path):
        path = result_checkpoint(path)
    if path.is_dir():
        marker = checkpoints.read_marker(path)
        config = path.parent.parent / "config.json"
        known = Config.model_validate(json.loads(config.read_text())) if config.is_file() else None
        return Trained(path / checkpoints.WEIGHTS, marker, known)
    return Trained(resolve(path))


def origin_of(name: str, spec: FluxAudioSpec) -> LoadReport:
    """How the checkpoint that training began with names its tensors.

    Raises:
        ValueError: it is not here, or of other sizes.
    """
    try:
        path = resolve(name)
    except ValueError as error:
        raise ValueError(f"{error}; or --like PATH, or --like {OURS} for our names") from None
    base, report = load_network(path, latent_seq_len=spec.latent_seq_len, variant=spec.score_variant)
    for key in ("num_heads", "head_dim", "depth", "fused_depth", "latent_dim", "text_dim", "text_c_dim"):
        if (theirs := getattr(base.spec, key)) != (own := getattr(spec, key)):
            raise ValueError(
                f"{path} has {key} {theirs}, the checkpoint {own}; give --like the one it was trained from"
            )
    return report


def write(out: Path, state: Mapping[str, Tensor]) -> None:
    """Writes, reads back and compares, and only then gives the name."""
    part = out.with_name(out.name + ".part")
    torch.save(dict(state), part)
    found = read_checkpoint(part)
    if found.keys() != state.keys() or any(not torch.equal(found[key], value) for key, value in state.items()):
        raise ValueError(f"{part} reads back different from what was written; check the disk")
    os.replace(part, out)


def describe(trained: Trained, spec: FluxAudioSpec, origin: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the file is, as plain data."""
    marker, config = trained.marker, trained.config
    return {
        "network": asdict(spec),
        "names_of": origin,
        "num_tensors": len(state),
        "num_values": sum(value.numel() for value in state.values()),
        "version": marker.version if marker else None,
        "step": marker.step if marker else None,
        "stage": marker.stage if marker else None,
        "config_digest": marker.config_digest if marker else None,
        "sampling": config.sampling.model_dump() if config else None,
    }
