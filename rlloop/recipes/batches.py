"""From rows and draws to batches: what one rank trains on in one update.

All that is random comes from algorithms.draws by (run seed, stage, update, index in the global batch), so a batch
is the same on any number of ranks and after any resume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from rlloop.algorithms.base import Batch
from rlloop.algorithms.draws import Draw, draw_example, posterior_noise
from rlloop.config import Config, Phase
from rlloop.data.corpus import CorpusRow
from rlloop.data.rollouts import Row
from rlloop.loop.plan import Plan

CORPUS = "corpus"


class Stream(Protocol):
    """data.corpus_stream.CorpusStream."""

    corpus: Sized

    def rows(self, positions: Sequence[int]) -> list[CorpusRow]: ...


class Item(NamedTuple):
    """One example before it is batched. latents, loser: [L, D] float32, normalised unless `is_raw`."""

    draw: Draw
    prompt: str
    latents: Tensor
    score: float | None
    features: Mapping[str, np.ndarray] | None = None
    loser: Tensor | None = None
    loser_score: float | None = None
    advantage: float = 0.0
    is_raw: bool = False


def slice_of(phase: Phase, rank: int, world: int) -> tuple[range, int]:
    """Which indices of the global batch a rank has, and in how many forward passes.

    Slices differ by one example at most; the number of passes is the same on every rank, because ZeRO 2 reduces
    gradients in each. So where an elastic group does not divide the batch, micro_batch_size 1 may mean two in a pass.
    """
    cuts = [phase.batch_size * n // world for n in range(world + 1)]
    smallest, largest = phase.batch_size // world, -(-phase.batch_size // world)
    passes = -(-largest // (phase.micro_batch_size or largest))
    return range(cuts[rank], cuts[rank + 1]), min(passes, smallest)


def units(rows: Sequence[Row], takes_pairs: bool) -> list[tuple[Row, ...]]:
    """What a draw picks from a selection: single rows, or (winner, loser) of each prompt, in the rows' order.

    Raises:
        ValueError: a prompt with one of the two alone.
    """
    if not takes_pairs:
        return [(row,) for row in rows]
    pairs: dict[int, dict[str, Row]] = {}
    for row in rows:
        pairs.setdefault(row.ticket, {})[row.role] = row
    for ticket, pair in pairs.items():
        if pair.keys() != {"winner", "loser"}:
            raise ValueError(f"ticket {ticket} is selected as {sorted(pair)}; a pair is a winner and a loser")
    return [(pair["winner"], pair["loser"]) for pair in pairs.values()]


class GenerationData:
    """The batches of generation k for one rank.

    Args:
        sources: name -> units of that selection.
        stream: the corpus, where a phase reads it.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        k: int,
        generator: Any,
        sources: Mapping[str, Sequence[tuple[Row, ...]]],
        stream: Stream | None,
        device: Any = "cpu",
    ) -> None:
        self.config, self.plan, self.k, self.stage = config, plan, k, plan.stage_of(k)
        self.generator, self.sources, self.stream, self.device = generator, sources, stream, device
        self.counts = {name: len(found) for name, found in sources.items()}
        if stream is not None:
            self.counts[CORPUS] = len(stream.corpus)

    def micro_batches(self, step: int, phase: Phase, rank: int, world: int) -> list[Batch]:
        """Update `step` of the generation: this rank's slice of the global batch, cut into forward passes."""
        mine, parts = slice_of(phase, rank, world)
        items = self._items(step, phase, mine)
        cuts = [len(items) * n // parts for n in range(parts + 1)]
        return [self._collate(items[first:end]) for first, end in zip(cuts, cuts[1:], strict=False)]

    def _items(self, step: int, phase: Phase, indices: range) -> list[Item]:
        stage = self.stage
        number, stage_number = self.plan.steps_before(self.k) + step, self.plan.generations[self.k].stage
        keys = [(self.config.seed, stage_number, number, index) for index in indices]
        draws = [
            draw_example(
                key, self.counts, phase.sources, self.generator.latent_shape, stage.text_drop, stage.score_drop,
                stage.score_drop_mode, phase.weights_are,
            )
            for key in keys
        ]  # fmt: skip
        first = self.plan.examples_before(self.k, step)
        wanted = [first + index for index, draw in zip(indices, draws, strict=True) if draw.source == CORPUS]
        corpus = iter(self.stream.rows(wanted) if wanted and self.stream is not None else ())
        return [
            self._of_corpus(draw, next(corpus), key)
            if draw.source == CORPUS
            else self._of_rollouts(draw, self.sources[draw.source][draw.row])
            for draw, key in zip(draws, keys, strict=True)
        ]

    def _of_rollouts(self, draw: Draw, unit: tuple[Row, ...]) -> Item:
        row, loser = unit[0], unit[1] if len(unit) > 1 else None
        found = Item(draw, row.prompt, to_tensor(row.latents), row.score, advantage=row.advantage)
        return found if loser is None else found._replace(loser=to_tensor(loser.latents), loser_score=loser.score)

    def _of_corpus(self, draw: Draw, row: CorpusRow, key: tuple[int, int, int, int]) -> Item:
        """A sample of the row's posterior (reference.md section 3)."""
        latents = to_tensor(row.mean)
        if row.std is not None:
            latents = latents + to_tensor(row.std) * posterior_noise(key, self.generator.latent_shape)
        label = row.scores.get(self.stage.label_in_corpus)
        return Item(draw, row.prompt, latents, label, row.features, is_raw=True)

    def _collate(self, items: Sequence[Item]) -> Batch:
        drops_score = [item.draw.drops_score for item in items]
        return Batch(
            latents=self._latents(items),
            noise=self._stack([item.draw.noise for item in items]),
            t=torch.tensor([item.draw.t for item in items], dtype=torch.float32, device=self.device),
            conditions=self._conditions(items),
            score=self._labels([item.score for item in items], drops_score),
            loser=None if items[0].loser is None else self._stack([item.loser for item in items]),
            loser_score=None
            if items[0].loser is None
            else self._labels([item.loser_score for item in items], drops_score),
            advantage=torch.tensor([item.advantage for item in items], dtype=torch.float32, device=self.device),
        )

    def _latents(self, items: Sequence[Item]) -> Tensor:
        """All on the network's scale: rollouts are, rows of a corpus are not."""
        latents, is_raw = self._stack([item.latents for item in items]), [item.is_raw for item in items]
        if any(is_raw):
            raw = torch.tensor(is_raw, device=self.device)
            with torch.no_grad():
                latents[raw] = self.generator.network.normalise(latents[raw])
        return latents

    def _conditions(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Features of the prompts, those of the empty prompt where the text is dropped."""
        null = self.generator.null_conditions(len(items))
        drops = torch.tensor([item.draw.drops_text for item in items])

        def dropped(name: str, value: Tensor) -> Tensor:
            return torch.where(drops.view(-1, *[1] * (value.dim() - 1)), null[name].to(value.dtype), value)

        return {name: dropped(name, value).to(self.device) for name, value in self._features(items).items()}

    def _features(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """What a row of the corpus brings along, else what the generator makes of the prompt."""
        plain = [item.prompt for item in items if item.features is None]
        encoded = self.generator.encode_prompts(plain) if plain else {}
        names = encoded or items[0].features or {}
        place = iter(range(len(plain)))
        rows = [
            {name: value[n] for name, value in encoded.items()}
            if item.features is None and (n := next(place)) is not None
            else {name: to_tensor(value) for name, value in (item.features or {}).items()}
            for item in items
        ]
        return {name: torch.stack([row[name] for row in rows]) for name in names}

    def _stack(self, values: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(values)).to(self.device)

    def _labels(self, scores: Sequence[float | None], drops: Sequence[bool]) -> Tensor:
        """Labels, NaN (null) where dropped or missing: a missing score is never zero."""
        labels = [np.nan if drop or score is None else score for score, drop in zip(scores, drops, strict=True)]
        return torch.tensor(labels, dtype=torch.float32, device=self.device)


def to_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float32).copy())
