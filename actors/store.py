"""PolicyStore: the named actor that owns published weights. An object dies with the process that put it, so the store
puts them itself, from the checkpoint of that version, and again when it no longer holds or lost them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from actors.session import NoAnswer, Session, first_line
from rlloop.loop import checkpoints, stacks

KEPT_GAUGES = 64  # versions whose way to the samplers is shown


@dataclass(frozen=True)
class PolicyRef:
    """One published version: its checksum, stage, and a reference to its arrays (name -> numpy array)."""

    version: int
    checksum: int
    stage: int
    arrays: list  # [ObjectRef]; in a list so that Ray hands over the reference and not the value


class PolicyStore:
    """Versions only grow. Keeps max_staleness + 1 of them in the object store."""

    def __init__(self, session: Session) -> None:
        self.session = session
        stacks.register(session.path, "store")
        self.kept: dict[int, PolicyRef] = {}
        self.published_at: dict[int, float] = {}
        self.loaded_at: dict[int, dict[str, float]] = {}
        digest = session.config.digest()
        found = checkpoints.newest(session.path, digest, generations_only=True, refused=session.note)
        if found is None:
            raise ValueError(
                f"{session.run_dir}: holds no valid checkpoint of a version; version 0 is written at start"
            )
        self._load(found[1].version)
        self.version = found[1].version

    def publish(self, version: int) -> int:
        """Takes a version from its marked checkpoint and puts it. Idempotent by version; answers the current version.

        Not by value: that would put the same bytes twice, once by the caller, whose objects end with it, and once here.
        A store that was restarted over a damaged checkpoint has an older version than the trainer published last.

        Raises:
            ValueError: the weights do not match the marker's checksum.
        """
        if version <= self.version:
            return self.version
        if version != self.version + 1:
            self.session.note(f"version {version} follows {self.version}: what is between them cannot be read")
        path = checkpoints.folder(self.session.path, version)
        marker, arrays = checkpoints.parse_marker(path), checkpoints.map_weights(path)
        found = checkpoints.arrays_checksum(arrays)
        if found != marker.weights_checksum:
            raise ValueError(
                f"policy store: the weights of version {version} have checksum {found:08x}, their marker says "
                f"{marker.weights_checksum:08x}"
            )
        self._keep(PolicyRef(version, found, marker.stage, [ray.put(arrays)]))
        self.version = version
        self.published_at[version] = time.time()
        for seen in (self.published_at, self.loaded_at):
            for old in sorted(seen)[:-KEPT_GAUGES]:
                del seen[old]
        return version

    def newest(self) -> int:
        return self.version

    def fetch(self, version: int | None = None) -> PolicyRef:
        """A version's reference; None means the newest. Older ones come from their checkpoint."""
        wanted = self.version if version is None else version
        return self.kept.get(wanted) or self._load(wanted)

    def forget(self, version: int) -> PolicyRef:
        """A reader lost the object: reads the version again from its checkpoint."""
        self.kept.pop(version, None)
        return self._load(version)

    def loaded(self, version: int, worker: str) -> None:
        """A sampler works with this version from now on; a gauge."""
        self.loaded_at.setdefault(version, {}).setdefault(worker, time.time())

    def status(self, size: int) -> dict:
        """sync: version -> seconds from publish to the last of `size` samplers that loaded it, once that is known."""
        sync = {
            version: sorted(self.loaded_at[version].values())[:size][-1] - began
            for version, began in self.published_at.items()
            if self.loaded_at.get(version) and (len(self.loaded_at[version]) >= size or version < self.version)
        }
        return {"sync": sync, "pid": os.getpid()}

    def _load(self, version: int) -> PolicyRef:
        path = checkpoints.folder(self.session.path, version)
        marker = checkpoints.read_marker(path)
        ref = PolicyRef(version, marker.weights_checksum, marker.stage, [ray.put(checkpoints.map_weights(path))])
        self._keep(ref)
        return ref

    def _keep(self, ref: PolicyRef) -> None:
        self.kept[ref.version] = ref
        for version in sorted(self.kept)[: -(self.session.config.loop.max_staleness + 1)]:
            del self.kept[version]


class WeightsLost(RuntimeError):
    """The object with a version's weights went away again and again: its node or its owner did. It can be had later."""


def fetch_arrays(
    session: Session, who: str, version: int | None, get: Callable[..., Any] = ray.get
) -> tuple[int, Mapping[str, np.ndarray]]:
    """Gets a version's arrays (read-only, shared memory) and verifies their checksum.

    Args:
        get: Ray's, or a stand-in.
    Raises:
        ValueError: the checksum fails twice, also after a read from the checkpoint.
        WeightsLost: the object was lost, also after a read from the checkpoint.
        NoAnswer: it did not come in time.
    """
    ref: PolicyRef = session.call(who, "store", "fetch", version)
    problem: Exception | None = None
    for _ in range(2):
        try:
            arrays = get(ref.arrays[0], timeout=session.config.loop.wait_timeout_s)
            if checkpoints.arrays_checksum(arrays) == ref.checksum:
                return ref.version, arrays
            problem = ValueError(f"{who}: version {ref.version} fails its checksum {ref.checksum:08x}, read anew, too")
        except ray.exceptions.ObjectLostError as error:  # includes OwnerDiedError: the store was restarted meanwhile
            problem = WeightsLost(f"{who}: the weights of version {ref.version} were lost twice ({first_line(error)})")
        except ray.exceptions.GetTimeoutError as error:
            what, seconds = f"arrays of version {ref.version}", session.config.loop.wait_timeout_s
            raise NoAnswer(who, "store", what, seconds, first_line(error)) from None
        ref = session.call(who, "store", "forget", ref.version)
    assert problem is not None
    raise problem
