"""The three stages of a Ray Data segment: gate, sampler pool, scorer pool. One ticket is one row, one slot one block.

Exceptions of model code become failed rows: Ray Data does not retry them and would end the segment.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence

import numpy as np
import ray

from actors.session import Session, short_node
from actors.store import fetch_arrays
from rlloop.data.ticket_rows import EMPTY, Columns, TicketRow, from_columns, to_columns
from rlloop.loop import gate, stacks
from rlloop.loop.plan import clip_seeds, prompt_index
from rlloop.recipes.build import load_target

POLL_S, GIVE_WAY_S = 0.1, 0.5


def worker_name(role: str) -> str:
    """Role, process and node of this worker; no two share it. The journal keeps it, so the node is in it."""
    return f"{role}-{os.getpid()}-{uuid.uuid4().hex[:6]}-{short_node(ray.get_runtime_context().get_node_id())}"


def report_arrival(session: Session, segment: int, worker: str) -> None:
    """Tells that a worker has its model, which actor it is, also after a restart, and on which node."""
    here = ray.get_runtime_context()
    session.tell("buffer", "arrived", segment, worker, here.get_actor_id(), here.get_node_id())


class Stage:
    """What sampler and scorer share: they begin tickets at the buffer, and hand on what there is nothing to do with."""

    session: Session
    worker: str

    def begin(self, rows: Sequence[TicketRow]) -> tuple[list[str], int]:
        """The buffer's answer to each row, and the newest version."""
        return self.session.call(self.worker, "buffer", "started", [row.ticket for row in rows], self.worker)

    def pass_on(self, row: TicketRow, answer: str) -> TicketRow:
        return EMPTY if answer == "skip" else row.failed("its workers died while computing it")


class Gate:
    """Hands tickets to each slot, waiting where the gate rule says wait; a pool of one.

    Slots come one after the other, after a restart in any order. So one that was given a ticket before may stand behind
    one that must wait for that very ticket: after a while who waits gives way, and passes empty.
    """

    def __init__(self, run_dir: str, epoch: int, segment: int) -> None:
        self.session, self.segment, self.ended = Session(run_dir, epoch), segment, False
        self.passed: set[int] = set()
        stacks.register(self.session.path, "gate")

    def __call__(self, slots: Columns) -> Columns:
        slot, since = int(slots["id"][0]), time.monotonic()
        while not self.ended:
            decision = self.session.call("gate", "buffer", "next_tickets", self.segment, slot)
            if isinstance(decision, gate.Grant):
                self.passed.add(slot)
                return to_columns([TicketRow(ticket, decision.version, slot) for ticket in decision.tickets])
            self.ended = isinstance(decision, gate.End)
            if not self.ended and self._may_block(decision) and time.monotonic() - since > GIVE_WAY_S:
                break
            if not self.ended:
                time.sleep(POLL_S)
        return to_columns([EMPTY])

    def _may_block(self, decision: gate.Wait) -> bool:
        """Whether a ticket that is awaited may itself wait behind this slot."""
        return not self.passed.issuperset(decision.queued)


class SamplerStage(Stage):
    """One sampler actor: keeps its weights fresh and draws one ticket at a time."""

    def __init__(self, run_dir: str, epoch: int, segment: int) -> None:
        self.session = Session(run_dir, epoch)
        stacks.register(self.session.path, "sampler")
        self.config = self.session.config
        self.worker = worker_name("sampler")
        self.prompts = self.session.prompts["train"]
        self.sampler = load_target(self.config.sampler.target)(self.config, self.config.sampler)
        report_arrival(self.session, segment, self.worker)

    def __call__(self, granted: Columns) -> Columns:
        return to_columns([self._work(row) if row.has_clips else row for row in from_columns(granted)])

    def _work(self, row: TicketRow) -> TicketRow:
        """One by one: a segment that is cut short, or a newer version, is heard of between two tickets."""
        (answer,), newest = self.begin([row])
        if answer != "go":
            return self.pass_on(row, answer)
        self._refresh(max(row.version, newest))  # outside: a fault of the weights is not the ticket's
        try:
            return self._sample(row)
        except Exception as error:
            return row.failed(f"sampler: {type(error).__name__}: {error}")

    def _refresh(self, version: int) -> None:
        """Loads a version unless this one or a newer is loaded.

        Raises:
            ValueError, WeightsLost, NoAnswer: it cannot be had; the segment ends and its tickets are leased anew.
        """
        if self.sampler.version is None or self.sampler.version < version:
            found, arrays = fetch_arrays(self.session, self.worker, version)
            self.sampler.load(arrays, found, self.session.plan.variant_of(found))
            self.session.tell("store", "loaded", found, self.worker)

    def _sample(self, row: TicketRow) -> TicketRow:
        ticket, began = row.ticket, time.monotonic()
        seeds = clip_seeds(self.config.seed, ticket, self.config.sampler.clips_per_prompt)
        prompt = self.prompts[prompt_index(self.config.seed, ticket, len(self.prompts))]
        drawn = self.sampler.sample([prompt] * len(seeds), seeds, self.session.sampling_of(ticket))
        return TicketRow(
            ticket,
            self.sampler.version,
            row.slot,
            prompt=prompt,
            sampler_s=time.monotonic() - began,
            rate_hz=drawn.sample_rate_hz,
            arrays={
                "seeds": np.array(seeds, np.int64),
                "latents": np.asarray(drawn.latents, np.float16),  # here, so that what is no array fails its ticket
                "audio": np.asarray(drawn.audio, np.float32),
            },
        )


class ScorerStage(Stage):
    """One actor of a pool of scorers: adds named scores to a ticket; the last pool drops the audio."""

    def __init__(self, run_dir: str, epoch: int, segment: int, role: str, is_last: bool) -> None:
        self.session, self.role, self.is_last = Session(run_dir, epoch), role, is_last
        stacks.register(self.session.path, role)
        config = self.session.config
        self.worker = worker_name(role)
        pool = config.scorer.all_pools[role]
        self.scorer = load_target(pool.target)(config, pool.rewards, pool.threads, has_gpu=pool.num_gpus > 0)
        report_arrival(self.session, segment, self.worker)

    def __call__(self, sampled: Columns) -> Columns:
        """All of a slot begin together: their clips are there, and a call each costs a scorer that just keeps up."""
        rows = from_columns(sampled)
        todo = [row for row in rows if row.has_clips]
        answers = dict(zip([row.ticket for row in todo], self.begin(todo)[0] if todo else (), strict=True))
        return to_columns([self._work(row, answers[row.ticket]) if row.has_clips else row for row in rows])

    def _work(self, row: TicketRow, answer: str) -> TicketRow:
        began = time.monotonic()
        if answer == "part":
            (answer,), _ = self.begin([row])
        if answer != "go":
            return self.pass_on(row, answer)
        audio = row.arrays["audio"]
        try:
            scores, reasons = self.scorer.score(audio, row.rate_hz, [row.prompt] * len(audio))
            judged = row.with_scores(self.role, scores, reasons, time.monotonic() - began)
        except Exception as error:
            return row.failed(f"{self.role}: {type(error).__name__}: {error}")
        return judged.without_audio() if self.is_last else judged
