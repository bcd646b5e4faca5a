"""Post-processes clip files into a folder. Plain class, no Ray. A file that cannot be read costs itself alone."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from rlloop.audio.io import read_audio
from rlloop.audio.tagged import FORMATS, read_details, write_tagged
from rlloop.config import StepEntry
from rlloop.recipes.clip_files import ClipFile
from rlloop.recipes.postprocess import Chain

MAX_SECONDS = 3600.0


@dataclass(frozen=True)
class Task:
    """One clip: its file, where it goes below the output folder, and its prompt."""

    path: str
    file: str
    prompt: str


def plan(clips: Sequence[ClipFile], source: Path, out: Path) -> list[Task]:
    """Where each clip goes: the path that it has below `source`, ending in .wav where it was no WAV or FLAC.

    Raises:
        ValueError: two clips would go to one file, one lies outside its folder, or `out` is where the clips are.
    """
    folder = source if source.is_dir() else source.parent
    if out.resolve() == folder.resolve():
        raise ValueError(f"--out {out} is the folder of the clips; nothing is overwritten, choose another")
    if source.is_dir() and folder.resolve() in out.resolve().parents:
        raise ValueError(f"--out {out} lies in {folder}, whose clips the next call would take for more; choose another")
    tasks = []
    for clip in dict.fromkeys(clips):
        path = Path(clip.path)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{source}: {clip.path} lies outside its folder; expected paths below {folder}")
        kept = path if path.suffix.lower().lstrip(".") in FORMATS else path.with_suffix(".wav")
        tasks.append(Task(str(kept), clip.file, clip.prompt))
    twice = [path for path, count in Counter(task.path for task in tasks).items() if count > 1]
    if twice:
        raise ValueError(f"{source}: two clips would become {twice[0]}; rename one")
    return tasks


class PostprocessWorker:
    """Called with tasks as rows, it yields {"path", "facts", "is_kept", "is_mixed"} or {"path", "reason"} for each.
    `is_mixed`: the clip had several channels, and is written as mono.

    A file that says it was made from the same samples with the same steps is kept as it is.

    What a chain made of another clip or with other steps is made anew; what somebody else put there stays, and its clip
    has a reason.

    Args:
        out: folder. device: of steps that can choose; threads: of torch.
        overwrite: whether what somebody else put there is replaced.
    Raises:
        ValueError: a step cannot be built.
    """

    def __init__(
        self, entries: Sequence[StepEntry], out: str, threads: int, device: str, bits: int = 16, overwrite: bool = False
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.steps = [entry.model_dump() for entry in entries]
        self.chain, self.out, self.bits = Chain(entries, device), Path(out), bits
        self.find = read_details if overwrite else made_here

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict]:
        for row in rows:
            try:
                yield {"path": row["path"], **self._process(row)}
            except OSError:  # the folder cannot be written to: that is no clip's fault
                raise
            except Exception as error:  # whatever a strange file makes a decoder or a step raise
                said = " ".join(f"{error or type(error).__name__}".split())
                yield {"path": row["path"], "reason": said.removeprefix(f"{row['file']}: ")}

    def _process(self, row: Mapping[str, Any]) -> dict[str, Any]:
        audio, rate = read_audio(row["file"], max_seconds=MAX_SECONDS)
        target, is_mixed = self.out / row["path"], soundfile.info(row["file"]).channels > 1
        made = {"source_crc32": f"{zlib.crc32(audio.tobytes()):08x}", "steps": self.steps, "bits": self.bits}
        found = self.find(target)
        if found and found.get("postprocessed") == made:
            return {"facts": found.get("postprocess", {}), "is_kept": True, "is_mixed": is_mixed}
        done = self.chain(audio, rate)
        before = read_details(Path(row["file"])) or {"prompt": row["prompt"]}
        earlier = [*before.pop("earlier_postprocess", []), *filter(None, [before.pop("postprocess", None)])]
        details = {**before, "postprocess": done.facts, "postprocessed": made}
        details |= {"earlier_postprocess": earlier} if earlier else {}  # a later step may have changed the level
        write_tagged(target, done.audio, rate, details, self.bits)
        return {"facts": done.facts, "is_kept": False, "is_mixed": is_mixed}


def made_here(target: Path) -> dict[str, Any] | None:
    """The details of a clip that a chain made; None where there is no file.

    Raises:
        ValueError: there is one of somebody else.
    """
    if not target.exists():
        return None
    found = read_details(target) if target.is_file() else None
    if not found or "postprocessed" not in found:
        raise ValueError(f"{target} is there and was not made by post-processing; choose another --out, or --overwrite")
    return found
