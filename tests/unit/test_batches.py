"""Batches: the same examples on any number of ranks, labels and noise where they belong, corpus rows in their order."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlloop.algorithms.draws import posterior_noise
from rlloop.config import Phase, load
from rlloop.data.corpus import CorpusRow
from rlloop.data.rollouts import Row
from rlloop.loop.plan import Plan
from rlloop.recipes.batches import GenerationData, slice_of, units
from tests.fakes import LENGTH, WIDTH, TinyGenerator
from tests.ray.runs import FAKE


class ListStream:
    """Row p of the stream is row p of the list, again and again; remembers what was asked for."""

    def __init__(self, rows: list[CorpusRow]) -> None:
        self.corpus, self.asked = rows, []

    def rows(self, positions) -> list[CorpusRow]:
        self.asked += positions
        return [self.corpus[position % len(self.corpus)] for position in positions]


def row(ticket: int, clip: int = 0, role: str = "", score: float | None = 1.0) -> Row:
    return Row(ticket, clip, role, f"prompt {ticket}", np.full((LENGTH, WIDTH), ticket + clip / 8, np.float16), score)


def corpus_row(number: int, std: float | None = None, features=None) -> CorpusRow:
    spread = None if std is None else np.full((LENGTH, WIDTH), std, np.float32)
    mean = np.full((LENGTH, WIDTH), float(number), np.float32)
    return CorpusRow(str(number), f"corpus {number}", mean, spread, features, {"Loudness": float(number)})


def data(sources, stream=None, *overrides: str) -> GenerationData:
    config = load(FAKE, ["corpus=nowhere", "stages.0.text_drop=0", "stages.0.score_drop=0", *overrides])
    return GenerationData(config, Plan.from_config(config), 0, TinyGenerator(), sources, stream)


def phase(of: GenerationData):
    return of.stage.phases[0]


def joined(batches, name: str) -> torch.Tensor:
    return torch.cat([getattr(batch, name) for batch in batches])


def test_two_ranks_see_the_two_halves_of_what_one_sees_and_parts_of_a_batch_its_whole():
    whole = data({"current": units([row(n) for n in range(5)], False)})
    parts = data({"current": units([row(n) for n in range(5)], False)}, None, "stages.0.phases.0.micro_batch_size=2")
    one = whole.micro_batches(3, phase(whole), 0, 1)
    two = [batch for rank in (0, 1) for batch in parts.micro_batches(3, phase(parts), rank, 2)]
    assert len(one) == 1 and len(two) == 4
    for name in ("latents", "noise", "t", "score", "advantage"):
        assert torch.equal(joined(one, name), joined(two, name))


@pytest.mark.parametrize(
    ("batch", "micro", "world", "sizes", "passes"),
    [(8, None, 3, [2, 3, 3], 1), (8, 2, 3, [2, 3, 3], 2), (16, 4, 2, [8, 8], 2), (5, 1, 3, [1, 2, 2], 1)],
)
def test_unequal_slices_cover_the_batch_in_equally_many_passes(batch, micro, world, sizes, passes):
    of = Phase(batch_size=batch, micro_batch_size=micro)
    found = [slice_of(of, rank, world) for rank in range(world)]
    assert [len(indices) for indices, _ in found] == sizes and {count for _, count in found} == {passes}
    assert [n for indices, _ in found for n in indices] == list(range(batch))


def test_the_corpus_is_read_in_order_and_each_rank_asks_for_its_own():
    streams = [ListStream([corpus_row(n) for n in range(100)]) for _ in range(2)]
    overrides = ("stages.0.phases.0.sources={corpus: 1.0}",)
    found = [data({}, stream, *overrides) for stream in streams]
    for step in (0, 1):
        for rank in (0, 1):
            found[rank].micro_batches(step, phase(found[rank]), rank, 2)
    assert streams[0].asked == [0, 1, 2, 3, 8, 9, 10, 11]  # batches of 8
    assert streams[1].asked == [4, 5, 6, 7, 12, 13, 14, 15]


def test_a_corpus_row_is_a_sample_of_its_posterior_on_the_scale_of_the_network():
    rows = [corpus_row(n, std=0.25) for n in range(8)]
    of = data({}, ListStream(rows), "stages.0.phases.0.sources={corpus: 1.0}")
    (batch,) = of.micro_batches(0, phase(of), 0, 1)
    noise = posterior_noise((0, 0, 0, 3), (LENGTH, WIDTH))
    assert torch.allclose(batch.latents[3], (3 + 0.25 * noise - 0.5) / 2)  # TinyNetwork.normalise
    assert batch.score.tolist() == list(range(8))
    assert not torch.allclose(noise, batch.noise[3])


def test_features_of_a_corpus_row_go_before_those_that_the_generator_would_make():
    rows = [corpus_row(n, features={"text": np.float32(n + 0.5)}) for n in range(8)]
    of = data({}, ListStream(rows), "stages.0.phases.0.sources={corpus: 1.0}")
    (batch,) = of.micro_batches(0, phase(of), 0, 1)
    assert batch.conditions["text"].tolist() == [n + 0.5 for n in range(8)]


def test_a_mixture_keeps_each_examples_own_features_and_label():
    rollouts = [row(n, score=-1.0) for n in range(3)]
    rows = [corpus_row(n, features={"text": np.float32(99)}) for n in range(50)]
    sources = "stages.0.phases.0.sources={corpus: 1.0, current: 1.0}"
    of = data({"current": units(rollouts, False)}, ListStream(rows), sources)
    (batch,) = of.micro_batches(0, phase(of), 0, 1)
    is_corpus = batch.conditions["text"] == 99
    assert 0 < is_corpus.sum() < 8
    assert (batch.score[~is_corpus] == -1).all() and (batch.score[is_corpus] >= 0).all()


def test_a_missing_or_dropped_score_is_null_and_never_zero():
    of = data({"current": units([row(0, score=None)], False)})
    assert torch.isnan(of.micro_batches(0, phase(of), 0, 1)[0].score).all()
    dropped = data({"current": units([row(0)], False)}, None, "stages.0.score_drop=1")
    assert torch.isnan(dropped.micro_batches(0, phase(dropped), 0, 1)[0].score).all()


def test_winner_and_loser_share_noise_t_and_the_drop_of_their_labels():
    pairs = [row(0, 1, "winner", 2.0), row(0, 0, "loser", 1.0), row(1, 0, "winner", 4.0), row(1, 3, "loser", None)]
    of = data({"current": units(pairs, True)}, None, "stages.0.score_drop=0.5")
    (batch,) = of.micro_batches(0, phase(of), 0, 1)
    assert batch.noise.shape == batch.loser.shape == (8, LENGTH, WIDTH)
    for n in range(8):
        ticket = int(batch.latents[n, 0, 0])
        assert float(batch.loser[n, 0, 0]) == (0.0, 1.375)[ticket]
        if torch.isnan(batch.score[n]):
            assert torch.isnan(batch.loser_score[n])
        elif ticket == 0:
            assert float(batch.loser_score[n]) == 1.0
        else:
            assert torch.isnan(batch.loser_score[n])  # it was missing


def test_a_winner_alone_is_no_pair():
    with pytest.raises(ValueError, match="ticket 3 is selected as .'winner'.*a winner and a loser"):
        units([row(3, role="winner")], True)


def test_advantages_reach_the_loss():
    rows = [SimpleNamespace(**{**row(n).__dict__, "advantage": float(n)}) for n in range(4)]
    of = data({"current": [(one,) for one in rows]})
    (batch,) = of.micro_batches(0, phase(of), 0, 1)
    assert torch.equal(batch.advantage, batch.latents[:, 0, 0])
