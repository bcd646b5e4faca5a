"""Event files with a commit: what was written after the last commit of a killed process is cut off at the next start.

TensorBoard itself would show such points twice, and its purge_step knows one step for all tags, while here generations,
versions, updates and seconds count apart. Torch's SummaryWriter is not used: while the trainer's thread imports torch,
a second import of it on the main thread fails (seen).
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.audio import metadata as audio_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class EventLog:
    """An event writer beside `committed.json`, which holds the caller's state and the sizes of all event files.

    opened (cut back to the last commit) -> (scalar | audio | text)* -> commit -> ... -> closed
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.marker = folder, folder / "committed.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.state = self._cut_back()
        self.num_points = 0
        self._writer: EventFileWriter | None = None

    def add(self, value: Summary.Value, step: int, time: float) -> None:
        """A value of any plugin."""
        if self._writer is None:  # opened late: a run that ends at once leaves no empty file
            self._writer = EventFileWriter(str(self.folder), flush_secs=3600)
        self._writer.add_event(Event(wall_time=time, step=step, summary=Summary(value=[value])))
        self.num_points += 1

    def scalar(self, tag: str, value: float, step: int, time: float) -> None:
        self.add(Summary.Value(tag=tag, simple_value=value), step, time)

    def audio(
        self, tag: str, samples: np.ndarray, sample_rate_hz: int, step: int, time: float, name: str, caption: str
    ) -> None:
        """Samples [N] in [-1, 1]. TensorBoard shows the `name` and `caption` of a tag's first step with all of them."""
        wav = io.BytesIO()
        soundfile.write(wav, samples, sample_rate_hz, format="WAV", subtype="PCM_16")
        # As a tensor: of the older form without one, TensorBoard's fast loader drops name and caption (seen).
        metadata = audio_metadata.create_summary_metadata(name, caption, audio_metadata.Encoding.Value("WAV"))
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in (1, 2)])
        tensor = TensorProto(dtype="DT_STRING", tensor_shape=shape, string_val=[wav.getvalue(), b""])
        self.add(Summary.Value(tag=tag, tensor=tensor, metadata=metadata), step, time)

    def text(self, tag: str, markdown: str, step: int, time: float) -> None:
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        tensor = TensorProto(dtype="DT_STRING", string_val=[markdown.encode()])
        self.add(Summary.Value(tag=tag, metadata=plugin, tensor=tensor), step, time)

    def commit(self, state: dict[str, Any]) -> None:
        """Makes all points so far and `state` permanent together: event files first, the marker last."""
        if self._writer is not None:
            self._writer.flush()
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
