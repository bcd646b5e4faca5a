"""Pump: a named actor that runs one Ray Data segment after another and commits each scored ticket to the buffer."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from actors.pools import Gate, SamplerStage, ScorerStage
from actors.session import CALL_TIMEOUT_S, Session
from rlloop.data.rollouts import ScoredTicket
from rlloop.data.ticket_rows import NO_TICKET, from_columns
from rlloop.loop import stacks
from rlloop.loop.barren import MAX_BARREN_SEGMENTS, barren_after
from rlloop.resources import node_request

log = logging.getLogger(__name__)
# Ray Data looks after its tasks every 0.1 s while any of them runs, so an actor with one task at hand would idle that
# long after each. The next ones wait at the actor instead, and its second thread, if any, unpacks them; the model's
# calls stay one after the other (Ray Data's default). A ticket takes its version when a sampler begins it: waiting ages
# nothing. A ticket that waits at a slow sampler is one that an idle one cannot take, so there only one waits.
GATE_DEPTH, SAMPLER_DEPTH, SCORER_DEPTH = 32, 2, 3
COMMITS_AT_ONCE = 16  # they share the buffer's syncs


class Pump:
    """Life: idle -> segment -> idle ... -> done. The loop is a thread of __init__, so a restart needs nobody."""

    def __init__(self, session: Session) -> None:
        self.session = session
        stacks.register(session.path, "pump")
        self.state, self.segment = "idle", 0
        self.thread = threading.Thread(target=self._guarded, name="pump", daemon=True)
        self.thread.start()

    def status(self) -> dict:
        return {"state": self.state, "segment": self.segment, "pid": os.getpid()}

    def _guarded(self) -> None:
        try:
            self._run()
        except Exception:
            log.exception("the pump ends itself to be restarted")
            os._exit(1)

    def _run(self) -> None:
        barren = 0
        while self.state != "done":
            if not self._has_work():
                self.state = "idle"
                time.sleep(0.2)
                continue
            self.segment = self.session.call("pump", "buffer", "begin_segment")
            self.state = "segment"
            error = ""
            commits = Commits(self.session)
            try:
                sizes = self.session.call("pump", "buffer", "pool_sizes")
                with commits:
                    for tickets in self._scored_slots(sizes):
                        commits.add(tickets)
            except Exception:
                error = traceback.format_exc()
                log.warning("segment %d ended early: %s", self.segment, error)
            was_cut = not commits.counted and self.session.call("pump", "buffer", "was_cut", self.segment)
            barren = barren_after(barren, committed=commits.counted, failed=bool(error), was_cut=was_cut)
            if barren >= MAX_BARREN_SEGMENTS:
                last = error.strip().splitlines()[-1] if error else "no exception"
                self.session.call(
                    "pump", "buffer", "stop", f"{barren} segments in a row without a commit; last: {last}"
                )
                self.state = "done"

    def _has_work(self) -> bool:
        """Whether a new segment would find a ticket that may start, and the store has the version it asks for.

        It has not where the checkpoint of a published version is damaged: samplers would ask in vain, until the
        trainer has fallen back and made that version again. Asked in this order: what is published is in the store.
        """
        wanted = self.session.call("pump", "buffer", "wanted_version")
        if wanted is None:
            return False
        stored = self.session.call("pump", "store", "newest")
        if stored >= wanted:
            return True
        text = f"sampling waits: version {wanted} is published, the newest valid checkpoint is of version {stored}"
        self.session.tell("buffer", "note", f"{text}; the trainer makes it again, or has the next one soon")
        return False

    def _scored_slots(self, sizes: Mapping[str, int]) -> Iterator[list[ScoredTicket]]:
        """Yields the tickets of each slot of one segment as they are scored.

        Ends when the slots ran out, or with the first empty one after a segment was cut short and all its tickets came
        back: hundreds of empty slots would take seconds to pass.
        """
        for block in segment_dataset(self.session, self.segment, sizes).iter_batches(
            batch_size=None, prefetch_batches=0, batch_format="numpy"
        ):
            rows = from_columns(block)
            if scored := [row.scored() for row in rows if row.ticket != NO_TICKET]:
                yield scored
            if any(row.ticket == NO_TICKET for row in rows):
                if self.session.call("pump", "buffer", "is_over", self.segment):
                    return


class Commits:
    """Commits several slots at once, which then share the buffer's waits for the disk; `with` waits for the last."""

    def __init__(self, session: Session) -> None:
        self.session, self.counted = session, 0
        self._threads = ThreadPoolExecutor(COMMITS_AT_ONCE, thread_name_prefix="commit")
        self._pending: deque[Future] = deque()

    def add(self, tickets: Sequence[ScoredTicket]) -> None:
        """Sends a commit, and waits for the oldest while too many are under way.

        Raises:
            NoAnswer: the buffer did not answer before the deadline.
        """
        each_s = CALL_TIMEOUT_S * len(tickets)  # their files are written one after the other
        commit = self._threads.submit(self.session.call, "pump", "buffer", "commit", *tickets, each_s=each_s)
        commit.add_done_callback(end_if_failed)
        self._pending.append(commit)
        while self._pending and (len(self._pending) >= COMMITS_AT_ONCE or self._pending[0].done()):
            self._take()

    def _take(self) -> None:
        self.counted += self._pending.popleft().result()

    def __enter__(self) -> Commits:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            while self._pending:
                self._take()
        finally:
            self._threads.shutdown()


