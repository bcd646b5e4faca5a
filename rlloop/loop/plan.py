"""The plan: which generation owns which tickets, resolved before start (architecture: "the loop as data")."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from rlloop.config import Config, Stage


@dataclass(frozen=True)
class Generation:
    """Turns version k into version k+1 by training on a selection from the tickets [first_ticket, end_ticket)."""

    k: int
    stage: int
    first_ticket: int
    end_ticket: int

    @property
    def tickets(self) -> range:
        return range(self.first_ticket, self.end_ticket)


@dataclass(frozen=True)
class Plan:
    """All generations of a run, in order; generation k is `generations[k]`."""

    generations: tuple[Generation, ...]
    stages: tuple[Stage, ...]

    @classmethod
    def from_config(cls, config: Config) -> Plan:
        generations, ticket = [], 0
        for number, stage in enumerate(config.stages):
            for _ in range(stage.generations):
                generations.append(Generation(len(generations), number, ticket, ticket + stage.tickets))
                ticket += stage.tickets
        return cls(tuple(generations), tuple(config.stages))

    @property
    def num_tickets(self) -> int:
        return self.generations[-1].end_ticket

    @property
    def num_versions(self) -> int:
        """Versions that the run publishes after version 0."""
        return len(self.generations)

    def generation_of(self, ticket: int) -> Generation:
        if not 0 <= ticket < self.num_tickets:
            raise ValueError(f"ticket {ticket} is outside the plan's 0..{self.num_tickets - 1}")
        return self.generations[bisect.bisect_right(self._first_tickets, ticket) - 1]

    @cached_property
    def _first_tickets(self) -> list[int]:
        return [g.first_ticket for g in self.generations]

    @cached_property
    def _steps_before(self) -> list[int]:
        return list(accumulate((self.steps_of(g.k) for g in self.generations), initial=0))

    @cached_property
    def _stage_starts(self) -> list[int]:
        """The first generation of each stage."""
        return list(accumulate((stage.generations for stage in self.stages), initial=0))[:-1]

    def stage_of(self, k: int) -> Stage:
        return self.stages[self.generations[k].stage]

    def steps_before(self, k: int) -> int:
        """Updates of all generations before k."""
        return self._steps_before[k]

    def steps_of(self, k: int) -> int:
        return sum(phase.updates for phase in self.stage_of(k).phases)

    def examples_before(self, k: int, step: int) -> int:
        """Examples of this stage's updates before update `step` of generation k: where its corpus stream stands."""
        first = self.stage_start(k)
        phases, left = self.stage_of(k).phases, step
        examples = (k - first) * sum(phase.updates * phase.batch_size for phase in phases)
        for phase in phases:
            examples += min(left, phase.updates) * phase.batch_size
            left -= min(left, phase.updates)
        return examples

    def stage_start(self, k: int) -> int:
        """The first generation of generation k's stage, and so the version that the stage began from."""
        return self._stage_starts[self.generations[k].stage]

    def generation_named(self, source: str, k: int) -> int:
        """Which generation's selection a source of generation k's mixture is: previous, generation:K or stage:NAME."""
        kind, _, name = source.partition(":")
        if kind == "stage":
            return self.last_of_stage(name)
        return int(name) if kind == "generation" else k - 1

    def last_of_stage(self, name: str) -> int:
        """The last generation of the stage with this name.

        Raises:
            ValueError: there is none.
        """
        found = [number for number, stage in enumerate(self.stages) if stage.name == name]
        if not found:
            raise ValueError(f"no stage is named '{name}'; there are {[stage.name for stage in self.stages]}")
        return self._stage_starts[found[-1]] + self.stages[found[-1]].generations - 1

    def selections_to_keep(self, first: int) -> set[int]:
        """Selections that generations from `first` on may still read, earlier than `first`; later ones all stay.

        A source that names no earlier generation (generation:K with K after it, previous of 0) reads nothing.
        """
        kept = {first - 1} if first > 0 else set()
        for number, stage in enumerate(self.stages):
            last = self._stage_starts[number] + stage.generations - 1
            for name in {name for phase in stage.phases for name in phase.sources} if last >= first else ():
                if name.partition(":")[0] in ("generation", "stage"):
                    kept.add(self.generation_named(name, last))
        return {k for k in kept if 0 <= k < first}

    def variant_of(self, version: int) -> str | None:
        """Score variant that the stages before a version gave the network; None is the generator's own."""
        over = [stage.variant for stage, start in zip(self.stages, self._stage_starts, strict=True) if start < version]
        return next((variant for variant in reversed(over) if variant), None)

    def stage_ends(self) -> list[int]:
        """Versions at which a stage is complete; evaluated always, kept on disk always."""
        last = self.generations[-1]
        return [
            g.k + 1 for g, nxt in zip(self.generations, self.generations[1:], strict=False) if g.stage != nxt.stage
        ] + [last.k + 1]

    def versions_to_keep(self, version: int, max_staleness: int) -> set[int]:
        """Versions whose checkpoints stay: 0, the ends of stages, and what the policy store may have to read again."""
        return {0, *self.stage_ends(), *range(max(0, version - max_staleness), version + 1)}

    def required_versions(self) -> list[int]:
        """Versions whose evaluation the run does not end without: 0 and the last of every stage."""
        return [0, *self.stage_ends()]


def prompt_index(run_seed: int, ticket: int, num_prompts: int) -> int:
    """Prompt of a ticket: every prompt once before any comes again, in a seeded order of each round."""
    turn, place = divmod(ticket, num_prompts)
    order = np.random.default_rng(np.random.SeedSequence([run_seed, 1, turn])).permutation(num_prompts)
    return int(order[place])


def clip_seeds(run_seed: int, ticket: int, num_clips: int) -> list[int]:
    """Noise seeds of a ticket's clips, 63 bits each; a function of run seed and ticket alone."""
    words = np.random.SeedSequence([run_seed, 2, ticket]).generate_state(num_clips, dtype=np.uint64)
    return [int(word >> np.uint64(1)) for word in words]
