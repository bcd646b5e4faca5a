"""Recordings to rows of a corpus: latents, text features, reward labels. Plain class, no Ray.

read -> cut into segments -> encoded, captions too -> scored -> left as a part (rlloop/recipes/corpus_parts.py)

A recording that cannot be prepared costs itself, with a reason, and nothing else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rlloop.audio.io import read_audio
from rlloop.config import Config, RewardEntry, score_name
from rlloop.data.corpus import CorpusRow, CorpusSpec
from rlloop.models.clap_text import ClapText
from rlloop.models.t5 import MAX_TOKENS, FlanT5
from rlloop.recipes.corpus_parts import Outcome, row_id, write_part
from rlloop.recipes.latent_encoder import LatentEncoder, latent_source
from rlloop.recipes.prompt_features import CLAP_WIDTH, EncoderFiles
from rlloop.recipes.scorer import Scorer
from rlloop.recipes.segments import cut_segments
from rlloop.rewards.base import Clip
from rlloop.rewards.guards import refuse_rate

MAX_RECORDING_SECONDS = 3600.0  # a whole one is decoded at once: 1.3 GB of an hour in stereo at 44.1 kHz


@dataclass(frozen=True)
class Preparation:
    """What workers need to know; small. `text` None: the generator encodes prompts itself when it trains."""

    config: Config
    rewards: tuple[str | RewardEntry, ...]
    text: EncoderFiles | None
    spec: CorpusSpec
    folder: str
    batch: int


def corpus_spec(config: Config, rewards: Sequence[str | RewardEntry], text: EncoderFiles | None) -> CorpusSpec:
    """What the rows will be; reads the autoencoder's file for its digest and loads nothing.

    Raises:
        ValueError: a file is missing, or the generator's autoencoder is not known.
    """
    source = latent_source(config)
    names = tuple(score_name(reward) for reward in rewards)
    return CorpusSpec(source.latent_shape, source.identity(), names, {} if text is None else text_shapes(text))


def text_shapes(files: EncoderFiles) -> dict[str, tuple[int, ...]]:
    """Shapes of a caption's features, from the encoders' configurations."""
    files.check()
    clap, width = Path(files.clap), CLAP_WIDTH
    if clap.is_dir():  # in the layout of transformers; a published file has the published width
        width = json.loads((clap / "config.json").read_text()).get("projection_dim", CLAP_WIDTH)
    return {
        "text": (MAX_TOKENS, json.loads((Path(files.t5) / "config.json").read_text())["d_model"]),
        "text_c": (width,),
    }


class CorpusWorker:
    """Called with rows of key, file and caption, it yields an Outcome a row, as a mapping.

    Args:
        threads: of torch. device: "cpu", or "cuda" where the worker has a share of a GPU.
    Raises:
        ValueError: a part cannot be loaded, or is another than the job began with.
    """

    def __init__(self, preparation: Preparation, threads: int, device: str):
        self.job, config = preparation, preparation.config
        self.scorer = Scorer(config, list(preparation.rewards), threads, has_gpu=device != "cpu")
        source = latent_source(config)
        if source.identity() != preparation.spec.latent_identity:
            raise ValueError(f"{source.path} is another file here than the job began with; give every machine the same")
        self.encoder = LatentEncoder(source, device)
        self.text = None
        self.unscored: dict[str, str] = {}  # key -> why its recording has no scores
        if text := preparation.text:
            self.text = FlanT5(text.t5, device), ClapText(text.clap, text.tokenizer, device)

    def __call__(self, rows: Sequence[Mapping[str, str]]) -> Iterator[dict]:
        for first in range(0, len(rows), self.job.batch):
            for outcome in self._prepare(rows[first : first + self.job.batch]):
                yield asdict(outcome)

    def _prepare(self, rows: Sequence[Mapping[str, str]]) -> Iterator[Outcome]:
        audio: dict[str, np.ndarray] = {}
        self.unscored = {}
        for row in rows:
            try:
                audio[row["key"]] = self._segments(row)
            except Exception as error:  # whatever a strange file makes a decoder raise
                yield Outcome(row["key"], 0, reason(error).removeprefix(f"{row['file']}: "))
        yield from self._leave([row for row in rows if row["key"] in audio], audio)

    def _segments(self, row: Mapping[str, str]) -> np.ndarray:
        source = self.encoder.source
        recording, rate = read_audio(row["file"], max_seconds=MAX_RECORDING_SECONDS)
        if low := refuse_rate(rate):
            self.unscored[row["key"]] = low
        return cut_segments(recording, rate, source.spec.mel.sample_rate_hz, source.num_samples)

    def _leave(self, rows: Sequence[Mapping[str, str]], audio: Mapping[str, np.ndarray]) -> Iterator[Outcome]:
        """Encodes, scores and leaves recordings together; where that fails, each by itself."""
        try:
            made = self._rows(rows, audio) if rows else {}
        except Exception as error:
            if len(rows) == 1:
                yield Outcome(rows[0]["key"], 0, reason(error))
                return
            for row in rows:
                yield from self._leave([row], audio)
            return
        for key, (found, missing) in made.items():
            try:
                write_part(Path(self.job.folder), key, found, self.job.spec)
                yield Outcome(key, len(found), missing=dict(missing))
            except ValueError as error:  # what the system says of the folder ends the job
                yield Outcome(key, 0, reason(error))

    def _rows(
        self, rows: Sequence[Mapping[str, str]], audio: Mapping[str, np.ndarray]
    ) -> dict[str, tuple[list[CorpusRow], Counter[str]]]:
        """Rows by key, and how often a score is missing why."""
        owners = [row for row in rows for _ in audio[row["key"]]]
        waves = np.concatenate([audio[row["key"]] for row in rows])
        parts = [slice(n, n + self.job.batch) for n in range(0, len(waves), self.job.batch)]
        mean, std = (np.concatenate(x) for x in zip(*(self.encoder.encode(waves[p]) for p in parts), strict=True))
        scores, reasons = [], []
        for part in parts:
            for found, into in zip(self._score(owners[part], waves[part]), (scores, reasons), strict=True):
                into += found
        features = self._features(rows)
        made: dict[str, tuple[list[CorpusRow], Counter[str]]] = {row["key"]: ([], Counter()) for row in rows}
        for n, owner in enumerate(owners):
            found, missing = made[owner["key"]]
            name = row_id(owner["key"], len(found))
            found.append(CorpusRow(name, owner["caption"], mean[n], std[n], features.get(owner["key"]), scores[n]))
            missing.update(set(reasons[n].values()))
        return made

    def _score(self, owners: Sequence[Mapping[str, str]], waves: np.ndarray) -> tuple[list[dict], list[dict]]:
        rate = self.encoder.source.spec.mel.sample_rate_hz
        scores, reasons = self.scorer.score_clips(
            [Clip(wave, rate, owner["caption"]) for wave, owner in zip(waves, owners, strict=True)]
        )
        for n, owner in enumerate(owners):  # rewards hear the clip at the autoencoder's rate, not at the file's
            if low := self.unscored.get(owner["key"]):
                scores[n], reasons[n] = dict.fromkeys(scores[n]), dict.fromkeys(scores[n], low)
        return scores, reasons

    def _features(self, rows: Sequence[Mapping[str, str]]) -> dict[str, dict[str, np.ndarray]]:
        """Text features by key, of the caption alone, without a prefix (reference.md section 6)."""
        if self.text is None:
            return {}
        captions = [row["caption"] for row in rows]
        text, text_c = (encoder.encode(captions).cpu().numpy() for encoder in self.text)
        return {row["key"]: {"text": text[n], "text_c": text_c[n]} for n, row in enumerate(rows)}


def reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
