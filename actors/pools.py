"""The three stages of a Ray Data segment: gate, sampler pool, scorer pool. One ticket is one row and one block in each.

Exceptions of model code become failed rows: Ray Data does not retry them and would end the segment.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from typing import Any

import numpy as np
import ray

from actors.session import Session
from actors.store import fetch_arrays
from rlloop.loop import gate, stacks
from rlloop.loop.plan import clip_seeds, prompt_index
from rlloop.recipes.build import load_target

Rows = dict[str, np.ndarray]
POLL_S, GIVE_WAY_S = 0.1, 0.5


def report_arrival(session: Session, segment: int, worker: str) -> None:
    """Tells that a worker has its model, which actor it is, also after a restart, and on which node."""
    here = ray.get_runtime_context()
    session.tell("buffer", "arrived", segment, worker, here.get_actor_id(), here.get_node_id())


def as_row(**fields: Any) -> Rows:
    """One row: every field becomes a column of length one."""
    return {name: np.asarray(value)[None] for name, value in fields.items()}


class Gate:
    """Hands one ticket to each slot, waiting where the gate rule says wait; a pool of one.

    Slots come one after the other, after a restart in any order. So one that was given a ticket before may stand behind
    one that must wait for that very ticket: after a while who waits gives way, and passes empty.
    """

    def __init__(self, run_dir: str, epoch: int, segment: int) -> None:
        self.session, self.segment, self.ended = Session(run_dir, epoch), segment, False
        self.passed: set[int] = set()
        stacks.register(self.session.path, "gate")

    def __call__(self, slots: Rows) -> Rows:
        slot, since = int(slots["id"][0]), time.monotonic()
        while not self.ended:
            decision = self.session.call("gate", "buffer", "next_ticket", self.segment, slot)
            if isinstance(decision, gate.Grant):
                self.passed.add(slot)
                return as_row(ticket=decision.ticket, version=decision.version)
            self.ended = isinstance(decision, gate.End)
            if not self.ended and self._may_block(decision) and time.monotonic() - since > GIVE_WAY_S:
                break
            if not self.ended:
                time.sleep(POLL_S)
        return as_row(ticket=-1, version=-1)

    def _may_block(self, decision: gate.Wait) -> bool:
        """Whether a ticket that is awaited may itself wait behind this slot."""
        return not self.passed.issuperset(decision.queued)


class SamplerStage:
    """One sampler actor: keeps its weights fresh and draws one ticket at a time."""

    def __init__(self, run_dir: str, epoch: int, segment: int) -> None:
        self.session = Session(run_dir, epoch)
        stacks.register(self.session.path, "sampler")
        self.config = self.session.config
        self.worker = f"sampler-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.prompts = self.session.prompts["train"]
        self.sampler = load_target(self.config.sampler.target)(self.config, self.config.sampler)
        report_arrival(self.session, segment, self.worker)

    def __call__(self, granted: Rows) -> Rows:
        ticket, version = int(granted["ticket"][0]), int(granted["version"][0])
        if ticket < 0:
            return as_row(ticket=-1)
        answer, newest = self.session.call(self.worker, "buffer", "started", ticket, self.worker)
        if answer == "skip":
            return as_row(ticket=-1)
        if answer == "failed":
            return as_row(ticket=ticket, version=version, failure="its workers died while computing it")
        self._refresh(max(version, newest))  # outside: a fault of the weights is not the ticket's
        try:
            return self._sample(ticket)
        except Exception as error:
            return as_row(ticket=ticket, version=version, failure=f"sampler: {type(error).__name__}: {error}")

    def _refresh(self, version: int) -> None:
        """Loads a version unless this one or a newer is loaded.

        Raises:
            ValueError, NoAnswer: it cannot be had; the segment ends and its tickets are leased anew.
        """
        if self.sampler.version is None or self.sampler.version < version:
            found, arrays = fetch_arrays(self.session, self.worker, version)
            self.sampler.load(arrays, found, self.session.plan.variant_of(found))
            self.session.tell("store", "loaded", found, self.worker)

    def _sample(self, ticket: int) -> Rows:
        began = time.monotonic()
        seeds = clip_seeds(self.config.seed, ticket, self.config.sampler.clips_per_prompt)
        prompt = self.prompts[prompt_index(self.config.seed, ticket, len(self.prompts))]
        drawn = self.sampler.sample([prompt] * len(seeds), seeds, self.session.sampling_of(ticket))
        return as_row(
            ticket=ticket,
            version=self.sampler.version,
            failure="",
            prompt=prompt,
            seeds=np.array(seeds, np.int64),
            latents=drawn.latents,
            audio=drawn.audio,
            rate=drawn.sample_rate_hz,
            sampler_s=time.monotonic() - began,
        )


class ScorerStage:
    """One actor of a pool of scorers: adds named scores to a ticket; the last pool drops the audio."""

    def __init__(self, run_dir: str, epoch: int, segment: int, role: str, is_last: bool) -> None:
        self.session, self.role, self.is_last = Session(run_dir, epoch), role, is_last
        stacks.register(self.session.path, role)
        config = self.session.config
        self.worker = f"{role}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        pool = config.scorer.all_pools[role]
        self.scorer = load_target(pool.target)(config, pool.rewards, pool.threads, has_gpu=pool.num_gpus > 0)
        report_arrival(self.session, segment, self.worker)

    def __call__(self, sampled: Rows) -> Rows:
        if int(sampled["ticket"][0]) < 0 or str(sampled["failure"][0]):
            return sampled
        began = time.monotonic()
        row = {name: column[0] for name, column in sampled.items()}
        answer, _ = self.session.call(self.worker, "buffer", "started", int(row["ticket"]), self.worker)
        if answer == "skip":
            return as_row(ticket=-1)
        if answer == "failed":
            failure = "its workers died while scoring it"
            return as_row(ticket=row["ticket"], version=row["version"], failure=failure)
        try:
            prompts = [str(row["prompt"])] * len(row["audio"])
            scores, reasons = self.scorer.score(np.asarray(row["audio"]), int(row["rate"]), prompts)
        except Exception as error:
            failure = f"{self.role}: {type(error).__name__}: {error}"
            return as_row(ticket=row["ticket"], version=row["version"], failure=failure)
        if self.is_last:
            del row["audio"]
        judged = merge_judged(row.pop("judged", None), scores, reasons, {self.role: time.monotonic() - began})
        return as_row(**row, judged=judged)


def merge_judged(earlier: str | None, scores: list[dict], reasons: list[dict], seconds: dict[str, float]) -> str:
    """What the pools before this one found, and what this one did, as JSON: scores and reasons a clip, busy seconds."""
    before = json.loads(str(earlier)) if earlier is not None else None
    if before is not None:
        scores = [{**old, **new} for old, new in zip(before["scores"], scores, strict=True)]
        reasons = [{**old, **new} for old, new in zip(before["reasons"], reasons, strict=True)]
        seconds = {**before["seconds"], **seconds}
    return json.dumps({"scores": scores, "reasons": reasons, "seconds": seconds})
