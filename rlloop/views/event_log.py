"""Event files with a commit: what was written after the last commit of a killed process is cut off at the next start.

TensorBoard itself would show such points twice, and its purge_step knows one step for all tags, while here generations,
versions, updates and seconds count apart. Torch's SummaryWriter is not used: while the trainer's thread imports torch,
a second import of it on the main thread fails (seen).
"""

from __future__ import annotations

import io
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.audio import metadata as audio_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.summary.writer.record_writer import RecordWriter

from rlloop.loop.files import as_kind, read_json

log = logging.getLogger(__name__)


class EventLog:
    """An event writer beside `committed.json`, which holds the caller's state and the sizes of all event files.

    opened (cut back to the last commit) -> (scalar | audio | text)* -> commit -> ... -> closed

    Clips take a hundred times the bytes of curves. A file with a quarter of `max_audio_bytes` in it is closed and the
    next one begun; beyond the bound the oldest files are written anew without their clips, but for those of step 0.
    """

    def __init__(self, folder: Path, max_audio_bytes: int = 2**30) -> None:
        self.folder, self.marker, self.max_audio_bytes = folder, folder / "committed.json", max_audio_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self.state, self.clips = self._cut_back()
        self._new_clips = 0  # bytes of clips in the open file
        self.num_points = 0
        self._writer: EventFileWriter | None = None
        self._open_name = ""

    def add(self, value: Summary.Value, step: int, time: float) -> None:
        """A value of any plugin."""
        if self._writer is None:  # opened late: a run that ends at once leaves no empty file
            there = set(self._event_files())
            self._writer = EventFileWriter(str(self.folder), flush_secs=3600)
            self._open_name = (set(self._event_files()) - there).pop().name
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
        self._new_clips += len(wav.getvalue())
        self.add(Summary.Value(tag=tag, tensor=tensor, metadata=metadata), step, time)

    def text(self, tag: str, markdown: str, step: int, time: float) -> None:
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        tensor = TensorProto(dtype="DT_STRING", string_val=[markdown.encode()])
        self.add(Summary.Value(tag=tag, metadata=plugin, tensor=tensor), step, time)

    def commit(self, state: dict[str, Any]) -> None:
        """Makes all points so far and `state` permanent together: event files first, the marker last."""
        if self._writer is not None:
            self._writer.flush()
        if self._writer is not None and 4 * self._new_clips > self.max_audio_bytes:
            self._close_file()
        files = self._event_files()
        if files:  # the one that is written: a loss of power must not leave a marker that counts more than is there
            with files[-1].open("rb") as file:
                os.fsync(file.fileno())
        sizes = {file.name: file.stat().st_size for file in files}
        partial = self.marker.with_suffix(".tmp")
        partial.write_text(json.dumps({"state": state, "sizes": sizes, "clips": self.clips}))
        os.replace(partial, self.marker)

    def close(self) -> None:
        """Points since the last commit stay uncommitted."""
        if self._writer is not None:
            self._writer.close()

    def _close_file(self) -> None:
        """Ends the open file; drops clips from the oldest ones where all together have too many."""
        self._writer.close()
        self._writer = None
        self.clips[self._open_name] = self._new_clips
        self._new_clips = 0
        for name in [name for name, size in self.clips.items() if size]:  # oldest first
            if sum(self.clips.values()) > self.max_audio_bytes * 3 // 4:  # the open file may take the last quarter
                drop_clips(self.folder / name)
                self.clips[name] = 0

    def _event_files(self) -> list[Path]:
        return sorted(self.folder.glob("events.out.tfevents.*"))

    def _cut_back(self) -> tuple[dict[str, Any], dict[str, int]]:
        committed: dict[str, dict[str, Any]] = {"state": {}, "sizes": {}}
        try:
            if os.path.lexists(self.marker):
                committed = as_kind(dict[str, dict[str, Any]], read_json(self.marker), str(self.marker))
            sizes = as_kind(dict[str, int], committed["sizes"], str(self.marker))
            clips = as_kind(dict[str, int], committed.get("clips", {}), str(self.marker))
        except (ValueError, KeyError) as error:
            log.warning("curves begin anew, those before are in files named refused.*: %s", error)
            for file in (*self._event_files(), self.marker):
                os.replace(file, file.with_name(f"refused.{file.name.removeprefix('events.out.tfevents.')}"))
            return {}, {}
        for file in self._event_files():
            size = sizes.get(file.name, 0)
            if size == 0:
                file.unlink()
            elif file.stat().st_size > size:
                os.truncate(file, size)
            if size and file.name not in clips:  # of a process that has ended; at most all of it is clips
                clips[file.name] = file.stat().st_size
        return committed.get("state", {}), {name: size for name, size in clips.items() if (self.folder / name).exists()}


def drop_clips(path: Path) -> None:
    """Writes an event file anew without its clips, but for those of step 0. Curves and texts stay as they were."""
    partial = path.with_name("rewritten.partial")
    with partial.open("wb") as file:
        kept = RecordWriter(file)
        for data in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(data)
            if event.step == 0 or not any(is_clip(value) for value in event.summary.value):
                kept.write(data)
        kept.close()
    os.replace(partial, path)


def is_clip(value: Summary.Value) -> bool:
    """Of this writer, or of an older one without captions."""
    return value.HasField("audio") or value.metadata.plugin_data.plugin_name == audio_metadata.PLUGIN_NAME
