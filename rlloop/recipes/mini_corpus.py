"""The corpus of the mini stack: clips of the shipped generator with their measured scores, made on the spot.

A ticket is four clips of one prompt, drawn and seeded by the rule of the loop, at a conditioning score of its own.
Scores are spread over the range of the labels that the generator was trained on, so that the labels of the corpus vary.
What is stored are the latents that were generated: there is no posterior, and no audio.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from rlloop.config import Config, Role, resolve_rewards, score_name
from rlloop.data.corpus import CorpusRow, CorpusSpec
from rlloop.data.corpus_format import CORPUS_FILE
from rlloop.loop.plan import clip_seeds, prompt_index
from rlloop.recipes.corpus_parts import Collector, Outcome, row_id, write_part

VERSION = 1
CLIPS, SEED = 400, 0
CLIPS_PER_TICKET = 4
SCORE_RANGE = (-2.0, 2.0)  # of the labels that the generator was trained on (rlloop/assets/mini/MODEL_CARD.md)
GOLDEN_RATIO = 0.6180339887498949
THREADS = 2
OTHERS_S = 1800  # another process may make the corpus for so long


@dataclass(frozen=True)
class Ticket:
    """One prompt group. `score` is the conditioning score s."""

    key: str
    number: int
    prompt: str
    score: float
    clips: int


@dataclass(frozen=True)
class Rollouts:
    """What workers need to know; small."""

    config: Config
    spec: CorpusSpec
    folder: str
    seed: int


def list_tickets(prompts: Sequence[str], clips: int, seed: int) -> list[Ticket]:
    """Tickets for so many clips; their scores go on by the golden ratio, so any number of them covers the range."""
    low, high = SCORE_RANGE
    return [
        Ticket(
            key=f"{n:06d}",
            number=n,
            prompt=prompts[prompt_index(seed, n, len(prompts))],
            score=round(low + (high - low) * ((0.5 + n * GOLDEN_RATIO) % 1.0), 4),
            clips=min(CLIPS_PER_TICKET, clips - n * CLIPS_PER_TICKET),
        )
        for n in range(-(-clips // CLIPS_PER_TICKET))
    ]


class RolloutWorker:
    """Called with tickets as mappings, it samples, scores and leaves their rows, and yields an Outcome a ticket.

    Args:
        threads: of torch.
        device: "cpu", or "cuda" where the worker has a share of a GPU.
    """

    def __init__(self, job: Rollouts, threads: int, device: str):
        from rlloop.recipes.sampler import Sampler
        from rlloop.recipes.scorer import Scorer

        has_gpu = device != "cpu"
        self.job = job
        self.sampler = Sampler(job.config, Role(num_gpus=float(has_gpu), threads=threads))
        self.scorer = Scorer(job.config, job.config.scorer.all_rewards, threads, has_gpu)

    def __call__(self, tickets: Sequence[Mapping]) -> Iterator[dict]:
        for found in tickets:
            yield asdict(self._make(Ticket(**found)))

    def _make(self, ticket: Ticket) -> Outcome:
        prompts, seeds = [ticket.prompt] * ticket.clips, clip_seeds(self.job.seed, ticket.number, ticket.clips)
        settings = self.job.config.sampling.model_copy(update={"score": ticket.score})
        sample = self.sampler.sample(prompts, seeds, settings)
        scores, reasons = self.scorer.score(sample.audio, sample.sample_rate_hz, prompts)
        rows = [
            CorpusRow(row_id(ticket.key, n), ticket.prompt, mean, scores=scores[n])
            for n, mean in enumerate(self._unnormalise(sample.latents))
        ]
        write_part(Path(self.job.folder), ticket.key, rows, self.job.spec)
        missing = Counter(why for found in reasons for why in set(found.values()))
        return Outcome(ticket.key, len(rows), missing=dict(missing))

    def _unnormalise(self, latents: np.ndarray) -> np.ndarray:
        import torch

        network = self.sampler.generator.network
        with torch.inference_mode():
            found = torch.from_numpy(latents.astype(np.float32)).to(network.latent_mean.device)
            return network.unnormalise(found).cpu().numpy()


def mini_spec(config: Config) -> CorpusSpec:
    """What the rows are: latents of the mini stack's autoencoder, with the rewards of the configuration.

    Raises:
        ValueError: the configuration is of another generator.
    """
    from rlloop.recipes.latent_encoder import latent_source

    if config.generator.target != "mini":
        raise ValueError(
            f"generator.target is '{config.generator.target}'; its corpus is of clips of 'mini': give corpus=FOLDER"
        )
    source = latent_source(config)
    return CorpusSpec(source.latent_shape, source.identity(), tuple(score_name(r) for r in config.scorer.all_rewards))


def mini_digest(config: Config, clips: int, seed: int) -> str:
    """sha256 of all that decides the rows: weights, prompts, sampling, rewards, number and seed."""
    from rlloop.models.policy import ASSETS
    from rlloop.models.pretrained import content_digest

    folders = {ASSETS, Path(config.generator.options.get("assets") or ASSETS)}
    files = [path for folder in sorted(folders) for path in sorted(folder.glob("*.safetensors"))]
    rewards = [reward.model_dump(mode="json") for reward in resolve_rewards(config.scorer.all_rewards, config)]
    decisive = [
        VERSION, clips, seed, content_digest([*files, ASSETS / "prompts.jsonl"]), config.generator.text_encoder,
        config.sampling.model_dump(mode="json", exclude={"score"}), rewards,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def open_mini(folder: Path, config: Config, clips: int, seed: int) -> tuple[Collector, dict[str, Ticket], Rollouts]:
    """The collector of a mini corpus in a folder, its tickets by key, and what its workers need."""
    from rlloop.data.prompts import shipped_prompts

    spec = mini_spec(config)
    tickets = {ticket.key: ticket for ticket in list_tickets(shipped_prompts("train"), clips, seed)}
    collector = Collector(folder, spec, list(tickets), mini_digest(config, clips, seed))
    return collector, tickets, Rollouts(config, spec, str(folder.resolve()), seed)


def ensure_mini_corpus(config: Config, clips: int = CLIPS) -> Path:
    """The mini corpus of a configuration, made in this process if it is not in the cache: a few minutes, once.

    It lies in $RLLOOP_CACHE, else ~/.cache/rlloop, under corpora/mini-DIGEST. A process that was killed while making
    it is taken up by the next; of several at once one makes it and the others wait.

    Raises:
        ValueError: the configuration is not of the mini stack, or the cache cannot be written to.
    """
    mini_spec(config)
    base = Path(os.environ.get("RLLOOP_CACHE") or "~/.cache/rlloop").expanduser() / "corpora"
    folder = base / f"mini-{mini_digest(config, clips, SEED)[:16]}"
    if (folder / CORPUS_FILE).is_file():
        return folder
    try:
        base.mkdir(parents=True, exist_ok=True)
        with FileLock(base / f"{folder.name}.lock", timeout=OTHERS_S):
            if not (folder / CORPUS_FILE).is_file():
                make_here(folder, config, clips, SEED)
    except Timeout as error:
        raise ValueError(
            f"{error.lock_file}: another process makes the mini corpus since {OTHERS_S} s; end it, or set RLLOOP_CACHE"
        ) from None
    except OSError as error:
        said = error.strerror or error
        raise ValueError(f"{base} cannot be written to: {said}; RLLOOP_CACHE names another folder") from None
    return folder


def make_here(folder: Path, config: Config, clips: int, seed: int) -> None:
    """Makes a mini corpus in this process, by two threads."""
    import torch

    from rlloop.views.progress import JobProgress

    threads = torch.get_num_threads()
    collector, tickets, job = open_mini(folder, config, clips, seed)
    todo = [tickets[key] for key in collector.todo()]
    try:
        with collector, JobProgress("tickets of the mini corpus", len(todo)) as progress:
            progress.phase("making the corpus of the mini stack, once")
            collector.collect(make_in_threads(job, todo), progress.advance)
            collector.finish()
    finally:
        torch.set_num_threads(threads)


def make_in_threads(job: Rollouts, tickets: Sequence[Ticket]) -> Iterator[Outcome]:
    """Outcomes as they come. A worker a thread, and one thread of torch each: beside other work two of torch's own wait
    for each other at every product."""
    own = threading.local()

    def make(ticket: Ticket) -> list[Outcome]:
        if not hasattr(own, "worker"):
            own.worker = RolloutWorker(job, 1, "cpu")
        return [Outcome(**found) for found in own.worker([asdict(ticket)])]

    pool = ThreadPoolExecutor(THREADS)
    try:
        for done in as_completed([pool.submit(make, ticket) for ticket in tickets]):
            yield from done.result()
    finally:
        pool.shutdown(cancel_futures=True)
