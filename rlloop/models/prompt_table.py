"""Cached features of prompts, so that a sampler needs neither T5 nor CLAP in memory.

Reads the folder that `rlloop features` fills (the layout is described in rlloop/data/features.py).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

log = logging.getLogger(__name__)
COLUMNS = ["key", "text", "text_c", "shape"]
Features = tuple[Tensor, Tensor]


class Place(NamedTuple):
    """Where a prompt's row is: a file and one of its row groups."""

    file: Path
    group: int


class PromptTable:
    """Prompts to features by exact text, read from disk as they are asked for.

    Opening takes 0.05 ms a prompt in the folder and 0.2 kB of memory; a look-up reads a few MB (2 ms), a remembered
    prompt takes 318 kB with FLAN-T5-large (measured on two cores, files in the page cache).

    Args:
        folder: what `rlloop features ... --out FOLDER` made.
        capacity: how many prompts are remembered, those used last.
    Raises:
        ValueError: the folder holds no features; one line.
    """

    def __init__(self, folder: Path | str, capacity: int = 256):
        self.folder, self.capacity = Path(folder), capacity
        path = self.folder / "features.json"
        try:
            spec = json.loads(path.read_text())
            self.identity, self.dtype = str(spec["identity"]), np.dtype(spec["dtype"])
        except FileNotFoundError:
            raise ValueError(
                f"{path} is missing: no prompt features there; compute them: rlloop features PROMPTS --out {folder}"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); compute the features again in another folder") from None
        self._memo: OrderedDict[bytes, Features] = OrderedDict()
        self._places: dict[bytes, Place] = {}
        self._refresh()

    def __len__(self) -> int:
        """Prompts with features."""
        return len(self._places)

    def missing(self, prompts: Sequence[str]) -> list[str]:
        """The prompts without features, each once: to refuse a run before it starts."""
        return [prompt for prompt in dict.fromkeys(prompts) if self._key(prompt) not in self._places]

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Features of a batch of prompts, on the CPU.

        Returns:
            "text" [B, 77, 1024] and "text_c" [B, 512] float32.
        Raises:
            ValueError: a prompt is not there, or its file is damaged; names it and says what to do.
        """
        if self.missing(prompts):
            self._refresh()
        for prompt in self.missing(prompts)[:1]:
            raise ValueError(
                f"no features of the prompt {prompt[:80]!r} among the {len(self)} in {self.folder}; write it into a "
                f"text file, a line a prompt, and compute them: rlloop features FILE --prefix '' --out {self.folder}"
            )
        found = self._recall([self._key(prompt) for prompt in prompts])
        text, text_c = zip(*found, strict=True)
        return {"text": torch.stack(text), "text_c": torch.stack(text_c)}

    def _key(self, prompt: str) -> bytes:
        return hashlib.sha256(f"{self.identity}\0{prompt}".encode()).digest()

    def _recall(self, keys: Sequence[bytes]) -> list[Features]:
        found = {key: self._memo[key] for key in keys if key in self._memo}
        for key in keys:
            if key not in found:
                found |= self._read(key, set(keys))
        for key in dict.fromkeys(keys):
            self._memo[key] = found[key]
            self._memo.move_to_end(key)
        while len(self._memo) > self.capacity:
            self._memo.popitem(last=False)
        return [found[key] for key in keys]

    def _read(self, key: bytes, wanted: set[bytes]) -> dict[bytes, Features]:
        """The wanted rows of the row group in which `key` is."""
        try:
            return self._read_group(self._places[key], wanted)
        except FileNotFoundError:
            self._refresh()  # its file was merged into another since the index was made
        if key not in self._places:
            raise ValueError(f"a file in {self.folder} has disappeared; run `rlloop features` again")
        return self._read_group(self._places[key], wanted)

    def _read_group(self, place: Place, wanted: set[bytes]) -> dict[bytes, Features]:
        try:
            with pq.ParquetFile(place.file, memory_map=True, page_checksum_verification=True) as file:
                rows = file.read_row_group(place.group, columns=COLUMNS).to_pylist()
            return {row["key"]: self._features(row) for row in rows if row["key"] in wanted}
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{place.file} is damaged ({reason}); remove it, run `rlloop features` again") from None

    def _features(self, row: dict) -> Features:
        text = np.frombuffer(row["text"], self.dtype).reshape(row["shape"]).astype(np.float32)
        return torch.from_numpy(text), torch.from_numpy(np.frombuffer(row["text_c"], self.dtype).astype(np.float32))

    def _refresh(self) -> None:
        """Makes the index anew, and once more if a file was merged into another meanwhile."""
        while (places := self._index()) is None:
            pass
        self._places = places

    def _index(self) -> dict[bytes, Place] | None:
        """The keys of every file, a damaged one named in the log and left out; None if one disappears."""
        places: dict[bytes, Place] = {}
        for path in sorted(self.folder.glob("*.parquet")):
            try:
                with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
                    for group in range(file.num_row_groups):
                        place = Place(path, group)
                        places |= dict.fromkeys(file.read_row_group(group, columns=["key"])["key"].to_pylist(), place)
            except FileNotFoundError:
                return None
            except (pa.ArrowException, OSError, KeyError) as error:
                reason = (str(error).splitlines() or ["?"])[0]
                log.warning("%s is damaged and left out (%s); remove it, run `rlloop features` again", path, reason)
        return places
