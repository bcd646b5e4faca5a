"""What every actor of a run knows: the run directory, the epoch, and how to reach the others by name.

A session is two small values, so an actor that Ray restarts needs nothing from the object store.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError

from rlloop.config import Config, Sampling
from rlloop.loop.plan import Plan

log = logging.getLogger(__name__)
CONFIG_FILE = "config.json"
PROMPTS_FILE = "prompts.json"
CORPUS_FILE = "corpus.json"
CALL_TIMEOUT_S = 20.0


class NoAnswer(TimeoutError):
    """A wait across processes that met its deadline; names who waits for whom and since when, and the last error."""

    def __init__(self, who: str, whom: str, what: str, seconds: float, last: str = "none") -> None:
        super().__init__(f"{who} waits for {whom}.{what} since {seconds:.0f} s; last error: {last}; logs: ray logs")
        self.args_for_pickle = (who, whom, what, seconds, last)

    def __reduce__(self):
        return (NoAnswer, self.args_for_pickle)


@dataclass(frozen=True)
class Session:
    """One start of the driver on one run directory."""

    run_dir: str
    epoch: int

    @property
    def path(self) -> Path:
        return Path(self.run_dir)

    @cached_property
    def config(self) -> Config:
        return Config.model_validate(json.loads((self.path / CONFIG_FILE).read_text()))

    @cached_property
    def plan(self) -> Plan:
        return Plan.from_config(self.config)

    @cached_property
    def prompts(self) -> dict[str, list[str]]:
        """train and heldout, as they were when the run began."""
        return json.loads((self.path / PROMPTS_FILE).read_text())

    def sampling_of(self, ticket: int) -> Sampling:
        """How a ticket is sampled: as configured, at the conditioning score of its stage."""
        stage = self.plan.stages[self.plan.generation_of(ticket).stage]
        given = {} if stage.sampling_score is None else {"score": stage.sampling_score}
        return self.config.sampling.model_copy(update=given)

    @property
    def corpus(self) -> str:
        """The corpus as it was found when the run began."""
        return json.loads((self.path / CORPUS_FILE).read_text())["path"]

    @property
    def namespace(self) -> str:
        return namespace_of(self.run_dir, self.epoch)

    def __reduce__(self):  # without what is cached: handles and configurations are looked up where they are used
        return (Session, (self.run_dir, self.epoch))

    @cached_property
    def _handles(self) -> dict[str, ray.actor.ActorHandle]:
        return {}

    def actor(self, name: str) -> ray.actor.ActorHandle:
        """The handle of a named actor; it stays good over restarts, so it is looked up once."""
        if name not in self._handles:
            self._handles[name] = ray.get_actor(name, namespace=self.namespace)
        return self._handles[name]

    def tell(self, name: str, method: str, *args: Any) -> None:
        """Sends a call and forgets it: progress and gauges, never a transition of the ledger."""
        try:
            getattr(self.actor(name), method).remote(*args)
        except ValueError:  # not there now; the next report makes up for it
            return

    def note(self, text: str) -> None:
        """A line for whoever watches the run: on its terminal, and in this process's log."""
        log.warning("%s", text)
        self.tell("buffer", "note", text)

    def call(
        self,
        who: str,
        name: str,
        method: str,
        *args: Any,
        timeout_s: float | None = None,
        each_s: float = CALL_TIMEOUT_S,
    ) -> Any:
        """Calls a control actor and returns its answer; retries while it restarts or says that it could not in time,
        which Ray's own timeout is a kind of. For idempotent methods only.

        Args:
            timeout_s: of all tries; null: loop.wait_timeout_s. each_s: of one, then the call is repeated.
        Raises:
            NoAnswer: nothing came before the deadline.
        """
        began, limit = time.monotonic(), timeout_s or self.config.loop.wait_timeout_s
        while True:
            try:
                handle = self.actor(name)
                return ray.get(getattr(handle, method).remote(*args), timeout=min(each_s, limit))
            except (ActorUnavailableError, ActorDiedError, RayActorError, TimeoutError, ValueError) as error:
                if isinstance(error, ValueError) and "Failed to look up actor" not in str(error):
                    raise
                self._handles.pop(name, None)
                if time.monotonic() - began > limit:
                    raise NoAnswer(who, name, method, time.monotonic() - began, first_line(error)) from error
                time.sleep(0.2)


def first_line(error: Exception) -> str:
    """An exception in one line: its kind, and the first line of what it says, if any; of a call's error, its cause."""
    error = getattr(error, "cause", None) or error
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0].strip()}" if said else type(error).__name__


def short_node(node: str) -> str:
    """As much of a node's id as the names of workers hold."""
    return node[:8]


def namespace_of(run_dir: str, epoch: int) -> str:
    """Ray namespace of one epoch of a run; a later epoch never meets an earlier one's actors."""
    return f"rlloop:{run_dir}:{epoch}"
