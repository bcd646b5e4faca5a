"""Event files with a commit: what was written after the last commit of a killed process is cut off at the next start.

TensorBoard itself would show such points twice, and its purge_step knows one step for all tags, while here generations,
versions, updates and seconds count apart.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np


class EventLog:
    """A SummaryWriter beside `committed.json`, which holds the caller's state and the sizes of all event files.

    opened (cut back to the last commit) -> (scalar | audio | text)* -> commit -> ... -> closed
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.marker = folder, folder / "committed.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.state = self._cut_back()
        self.num_points = 0
        self._writer: Any = None

    @property
    def writer(self) -> Any:
        """Opened at the first point, so that a run that ends at once leaves no empty file."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), flush_secs=3600)
        return self._writer

    def scalar(self, tag: str, value: float, step: int, time: float) -> None:
        self.writer.add_scalar(tag, value, step, walltime=time)
        self.num_points += 1

    def audio(self, tag: str, samples: np.ndarray, sample_rate_hz: int, step: int, time: float) -> None:
        """Samples [N] in [-1, 1]."""
        self.writer.add_audio(tag, samples[None, :], step, sample_rate_hz, walltime=time)
        self.num_points += 1

    def text(self, tag: str, markdown: str, step: int) -> None:
        self.writer.add_text(tag, markdown, step)
        self.num_points += 1

    def commit(self, state: dict[str, Any]) -> None:
        """Makes all points so far and `state` permanent together: event files first, the marker last."""
        self.writer.flush()
        sizes = {file.name: file.stat().st_size for file in self._event_files()}
        partial = self.marker.with_suffix(".tmp")
        partial.write_text(json.dumps({"state": state, "sizes": sizes}))
        os.replace(partial, self.marker)

    def close(self) -> None:
        """Points since the last commit stay uncommitted."""
        if self._writer is not None:
            self._writer.close()

    def _event_files(self) -> list[Path]:
        return sorted(self.folder.glob("events.out.tfevents.*"))

    def _cut_back(self) -> dict[str, Any]:
        committed = json.loads(self.marker.read_text()) if self.marker.is_file() else {"state": {}, "sizes": {}}
        for file in self._event_files():
            size = committed["sizes"].get(file.name, 0)
            if size == 0:
                file.unlink()
            elif file.stat().st_size > size:
                os.truncate(file, size)
        return committed["state"]
