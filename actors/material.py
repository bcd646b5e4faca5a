"""What a generation trains with: its algorithm, the rows of its selections, its corpus, its frozen reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from actors.learner import Learner
from actors.session import Session
from rlloop.algorithms.base import load_algorithm
from rlloop.config import Stage
from rlloop.data.corpus import open_corpus
from rlloop.data.corpus_stream import CorpusStream
from rlloop.data.rollouts import Row, read_selected
from rlloop.loop import checkpoints
from rlloop.loop.records import Selected
from rlloop.recipes.batches import GenerationData, units
from rlloop.recipes.sampler import load_arrays


class Material:
    """Gathers it for one rank; keeps the corpus stream of a stage and the reference of its start.

    Args:
        ask: `selection(k)` as every rank gets it: (kind, what is selected).
    """

    def __init__(self, session: Session, generator: Any, device: Any, ask: Callable[[int], tuple[str, Any]]) -> None:
        self.session, self.config, self.plan = session, session.config, session.plan
        self.generator, self.device, self.ask = generator, device, ask
        self.stream, self.reference = None, None

    def learner(self, k: int, stage: Stage, selected: Selected) -> Learner:
        """What generation k trains with."""
        algorithm = load_algorithm(stage.algorithm, stage.options)
        sources = {name: units(found, algorithm.takes_pairs) for name, found in self._sources(k, selected).items()}
        data = GenerationData(self.config, self.plan, k, self.generator, sources, self._stream(k), self.device)
        self.reference = self._reference(k) if algorithm.needs_reference else None
        reference = self.reference and self.reference[1]
        return Learner(algorithm, data, reference, self.config.trainer.precision)

    def _sources(self, k: int, selected: Selected) -> dict[str, Sequence[Row]]:
        """Rows of every selection that a phase of generation k reads, with the label of its stage."""
        stage, chosen = self.plan.stage_of(k), {"current": selected}
        for name in sorted({name for phase in stage.phases for name in phase.sources} - {"current", "corpus"}):
            earlier = self.plan.generation_named(name, k)
            kind, found = self.ask(earlier) if 0 <= earlier < k else ("skip", None)
            chosen[name] = found if kind == "rows" else Selected(earlier, ())
        path, label = self.session.path, stage.label_score
        return {name: read_selected(path, one.examples, one.advantages, label) for name, one in chosen.items()}

    def _stream(self, k: int) -> CorpusStream | None:
        """The corpus in this stage's order, where a phase of it reads the corpus."""
        number = self.plan.generations[k].stage
        if self.stream is not None and self.stream[0] != number:
            self.stream[1].close()
            self.stream = None
        if self.stream is None and any("corpus" in phase.sources for phase in self.plan.stage_of(k).phases):
            corpus = open_corpus(self.session.corpus)
            self.stream = number, CorpusStream(corpus, self.config.seed, number, self.config.corpus_window)
        return self.stream and self.stream[1]

    def _reference(self, k: int):
        """(version, network) as the stage began, frozen; it has no optimizer."""
        start = self.plan.stage_start(k)
        if self.reference is None or self.reference[0] != start:
            path = checkpoints.folder(self.session.path, start)
            checkpoints.read_marker(path)
            network = deepcopy(self.generator.network).eval().requires_grad_(False)
            load_arrays(network, checkpoints.read_weights(path))
            return start, network.to(self.device)
        return self.reference
