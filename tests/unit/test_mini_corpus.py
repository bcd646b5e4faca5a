"""The mini stack's own corpus: which tickets, what its rows are, and that it is made once."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from rlloop.config import Role, load
from rlloop.data.corpus import open_corpus
from rlloop.data.prompts import shipped_prompts
from rlloop.loop.plan import clip_seeds, prompt_index
from rlloop.recipes import mini_corpus
from rlloop.recipes.corpus_parts import Outcome
from rlloop.recipes.sampler import Sampler

FAST = ["generator.text_encoder=words", "sampling.num_steps=1"]


def make(folder, config, clips, keys=None):
    collector, tickets, job = mini_corpus.open_mini(folder, config, clips, seed=0)
    with collector:
        worker = mini_corpus.RolloutWorker(job, 1, "cpu")
        rows = [asdict(tickets[key]) for key in collector.todo()[:keys]]
        collector.collect((Outcome(**found) for found in worker(rows)), lambda *done: None)
        if keys is None:
            collector.finish()
    return collector


def test_tickets_cover_prompts_and_scores():
    prompts = shipped_prompts("train")
    tickets = mini_corpus.list_tickets(prompts, 242, seed=5)
    assert [ticket.clips for ticket in tickets] == [4] * 60 + [2]
    assert {ticket.prompt for ticket in tickets[:60]} == set(prompts)
    assert tickets[7].prompt == prompts[prompt_index(5, 7, 60)]
    scores = np.sort([ticket.score for ticket in tickets])
    assert scores[0] < -1.9 and scores[-1] > 1.9 and np.diff(scores).max() < 0.12  # evenly: 4 / 61 = 0.066
    assert abs(scores.mean()) < 0.05


def test_rows_are_the_sampled_latents_with_their_scores(tmp_path):
    config = load("paper_mini", FAST)
    make(tmp_path, config, 6)
    corpus = open_corpus(tmp_path)
    rows = list(corpus)
    assert [row.id for row in rows] == [f"000000_{n}" for n in range(4)] + ["000001_0", "000001_1"]
    assert corpus.score_names == ("tunejury_mini", "alignment_mini") and corpus.latent_shape == (156, 32)
    ticket = mini_corpus.list_tickets(shipped_prompts("train"), 6, 0)[0]
    sampler = Sampler(config, Role(threads=1))
    settings = config.sampling.model_copy(update={"score": ticket.score})
    sample = sampler.sample([ticket.prompt] * 4, clip_seeds(0, 0, 4), settings)
    network = sampler.generator.network
    for row, latents in zip(rows[:4], sample.latents, strict=True):
        assert row.std is None and row.features is None and row.prompt == ticket.prompt
        back = network.normalise(torch.from_numpy(row.mean)[None])[0].numpy()
        np.testing.assert_allclose(back, latents.astype(np.float32), atol=6e-3)
        assert np.isfinite(row.scores["tunejury_mini"]) and np.isfinite(row.scores["alignment_mini"])


def test_a_stopped_one_goes_on_and_is_the_same(tmp_path):
    config = load("paper_mini", FAST)
    make(tmp_path / "a", config, 6)
    make(tmp_path / "b", config, 6, keys=1)
    assert make(tmp_path / "b", config, 6).resumed == 1
    for name in ("part-00000.parquet", "corpus.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_it_is_made_once_for_what_decides_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RLLOOP_CACHE", str(tmp_path))
    config, threads = load("paper_mini", FAST), torch.get_num_threads()
    folder = mini_corpus.ensure_mini_corpus(config, clips=4)
    assert folder.parent == tmp_path / "corpora" and folder.name.startswith("mini-") and len(open_corpus(folder)) == 4
    assert torch.get_num_threads() == threads
    other = load("paper_mini", [*FAST, "seed=9", "sampling.score=0.3"])  # neither decides anything
    before = (folder / "corpus.json").stat().st_mtime_ns
    assert mini_corpus.ensure_mini_corpus(other, clips=4) == folder
    assert (folder / "corpus.json").stat().st_mtime_ns == before
    digests = {mini_corpus.mini_digest(load("paper_mini", more), 4, 0) for more in (FAST, FAST[:1], FAST[1:])}
    assert len(digests) == 3


def test_other_generators_have_no_mini_corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("RLLOOP_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="generator.target is 'tests.fakes:tiny_generator'.*give corpus=FOLDER"):
        mini_corpus.ensure_mini_corpus(load("tests/fake.yaml"))
    assert not list(tmp_path.iterdir())
