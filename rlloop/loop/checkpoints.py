"""Checkpoints on disk: a folder of safetensors files, valid once its marker lists every file with size and checksum.

Life of a checkpoint: written by every rank -> marked by rank 0 -> loaded | superseded -> removed.
A checkpoint is named by (version, step): version k with 0 < step is inside generation k; step 0 is version k itself.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

log = logging.getLogger(__name__)
MARKER = "marker.json"
WEIGHTS = "weights.safetensors"
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
    scratch = path / f"{MARKER}.tmp"
    names = sorted(p.name for p in path.iterdir() if p.name not in (MARKER, scratch.name))
    files = {name: ((path / name).stat().st_size, file_checksum(path / name)) for name in names}
    marker = Marker(version, step, stage, digest, world_size, files, weights_checksum, variant)
    with scratch.open("w") as file:
        json.dump(asdict(marker), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path / MARKER)  # whole or not there: half a marker of version 0 would be refused for ever
    return marker


def read_marker(path: Path) -> Marker:
    """The marker of a checkpoint whose files all agree with it.

    Raises:
        ValueError: no marker, or the first file that disagrees; one line.
    """
    marker = parse_marker(path)
    for name, (size, crc) in marker.files.items():
        part = path / name
        try:
            found, checksum = part.stat().st_size, file_checksum(part)
        except OSError as error:  # missing, or removed as an old one at this very moment
            raise ValueError(f"{part}: {error.strerror}") from None
        if found != size:
            raise ValueError(f"{part}: has {found} bytes, its marker says {size}")
        if checksum != crc:
            raise ValueError(f"{part}: fails its checksum {crc:08x}")
    return marker


def parse_marker(path: Path) -> Marker:
    """The marker of a checkpoint, its files not looked at.

    Raises:
        ValueError: there is none, or it is none of this project.
    """
    try:
        marker = Marker(**json.loads((path / MARKER).read_text()))
    except FileNotFoundError:
        raise ValueError(f"{path}: has no {MARKER}: it was never completed") from None
    except (json.JSONDecodeError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path / MARKER}: is no checkpoint marker ({error})") from None
    if not isinstance(marker.files, dict) or WEIGHTS not in marker.files:
        raise ValueError(f"{path / MARKER}: lists no {WEIGHTS}; it is no checkpoint of this project")
    return marker


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


def newest(run_dir: Path, digest: str, generations_only: bool = False) -> tuple[Path, Marker] | None:
    """The newest valid checkpoint; an invalid or foreign one is named in the log and the one before is used."""
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
        except ValueError as error:
            log.warning("checkpoint refused, using the one before: %s", error)
            continue
        return path, marker
    return None


def newest_marked(run_dir: Path) -> Path | None:
    """The newest checkpoint with a marker, whatever it is worth; None where there is none."""
    return max((path.parent for path in run_dir.glob(f"checkpoints/v*-s*/{MARKER}")), default=None)


def prune(run_dir: Path, keep: int, keep_versions: set[int]) -> list[Path]:
    """Removes marked checkpoints beyond the newest `keep`, but never step 0 of `keep_versions`. Marker goes first.

    Folders before the newest marked one that never got their marker go too.
    """
    found = sorted((run_dir / "checkpoints").glob("v*-s*"))
    paths = [p for p in found if (p / MARKER).exists()]
    kept = {folder(run_dir, version) for version in keep_versions}
    removed = [path for path in paths[:-keep] if path not in kept]
    removed += [path for path in found if path not in paths and path < paths[-1]] if paths else []
    for path in removed:
        (path / MARKER).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
    return removed
