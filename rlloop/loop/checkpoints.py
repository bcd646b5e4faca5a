"""Checkpoints on disk: a folder of safetensors files, valid once its marker lists every file with size and checksum.

Life of a checkpoint: written by every rank -> marked by rank 0 -> loaded | superseded -> removed.
A checkpoint is named by (version, step): version k with 0 < step is inside generation k; step 0 is version k itself.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from rlloop.loop.files import as_kind, is_file_name, plain_file_size, read_json
from rlloop.loop.journal import sync_folder, write_durably
from rlloop.loop.points import POINTS, read_points
from rlloop.loop.snapshot import TrainPoint

log = logging.getLogger(__name__)
MARKER = "marker.json"
WEIGHTS = "weights.safetensors"
NAME = re.compile(r"v\d{6}-s\d{6}")
MAX_MARKER_BYTES = 2**20
BLOCK_BYTES = 1 << 15
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}


@dataclass(frozen=True)
class Marker:
    """What a checkpoint holds; written last. `files` maps a name to [bytes, crc32]."""

    version: int
    step: int
    stage: int
    config_digest: str
    world_size: int
    files: Mapping[str, tuple[int, int]]
    weights_checksum: int
    variant: str | None = None  # score variant that the stages gave the network; None is the generator's own


def folder(run_dir: Path, version: int, step: int = 0) -> Path:
    return run_dir / "checkpoints" / f"v{version:06d}-s{step:06d}"


def arrays_checksum(arrays: Mapping[str, np.ndarray]) -> int:
    """crc32 over names, shapes, types and the sums of blocks, in the order of names.

    Every sampler computes it for every version; over all bytes it would take several times as long as the sums do. It
    sees each changed bit, each block that is missing or elsewhere, and another version; the bytes on disk have file
    checksums of their own.
    """
    crc = 0
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        crc = zlib.crc32(f"{name}{array.shape}{array.dtype}".encode(), crc)
        crc = zlib.crc32(block_sums(array.reshape(-1).view(np.uint8)), crc)
    return crc


def block_sums(data: np.ndarray) -> bytes:
    """The sum of each whole block of 64-bit words, modulo 2**64, and the bytes behind the last one."""
    whole = len(data) // BLOCK_BYTES * BLOCK_BYTES
    return data[:whole].view(np.uint64).reshape(-1, BLOCK_BYTES // 8).sum(axis=1).tobytes() + data[whole:].tobytes()


def file_checksum(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            crc = zlib.crc32(chunk, crc)
    return crc


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes one safetensors file and syncs it to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, str(path))
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_marker(
    path: Path,
    *,
    version: int,
    step: int,
    stage: int,
    digest: str,
    world_size: int,
    weights_checksum: int,
    variant: str | None = None,
) -> Marker:
    """Lists the files of a complete checkpoint and marks it. Call after every rank has written its part."""
    names = sorted(p.name for p in path.iterdir() if p.name not in (MARKER, f"{MARKER}.tmp"))
    files = {name: ((path / name).stat().st_size, file_checksum(path / name)) for name in names}
    marker = Marker(version, step, stage, digest, world_size, files, weights_checksum, variant)
    for place in (path, path.parent, path.parent.parent):  # first what it vouches for: the files have their names
        sync_folder(place)
    # Whole or not there: half a marker of version 0 would be refused for ever. And there for good before the journal
    # says that this version is published.
    write_durably(path / MARKER, json.dumps(asdict(marker)).encode())
    return marker


def read_marker(path: Path) -> Marker:
    """The marker of a checkpoint whose files all agree with it.

    Raises:
        ValueError: no marker, or the first file that disagrees; one line.
    """
    marker = parse_marker(path)
    for name, (size, crc) in marker.files.items():
        check_file(path / name, size, crc)
    return marker


def check_file(part: Path, size: int, crc: int) -> None:
    """A file of a checkpoint is as its marker says.

    Raises:
        ValueError: it is not, or not there; one line.
    """
    found = plain_file_size(part)  # first: a size that is wrong costs no read
    if found != size:
        raise ValueError(f"{part}: has {found} bytes, its marker says {size}")
    try:
        checksum = file_checksum(part)
    except OSError as error:  # removed as an old one at this very moment
        raise ValueError(f"{part}: {error.strerror}") from None
    if checksum != crc:
        raise ValueError(f"{part}: fails its checksum {crc & 0xFFFFFFFF:08x}")


def parse_marker(path: Path) -> Marker:
    """The marker of a checkpoint, its files not looked at.

    Raises:
        ValueError: there is none, it is none of this project or of another folder, or lists what is no file of it.
    """
    where = path / MARKER
    if not os.path.lexists(where):
        raise ValueError(f"{path}: has no {MARKER}: it was never completed")
    found = read_json(where, MAX_MARKER_BYTES)
    if not isinstance(found, dict) or found.keys() - Marker.__dataclass_fields__.keys():
        raise ValueError(f"{where}: is no checkpoint marker of this project")
    marker = as_kind(Marker, found, f"{where}: is no checkpoint marker")
    if WEIGHTS not in marker.files:
        raise ValueError(f"{where}: lists no {WEIGHTS}; it is no checkpoint of this project")
    for name in marker.files:
        if not is_file_name(name):
            raise ValueError(f"{where}: lists {name!r}, which is no file of its folder")
    if NAME.fullmatch(path.name) and path.name != folder(path, marker.version, marker.step).name:
        raise ValueError(f"{where}: is of version {marker.version}, step {marker.step}, and does not belong here")
    return marker


def check_contents(path: Path, marker: Marker, own: Mapping[str, tuple[int, ...]] | None) -> None:
    """Whether what the checksums vouch for is what it should be: a marker can be right about a wrong file.

    Args:
        own: shapes of the run's network by name, as version 0 has them; None where they are not known.
    Raises:
        ValueError: a part that is no safetensors, or weights that are not finite, not those that were marked, or of
            another network.
    """
    for name in marker.files:
        if name.endswith(".safetensors") and name != WEIGHTS:
            shapes_of(path / name)
        elif name == POINTS:
            read_points(path)
    weights = read_weights(path)
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path / WEIGHTS}: '{name}' holds values that are not finite")
    for name in sorted({*own, *weights}) if own is not None else ():
        shape = weights[name].shape if name in weights else None
        if shape != own.get(name):
            raise ValueError(f"{path / WEIGHTS}: '{name}' has shape {shape}, this run's network {own.get(name)}")
    if (found := arrays_checksum(weights)) != marker.weights_checksum:
        raise ValueError(f"{path / WEIGHTS}: its tensors have checksum {found:08x}, its marker says otherwise")


def shapes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by name in a safetensors file; reads its header alone.

    Raises:
        ValueError: it is none.
    """
    try:
        with safe_open(str(file), "np") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: is no readable safetensors file ({error})") from None


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The consolidated weights of a checkpoint.

    Raises:
        ValueError: not a safetensors file.
    """
    try:
        return load_file(str(path / WEIGHTS))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path / WEIGHTS}: is no readable safetensors file ({error})") from None


def map_weights(path: Path) -> dict[str, np.ndarray]:
    """As `read_weights`, read-only and without a copy: views of the file as the system caches it.

    A safetensors file is the length of its header in eight bytes, the header (JSON: name -> dtype, shape, first and
    last byte behind the header), and the values. Types that numpy has no name for are read, not mapped.

    Raises:
        ValueError: not a safetensors file, or it ends early.
    """
    file = path / WEIGHTS
    try:
        data = np.asarray(np.memmap(file, np.uint8, mode="r"))  # a plain array: pickled without a copy
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8:start].tobytes())
        header.pop("__metadata__", None)
        if any(entry["dtype"] not in DTYPES for entry in header.values()):
            return read_weights(path)
        return {
            name: data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
            .view(DTYPES[entry["dtype"]])
            .reshape(entry["shape"])
            for name, entry in header.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: is no readable safetensors file ({error})") from None


def newest(
    run_dir: Path, digest: str, generations_only: bool = False, refused: Callable[[str], None] = log.warning
) -> tuple[Path, Marker] | None:
    """The newest valid checkpoint; `refused` is told of an invalid or foreign one, and the one before is used."""
    own = _own_shapes(run_dir)
    for path in sorted((run_dir / "checkpoints").glob("v*-s*"), reverse=True):
        if generations_only and not path.name.endswith("-s000000"):
            continue
        try:
            marker = read_marker(path)
            if marker.config_digest != digest:
                raise ValueError(
                    f"{path}: belongs to another configuration ({marker.config_digest[:8]}, here {digest[:8]})"
                )
            if marker.step:
                read_marker(folder(run_dir, marker.version))  # samplers need the version that these steps go on from
            check_contents(path, marker, own if marker.variant is None else None)
        except ValueError as error:
            refused(f"checkpoint refused, using the one before: {error}")
            continue
        return path, marker
    return None


def marked_at(run_dir: Path) -> int:
    """When a checkpoint was last marked, in nanoseconds; 0 where none is. It changes with each that is made.

    Unlike the newest name: a trainer that falls back over a damaged checkpoint makes earlier ones for a while.
    """
    times = [0]
    for path in run_dir.glob(f"checkpoints/v*-s*/{MARKER}"):
        with contextlib.suppress(FileNotFoundError):  # pruned at this moment
            times.append(path.stat().st_mtime_ns)
    return max(times)


def stored_points(run_dir: Path, refused: Callable[[str], None] = log.warning) -> list[TrainPoint]:
    """The curves' points in the newest checkpoint whose marker vouches for them; nothing else of it is read."""
    for path in sorted((path.parent for path in run_dir.glob(f"checkpoints/v*-s*/{MARKER}")), reverse=True):
        try:
            marker = parse_marker(path)
            if POINTS not in marker.files:
                return []  # version 0
            check_file(path / POINTS, *marker.files[POINTS])
            return read_points(path)
        except ValueError as error:
            refused(f"points refused, using those of the checkpoint before: {error}")
    return []