def end_if_failed(commit: Future) -> None:
    """Ends the pump, to be restarted, when a commit failed: its row is gone, and the next one may never come.

    A new segment leases the ticket anew.
    """
    if not commit.cancelled() and commit.exception() is not None:
        log.error("a commit failed, the pump ends itself to be restarted: %s", commit.exception())
        os._exit(1)


def segment_dataset(session: Session, segment: int, sizes: Mapping[str, int]):
    """The stream of one segment: slots -> gate -> sampler pool -> scorer pool, one block a slot in each.

    Args:
        sizes: actors of each pool, sampler and scorers.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext, ExecutionResources
    from ray.data._internal.block_batching.iter_batches import BatchIterator

    config = session.config
    # Every 5 s Ray Data pickles the statistics of all blocks of a dataset for its dashboard: a second of CPU for 15,000
    # slots, of a process that all tickets pass. Nothing public turns that off.
    BatchIterator.UPDATE_METRICS_INTERVAL_S = math.inf
    # Debug lines are a kilobyte and a half a ticket, on disk. Not "ray.data" itself: each execution sets that again.
    logging.getLogger("ray.data._internal").setLevel(logging.INFO)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = 0
    context.memory_usage_poll_interval_s = None  # by default a thread of its own for every task
    scorers = config.scorer.all_pools
    roles = {"sampler": config.sampler, **scorers}
    cpus = sum(sizes[name] * role.num_cpus for name, role in roles.items())
    gpus = sum(sizes[name] * role.num_gpus for name, role in roles.items())
    context.execution_options.resource_limits = ExecutionResources(cpu=cpus + 0.01, gpu=gpus)
    context.execution_options.preserve_order = False
    place = (session.run_dir, session.epoch, segment)

    # With several tickets a slot there is little to unpack in between, and an actor that has a second thread looks for
    # signals 100 times a second while it works: 0.4 % of a core more.
    pool_threads = 1 if config.loop.tickets_per_slot > 1 else 2

    def pool(size: int, depth: int, threads: int = pool_threads) -> ActorPoolStrategy:
        return ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=depth, max_concurrent_calls_per_actor=threads)

    # Not ray.data.range: each of its read tasks wants a whole CPU, which a small machine never has to spare.
    slots = ray.data.from_items(
        [{"id": n} for n in range(config.loop.segment_slots)], override_num_blocks=config.loop.segment_slots
    )
    gated = slots.map_batches(
        Gate,
        batch_size=1,
        compute=pool(1, GATE_DEPTH, 1),
        num_cpus=0,
        fn_constructor_args=place,
        batch_format="numpy",
    )
    stages = [("sampler", SamplerStage, place)]
    stages += [(name, ScorerStage, (*place, name, name == list(scorers)[-1])) for name in scorers]
    for name, stage, arguments in stages:
        role = roles[name]
        gated = gated.map_batches(
            stage,
            # The whole block of a slot. Ray Data refuses that on GPUs, where its rows then come one by one: another
            # number than 1 would wait for so many rows and hold back the last tickets of a cohort.
            batch_size=1 if role.num_gpus else None,
            compute=pool(sizes[name], SAMPLER_DEPTH if name == "sampler" else SCORER_DEPTH),
            num_cpus=role.num_cpus,
            num_gpus=role.num_gpus or None,
            resources=node_request(role.node),
            fn_constructor_args=arguments,
            batch_format="numpy",
        )
    return gated
