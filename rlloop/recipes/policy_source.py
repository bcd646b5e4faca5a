"""Which weights a command samples with: those of a run, of one of its checkpoints, of a file, or as shipped."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rlloop.config import Config
from rlloop.loop import checkpoints
from rlloop.loop.result import is_run, kept_versions, result_checkpoint
from rlloop.recipes.sampler import Sampler, network_arrays
from rlloop.weights import resolve


@dataclass(frozen=True)
class Policy:
    """Weights that are loaded over those that the generator is built with.

    `folder` is a checkpoint of the loop, `file` weights in a published layout; neither: as the generator is built.
    `identity` changes when the weights do, and not when they move.
    """

    described: str
    identity: str
    folder: str | None = None
    file: str | None = None
    version: int | None = None
    variant: str | None = None

    def load(self, sampler: Sampler) -> None:
        """Puts the weights into a sampler.

        Raises:
            ValueError: they are not of its network.
        """
        if self.folder:
            sampler.load(checkpoints.read_weights(Path(self.folder)), self.version or 0, self.variant)
        elif self.file:
            sampler.load(read_published(Path(self.file), sampler, self.variant), 0, self.variant)


def read_published(path: Path, sampler: Sampler, variant: str | None) -> dict[str, np.ndarray]:
    """A file as `rlloop weights export` writes it, under the names of the sampler's network.

    Raises:
        ValueError: it is no network, or of another size.
    """
    from rlloop.models.checkpoint import load_network
    from rlloop.models.fluxaudio import FluxAudio

    network = sampler.generator.network
    if not isinstance(network, FluxAudio):
        raise ValueError(
            f"{path}: the generator's network is a {type(network).__name__}; give --run a checkpoint of it"
        )
    return network_arrays(load_network(path, network.spec, variant=variant)[0])


def run_policy(run: Path, version: int | None) -> tuple[Config, Policy]:
    """The configuration and the weights of a run (its result where no version is named) or of a checkpoint's folder.

    Raises:
        ValueError: it is neither, is incomplete, or does not keep that version.
    """
    folder = run
    if is_run(run):
        folder = result_checkpoint(run) if version is None else checkpoints.folder(run, version)
        if version is not None and version not in kept_versions(run):
            raise ValueError(f"{run} keeps no version {version}; it keeps {sorted(kept_versions(run))}")
    elif not run.exists():
        raise ValueError(f"{run}: no such run; expected a run directory or one of its checkpoints")
    elif not (run / checkpoints.MARKER).is_file():
        raise ValueError(f"{run} is no run and no complete checkpoint; expected a folder with checkpoints/ (--run)")
    elif version is not None:
        raise ValueError(f"{run} is one checkpoint; --version goes with a whole run")
    marker = checkpoints.read_marker(folder)
    step = f", step {marker.step}" if marker.step else ""
    policy = Policy(
        f"{folder.parent.parent}, version {marker.version}{step}",
        f"checkpoint {marker.weights_checksum:08x} {marker.variant}",
        folder=str(folder.resolve()),
        version=marker.version,
        variant=marker.variant,
    )
    return run_config(folder.parent.parent), policy


def run_config(run: Path) -> Config:
    """The resolved configuration that a run stores.

    Raises:
        ValueError: it is missing or is none.
    """
    path = run / "config.json"
    try:
        return Config.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{run} is no run: it has no config.json; name a run directory") from None
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is no configuration of this version ({reason})") from None


def file_policy(name: str, config: Config) -> tuple[Config, Policy]:
    """Weights of a file or of a name of `rlloop weights list`; the official stack is built with them.

    Raises:
        ValueError: it is missing, or the JSON beside it is damaged.
    """
    path = resolve(name).resolve()
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder; --weights takes a file or a name of `rlloop weights list`, --run a folder"
        )
    variant = exported_variant(path)
    policy = Policy(name, f"file {checkpoints.file_checksum(path):08x} {variant}", file=str(path), variant=variant)
    if config.generator.target != "fluxaudio":
        return config, policy
    options = {**config.generator.options, "network": str(path), **({"variant": variant} if variant else {})}
    generator = config.generator.model_copy(update={"options": options})
    return config.model_copy(update={"generator": generator}), replace(policy, file=None)


def exported_variant(path: Path) -> str | None:
    """The score variant that the JSON beside an exported file names; None where there is no such JSON."""
    details = path.with_suffix(".json")
    if not details.is_file():
        return None
    try:
        found = json.loads(details.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{details} is not JSON ({error}); it says what {path.name} is") from None
    network = found.get("network") if isinstance(found, dict) else None
    return network.get("score_variant") if isinstance(network, dict) else None


def built_policy(config: Config) -> Policy:
    """The generator as it is built: the bundled mini weights, or the files that its options name."""
    if config.generator.target == "mini":
        from rlloop.models.policy import ASSETS

        file = Path(config.generator.options.get("assets") or ASSETS) / "fluxaudio.safetensors"
        return Policy("the bundled mini weights", f"built {checkpoints.file_checksum(file):08x}")
    network = config.generator.options.get("network")
    if config.generator.target == "fluxaudio" and network and network != "scratch":
        return Policy(str(network), f"built {checkpoints.file_checksum(resolve(network)):08x}")
    return Policy(f"{config.generator.target}, as built", "built")
