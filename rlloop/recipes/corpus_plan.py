"""What preparing a corpus has to do: recordings with their captions, found and split, and what the rows will be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlloop.config import Config, RewardEntry, resolve_rewards
from rlloop.data.captions import Captioned, locate, read_captions
from rlloop.recipes.corpus_parts import Collector
from rlloop.recipes.corpus_worker import Preparation, corpus_spec
from rlloop.recipes.prompt_features import EncoderFiles
from rlloop.recipes.segments import choose_split


@dataclass(frozen=True)
class CorpusPlan:
    """Rows of key, file and caption by key; `failures` are recordings that cannot be prepared at all, by reason."""

    rows: Mapping[str, Mapping[str, str]]
    job: Preparation
    claim: str
    failures: Mapping[str, str] = field(default_factory=dict)

    def open(self) -> Collector:
        """The corpus with the keys that it lacks; what cannot be prepared is noted."""
        collector = Collector(Path(self.job.folder), self.job.spec, [*self.rows, *self.failures], self.claim)
        collector.fail(self.failures)
        return collector


def plan_corpus(
    audio: Path,
    captions: Path,
    split: str,
    config: Config,
    rewards: Sequence[str | RewardEntry],
    text: tuple[str, str, str],
    out: Path,
    batch: int,
) -> CorpusPlan:
    """Reads captions, finds their audio and checks all that can be checked before models are loaded.

    Args:
        text: FLAN-T5, CLAP and tokenizer, names or paths; used where the generator keeps text features in the row.
    Raises:
        ValueError: what a user can set right, one line.
    """
    listed = read_captions(captions)
    files, failures = locate(listed, audio)
    if not files:
        name, reason = next(iter(failures.items()))
        raise ValueError(f"{audio}: none of the {len(listed)} captions has audio there; {name}: {reason}")
    by_id = {one.id: one for one in listed}
    chosen = choose_split(list(files), split)
    for name in chosen:
        if not by_id[name].caption:
            failures[name] = "its caption is empty"
    rows = {
        name: {"key": name, "file": str(files[name].resolve()), "caption": by_id[name].caption}
        for name in chosen
        if name not in failures
    }
    encoders = encoder_files(text) if config.generator.target == "fluxaudio" else None
    check_rewards(rewards, config)
    check_captions([row["caption"] for row in rows.values()], config)
    spec = corpus_spec(config, rewards, encoders)
    job = Preparation(config, tuple(rewards), encoders, spec, str(out.resolve()), batch)
    return CorpusPlan(rows, job, claim(listed, chosen, split, audio, job), failures)


def claim(listed: Sequence[Captioned], chosen: Sequence[str], split: str, audio: Path, job: Preparation) -> str:
    """Digest of what the rows depend on. Where all are taken, audio may turn up later; a split is of what there is."""
    rewards = [reward.model_dump(mode="json") for reward in resolve_rewards(job.rewards, job.config)]
    decisive = [
        [(one.id, one.path, one.caption) for one in listed],
        split if split == "all" else [split, *chosen],
        str(audio.resolve()), job.spec.to_json(), rewards,
        job.text.spec("float16").identity if job.text else None,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def encoder_files(names: tuple[str, str, str]) -> EncoderFiles:
    from rlloop.weights import resolve

    files = EncoderFiles(*(str(resolve(name).resolve()) for name in names))
    files.check()
    return files


def check_rewards(rewards: Sequence[str | RewardEntry], config: Config) -> None:
    """Every reward exists, and no two have one name.

    Raises:
        ValueError: the first that does not.
    """
    from rlloop.rewards.registry import check_reward

    found = resolve_rewards(rewards, config)
    names = [reward.name for reward in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two rewards are named '{name}'; give each its own name")
    for reward in found:
        check_reward(reward)


def check_captions(captions: Sequence[str], config: Config) -> None:
    """The mini stack encodes prompts when it trains: it has to be able to.

    Raises:
        ValueError: captions are not among the shipped prompts, and the text encoder is not installed.
    """
    if config.generator.target == "mini":
        from rlloop.models.text import PromptFeatures, prompt_key

        features = PromptFeatures(config.generator.text_encoder)
        features.encode([caption for caption in captions if prompt_key(caption) not in features.rows][:1])
