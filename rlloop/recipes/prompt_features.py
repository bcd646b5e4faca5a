"""Prompt features as a job: what is to be computed, and one worker of those that compute it. Knows no Ray.

planned (what is missing) -> each worker encodes batches and writes them -> merged
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from rlloop.data.features import PRECISIONS, FeatureFolder, FeatureSpec
from rlloop.models.clap_text import ClapText, clap_text_digest, clap_text_files
from rlloop.models.pretrained import first_line
from rlloop.models.t5 import MAX_TOKENS, FlanT5, t5_digest, t5_files

log = logging.getLogger(__name__)
FAILURES_FILE = "failed.jsonl"
CLAP_WIDTH = 512

Encode = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class EncoderFiles:
    """Where the encoders lie. t5: folder; clap: checkpoint file or folder; tokenizer: folder of CLAP's tokenizer."""

    t5: str
    clap: str
    tokenizer: str

    def check(self) -> None:
        """Raises ValueError with one line if a file is missing; reads none of them."""
        t5_files(Path(self.t5))
        clap_text_files(Path(self.clap), Path(self.tokenizer))

    def spec(self, dtype: str) -> FeatureSpec:
        """What features these encoders give; reads every byte of them (seconds)."""
        clap = clap_text_digest(Path(self.clap), Path(self.tokenizer))
        return FeatureSpec(t5=t5_digest(Path(self.t5)), clap=clap, dtype=dtype)

    def bytes_per_prompt(self, dtype: str) -> int:
        """Disk that one prompt's features take."""
        width = json.loads((Path(self.t5) / "config.json").read_text()).get("d_model", 0)
        return (MAX_TOKENS * width + CLAP_WIDTH) * np.dtype(dtype).itemsize + 300


@dataclass(frozen=True)
class Plan:
    """What a job has to do. `failures` maps prompts that cannot be encoded at all to the reason."""

    spec: FeatureSpec
    num_distinct: int
    missing: Sequence[str]
    failures: Mapping[str, str] = field(default_factory=dict)


def plan_features(prompts: Sequence[str], files: EncoderFiles, folder: Path, dtype: str) -> Plan:
    """Which of the prompts have no features in the folder yet.

    Raises:
        ValueError: an encoder is missing, the folder is another's, or the disk is too small; one line.
    """
    if dtype not in PRECISIONS:
        raise ValueError(f"precision {dtype!r} is none of {', '.join(PRECISIONS)}")
    files.check()
    cache = FeatureFolder(folder, files.spec(dtype))
    failures = {prompt: "half of a surrogate pair: no text" for prompt in prompts if not is_text(prompt)}
    missing = cache.missing(prompt for prompt in prompts if prompt not in failures)
    needed, free = len(missing) * files.bytes_per_prompt(dtype), shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{folder}: features of {len(missing)} prompts take {needed / 1e9:.1f} GB in {dtype}, {free / 1e9:.1f} GB "
            "are free; free some, choose another folder, or float16"
        )
    return Plan(cache.spec, len(dict.fromkeys(prompts)), missing, failures)


def is_text(prompt: str) -> bool:
    """Whether a string can be written as UTF-8; JSON can hold ones that cannot."""
    try:
        prompt.encode()
    except UnicodeEncodeError:
        return False
    return True


class FeatureWorker:
    """Encodes prompts and writes their features, a batch at a time; one process of the job.

    Args:
        spec: what the plan expects of the encoders: on another machine the same paths may hold other files.
        threads: of torch, in this process.
    Raises:
        ValueError: an encoder cannot be loaded, or is another than the plan's.
    """

    def __init__(self, files: EncoderFiles, folder: str, spec: FeatureSpec, batch: int, device: str, threads: int):
        torch.set_num_threads(threads)
        if files.spec(spec.dtype) != spec:
            raise ValueError(
                f"{files.t5}, {files.clap} or {files.tokenizer} is another file here than the job began with; "
                "give every machine the same"
            )
        self.cache, self.batch = FeatureFolder(folder, spec), batch
        self.t5 = FlanT5(files.t5, device)
        self.clap = ClapText(files.clap, files.tokenizer, device)

    def __call__(self, rows: Sequence[Mapping[str, str]]) -> Iterator[dict]:
        """Yields, after every batch, what `encode_and_write` says of it."""
        prompts = [row["prompt"] for row in rows]
        for start in range(0, len(prompts), self.batch):
            yield encode_and_write(self._encode, self.cache, prompts[start : start + self.batch])

    def _encode(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return self.t5.encode(prompts).cpu().numpy(), self.clap.encode(prompts).cpu().numpy()


def encode_and_write(encode: Encode, cache: FeatureFolder, prompts: Sequence[str]) -> dict:
    """Encodes and writes one batch; a prompt that fails costs itself only.

    Args:
        encode: prompts -> text [B, 77, D], text_c [B, E].
    Returns:
        {"written": count, "failures": {prompt: reason}}
    """
    rows, failures = encode_each(encode, prompts)
    for prompt, row in list(rows.items()):
        if not all(is_finite(part, cache.spec.dtype) for part in row):
            failures[prompt] = f"its features are not finite in {cache.spec.dtype}"
            del rows[prompt]
    if rows:
        text, text_c = (np.stack(part) for part in zip(*rows.values(), strict=True))
        cache.write(list(rows), text, text_c)
    return {"written": len(rows), "failures": failures}


def is_finite(values: np.ndarray, dtype: str) -> bool:
    """Whether all values are finite once stored: float16 ends at 65504."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(values.astype(dtype)).all())


def encode_each(
    encode: Encode, prompts: Sequence[str]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, str]]:
    """(features by prompt, reason by prompt); a batch that fails is tried again prompt by prompt."""
    try:
        text, text_c = encode(prompts)
        return dict(zip(prompts, zip(text, text_c, strict=True), strict=True)), {}
    except Exception as error:
        if len(prompts) == 1:
            return {}, {prompts[0]: f"{type(error).__name__}: {first_line(error)}"}
    rows, failures = {}, {}
    for prompt in prompts:
        found, failed = encode_each(encode, [prompt])
        rows |= found
        failures |= failed
    return rows, failures


def write_failures(folder: Path, failures: Mapping[str, str]) -> None:
    """Lists this job's failures in FOLDER/failed.jsonl, one object a line; removes the list where there are none."""
    path = folder / FAILURES_FILE
    if not failures:
        path.unlink(missing_ok=True)
        return
    scratch = path.with_suffix(".tmp")
    lines = (json.dumps({"prompt": prompt, "reason": reason}) for prompt, reason in failures.items())
    scratch.write_text("".join(f"{line}\n" for line in lines))
    os.replace(scratch, path)
