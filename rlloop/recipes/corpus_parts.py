"""A corpus that many workers make and one process writes: what is done, what is left, and in which order it goes in.

A worker leaves the rows of one key (a recording, a ticket) as a part, a little corpus of its own in FOLDER/pending, and
says so; the collector adds parts to the corpus in the order of the keys, whoever finished first. So the corpus is the
same whatever the number of workers and however often the job was killed.

    key: left -> part in pending -> rows in a shard | failed, with its reason in failures.jsonl
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from rlloop.data.corpus import CorpusRow, CorpusSpec, CorpusWriter, open_corpus
from rlloop.data.corpus_format import CORPUS_FILE

PENDING, FAILURES_FILE, CLAIM_FILE, LOCK_FILE = "pending", "failures.jsonl", "prepare.json", ".lock"
GIVE_UP_AFTER = 64

Advance = Callable[[int, int], None]  # keys done, keys of them that failed


@dataclass(frozen=True)
class Outcome:
    """What a worker says of a key: rows that it left, why there are none, and how often each score is missing why."""

    key: str
    rows: int
    failure: str = ""
    missing: Mapping[str, int] = field(default_factory=dict)


def row_id(key: str, number: int) -> str:
    """Id of a key's row, as the published preparation has it: 1085700_0."""
    return f"{key}_{number}"


def part_folder(folder: Path, key: str) -> Path:
    return folder / PENDING / hashlib.sha256(key.encode()).hexdigest()[:24]


def write_part(folder: Path, key: str, rows: Sequence[CorpusRow], spec: CorpusSpec) -> None:
    """Leaves the rows of a key; complete or not at all, and as it was where it is there already.

    Raises:
        ValueError: a row does not fit the specification, or holds values that float16 lacks.
    """
    place = part_folder(folder, key)
    try:
        with CorpusWriter(place, spec) as writer:
            for row in rows:
                if row.id not in writer.known:
                    writer.add(row)
    except ValueError:
        shutil.rmtree(place, ignore_errors=True)
        raise


class Collector:
    """Adds parts to a corpus in the order of the keys: opened -> collect -> finish. One process at a time.

    Args:
        folder: of the corpus; made if it is not there.
        keys: all that the corpus is to hold, in their order.
        claim: digest of what the rows depend on; a folder that was begun with another is refused.
    Raises:
        ValueError: the folder is another job's, or a job is at work in it.
    """

    def __init__(self, folder: Path, spec: CorpusSpec, keys: Sequence[str], claim: str):
        self.folder, self.keys = folder, list(keys)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / LOCK_FILE)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"{folder}: another process prepares this corpus; wait for it, or stop it") from None
        except OSError as error:
            raise ValueError(f"{folder} cannot be written to: {error.strerror}; choose another folder") from None
        try:
            self._claim(claim)
            self.writer = CorpusWriter(folder, spec)
        except ValueError:
            self._lock.release()
            raise
        self.failures: dict[str, str] = {}
        self._next = 0
        self._added = 0
        self._taken: list[tuple[int, str]] = []  # rows added up to a part, its key
        self._settled = {key for key in self.keys if self._is_left(key) or row_id(key, 0) in self.writer.known}
        self.resumed = len(self._settled)

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def todo(self) -> list[str]:
        """Keys that are neither in the corpus nor left as parts, in their order."""
        return [key for key in self.keys if key not in self._settled]

    def fail(self, failures: Mapping[str, str]) -> None:
        """Settles keys that cannot be done at all."""
        for key, reason in failures.items():
            self._settled.add(key)
            self._note(key, reason)

    def collect(self, outcomes: Iterable[Outcome], advance: Advance) -> Counter[str]:
        """Takes what workers say as they say it; returns how often scores are missing, by reason.

        Raises:
            ValueError: the first 64 keys failed and none was ever done: it is not the recordings.
        """
        self._drain()
        missing: Counter[str] = Counter()
        done = failed = 0
        for outcome in outcomes:
            if outcome.key in self._settled:
                continue  # a killed worker's rows are given out again
            self._settled.add(outcome.key)
            missing.update(outcome.missing)
            if outcome.failure:
                self._note(outcome.key, outcome.failure)
            done, failed = done + 1, failed + bool(outcome.failure)
            if failed == done >= GIVE_UP_AFTER and not self.resumed and not self.writer.known:
                raise ValueError(f"the first {failed} failed, the last, {outcome.key}, with: {outcome.failure}")
            self._drain()
            advance(1, int(bool(outcome.failure)))
        return missing

    def finish(self) -> int:
        """Writes corpus.json, which makes the corpus whole, and the list of failures; returns the rows.

        Raises:
            ValueError: no key gave a row.
        """
        self._drain()
        assert self._next == len(self.keys), f"{self.keys[self._next]} was never settled"
        write_failures(self.folder, {key: self.failures[key] for key in self.keys if key in self.failures})
        if not self.writer.known:
            key, reason = next(iter(self.failures.items()))
            raise ValueError(f"none of {len(self.keys)} gave a row, so there is no corpus; {key}: {reason}")
        self.writer.finish()
        shutil.rmtree(self.folder / PENDING, ignore_errors=True)
        return len(self.writer.known)

    def _drain(self) -> None:
        """Adds the parts whose turn it is, and removes those whose rows are all in shards."""
        while self._next < len(self.keys) and (key := self.keys[self._next]) in self._settled:
            if self._is_left(key):
                for row in open_corpus(part_folder(self.folder, key)):
                    if row.id not in self.writer.known:
                        self.writer.add(row)
                        self._added += 1
                self._taken.append((self._added, key))
            self._next += 1
        published = self._added - self._added % self.writer.shard_rows
        while self._taken and self._taken[0][0] <= published:
            shutil.rmtree(part_folder(self.folder, self._taken.pop(0)[1]))

    def _is_left(self, key: str) -> bool:
        return (part_folder(self.folder, key) / CORPUS_FILE).is_file()

    def _note(self, key: str, reason: str) -> None:
        if not self.failures:
            (self.folder / FAILURES_FILE).unlink(missing_ok=True)  # those of an earlier start were tried again
        self.failures[key] = reason
        with (self.folder / FAILURES_FILE).open("a", encoding="utf-8") as file:
            file.write(failure_line(key, reason))

    def _claim(self, digest: str) -> None:
        path = self.folder / CLAIM_FILE
        if path.is_file():
            try:
                found = dict(json.loads(path.read_text(encoding="utf-8"))).get("of")
            except (ValueError, TypeError):
                found = None
            if found != digest:
                raise ValueError(
                    f"{self.folder} was begun with others: captions, audio, generator, rewards, clips or seed; choose "
                    "another folder, or the command that began it"
                )
            return
        if (self.folder / CORPUS_FILE).exists() or any(self.folder.glob("part-*.parquet")):
            raise ValueError(f"{self.folder} holds a corpus that this command did not begin; choose another folder")
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps({"of": digest}) + "\n", encoding="utf-8")
        os.replace(scratch, path)


def failure_line(key: str, reason: str) -> str:
    return json.dumps({"id": key, "reason": " ".join(reason.split())}) + "\n"


def write_failures(folder: Path, failures: Mapping[str, str]) -> None:
    """Lists failures, one object a line, in FOLDER/failures.jsonl; no file where there are none."""
    path = folder / FAILURES_FILE
    if not failures:
        path.unlink(missing_ok=True)
        return
    scratch = path.with_suffix(".tmp")
    scratch.write_text("".join(failure_line(*item) for item in failures.items()), encoding="utf-8")
    os.replace(scratch, path)