def _own_shapes(run_dir: Path) -> dict[str, tuple[int, ...]] | None:
    """Of version 0's network; None where that is damaged itself."""
    try:
        read_marker(folder(run_dir, 0))
        return shapes_of(folder(run_dir, 0) / WEIGHTS)
    except ValueError:
        return None


def prune(run_dir: Path, keep: int, keep_versions: set[int], marked: Path | None = None) -> list[Path]:
    """Removes marked checkpoints beyond the newest `keep`, but never step 0 of `keep_versions`, nor of a version that a
    kept one goes on from, which would be refused without it. Marker goes first.

    Folders before the newest marked one that never got their marker go too.

    Args:
        marked: the one that was marked just now. Later ones are of a future that was refused as damaged: they are
            neither counted nor removed, and are written anew when training comes there again.
    """
    found = sorted((run_dir / "checkpoints").glob("v*-s*"))
    found = [path for path in found if marked is None or path <= marked]
    paths = [p for p in found if (p / MARKER).exists()]
    kept = {folder(run_dir, version).name for version in keep_versions}
    kept |= {f"{path.name.partition('-')[0]}-s000000" for path in paths[-keep:]}
    removed = [path for path in paths[:-keep] if path.name not in kept]
    removed += [path for path in found if path not in paths and path < paths[-1]] if paths else []
    for path in removed:
        (path / MARKER).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
    return removed
