"""Reference sets, embedded once and kept.

CLAP hears a random 10 s of each reference track, so the reference of published distances is a matrix that is computed
once (reference.md section 11.1). An entry's name follows from the content of the files and from the identity of the
ear, its crop seed included: another set, ear or crop is another entry, whatever the folder is called.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rlloop.evaluation.frechet import FrechetStatistics

log = logging.getLogger(__name__)
# Files to embeddings [k, D] of those that could be heard, in order, and a reason for each of the others.
EmbedFiles = Callable[[Sequence[Path]], tuple[np.ndarray, Mapping[Path, str]]]


@dataclass(frozen=True, eq=False)
class Reference:
    """Embeddings [m, D] float32 of a reference set, whose they are, and a reason for each file that has none."""

    embeddings: np.ndarray
    identity: str
    folder: str
    digests: Mapping[str, str]  # file name -> sha256 of its content, in the order of the rows where it has one
    failures: Mapping[str, str]

    @property
    def statistics(self) -> FrechetStatistics:
        return FrechetStatistics.of(self.embeddings, {"clips": self.folder, "embedding": self.identity})

    @property
    def checksum(self) -> str:
        return hashlib.sha256(np.ascontiguousarray(self.embeddings, dtype="<f4").tobytes()).hexdigest()

    @property
    def key(self) -> str:
        return entry_key(self.identity, self.digests.values())

    def rows(self) -> dict[str, np.ndarray]:
        """Content digest -> embedding, of the files that have one."""
        heard = [digest for name, digest in self.digests.items() if name not in self.failures]
        return dict(zip(heard, self.embeddings, strict=True))


def cached_reference(folder: Path, files: Sequence[Path], identity: str, embed: EmbedFiles, cache: Path) -> Reference:
    """The reference of these files, from the cache where it has them; a folder that has changed is noticed and logged.

    Only files whose content is new are embedded.

    Args:
        folder: what the reference is called; a changed one is recognised by it.
        files: the audio files; their order and names decide nothing.
        identity: of the ear (Embedder.identity).
        cache: folder of the entries.
    Raises:
        ValueError: fewer than two of the files could be heard, or the cache's entry is damaged.
    """
    digests = {_name(folder, path): content_digest(path) for path in sorted(files)}
    path = cache / f"{entry_key(identity, digests.values())}.safetensors"
    if path.is_file():
        return load_reference(path)
    earlier = _entry_of(str(folder.resolve()), identity, cache)
    known = earlier.rows() if earlier else {}
    if earlier:
        log.warning("reference %s has changed since it was cached: %s", folder, difference(earlier.digests, digests))
    new = {name: file for name, file in zip(digests, sorted(files), strict=True) if digests[name] not in known}
    embeddings, reasons = embed(list(new.values())) if new else (np.empty((0, 0)), {})
    failures = {name: reasons[file] for name, file in new.items() if file in reasons}
    heard = [digests[name] for name in new if name not in failures]
    known |= dict(zip(heard, embeddings, strict=True))
    rows = [known[digest] for name, digest in digests.items() if name not in failures]
    if len(rows) < 2:
        first = "; ".join(f"{name}: {reason}" for name, reason in list(failures.items())[:1])
        raise ValueError(f"reference {folder}: {len(rows)} of {len(files)} files could be heard, 2 needed ({first})")
    found = Reference(np.stack(rows).astype(np.float32), identity, str(folder.resolve()), digests, failures)
    save_reference(found, path)
    return found


def entry_key(identity: str, digests: Sequence[str]) -> str:
    """The name of a cache entry: of the ear and of the files' contents, in no order."""
    return hashlib.sha256("\n".join([identity, *sorted(digests)]).encode()).hexdigest()[:32]


def content_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """What happened to a set of files, in words."""
    changed = sum(before[name] != after[name] for name in before.keys() & after.keys())
    return f"{changed} changed, {len(after.keys() - before.keys())} added, {len(before.keys() - after.keys())} removed"


def save_reference(reference: Reference, path: Path) -> None:
    """Writes an entry, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "identity": reference.identity,
        "folder": reference.folder,
        "digests": json.dumps(dict(reference.digests)),
        "failures": json.dumps(dict(reference.failures)),
        "checksum": reference.checksum,
    }
    partial = path.with_name(path.name + ".partial")
    save_file({"embeddings": reference.embeddings}, partial, metadata)
    partial.replace(path)


def load_reference(path: Path) -> Reference:
    """Reads an entry.

    Raises:
        ValueError: it is damaged, or its numbers are not those of its checksum.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata, embeddings = file.metadata() or {}, file.get_tensor("embeddings")
        digests, failures = json.loads(metadata["digests"]), json.loads(metadata["failures"])
        found = Reference(embeddings, metadata["identity"], metadata["folder"], digests, failures)
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        raise ValueError(f"{path} is no reference: {' '.join(str(error).split())}; delete it") from error
    if found.checksum != metadata.get("checksum"):
        raise ValueError(f"{path}: the embeddings do not have the entry's checksum; delete it to compute it again")
    return found


def _entry_of(folder: str, identity: str, cache: Path) -> Reference | None:
    """The newest entry of a folder by the same ear."""
    for path in sorted(cache.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
        except (SafetensorError, OSError):
            continue
        if (metadata.get("folder"), metadata.get("identity")) == (folder, identity):
            return load_reference(path)
    return None


def _name(folder: Path, path: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
