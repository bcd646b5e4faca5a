"""Measures the trained mini rewards on held-out prompts and writes card_rewards.json, which the model card quotes."""

import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from rlloop.models.text import PromptFeatures
from rlloop.recipes.mini_heads import apply_head
from rlloop.recipes.mini_table import Table
from rlloop.rewards.agreement import bootstrap_interval, pearson, right_of_ten, within_system_spearman
from rlloop.rewards.alignment import AlignmentHead
from rlloop.rewards.base import Clip
from rlloop.rewards.guards import refuse
from rlloop.rewards.mini import ASSETS, AlignmentReward, Ear, HeadReward, prepare

VIEWS = ("whole", "window", "codec", "blurred", "low_pass", "noise")
CLIP_SECONDS = 5.0
RATE_HZ = 16_000
HEADS = {"tunejury_mini": "mtt", "judge_mini": "msd"}


def write_card(table: Table, text: np.ndarray, chosen: dict[str, dict], out_dir: Path) -> dict:
    """All figures of the rewards in `out_dir`; `chosen` is what training decided and its cross-validation."""
    held = table.is_heldout
    heads = {name: load_file(out_dir / f"{name}.safetensors") for name in HEADS}
    predicted = {name: apply_head(heads[name], table.features[ear]["whole"][held]) for name, ear in HEADS.items()}
    alignment = load_file(out_dir / "alignment_mini.safetensors")
    card: dict = {
        "clips": {"train": int((~held).sum()), "heldout": int(held.sum()), "heldout_prompts": "60 to 79"},
        "real_tunejury_by_system": by_system(table.labels[held], table.systems[held]),
    }
    for name, ear in HEADS.items():
        card[name] = {**chosen[name], **measure_head(heads[name], table, ear), **measure_noise(name, out_dir)}
    card["reward_and_judge_pearson"] = pearson(predicted["tunejury_mini"], predicted["judge_mini"])
    card["alignment_mini"] = {
        **chosen["alignment_mini"],
        "chance": 0.1,
        **{view: measure_alignment(alignment, table, text, held, view) for view in ("whole", "window", "codec")},
    }
    card["seconds_per_5_s_clip_one_thread"] = measure_seconds(out_dir)
    (out_dir / "card_rewards.json").write_text(json.dumps(rounded(card), indent=2) + "\n", encoding="utf-8")
    return card


def measure_head(state: dict[str, Tensor], table: Table, ear: str) -> dict:
    """Agreement with the real labels on the held-out prompts, and the mean score of every view."""
    held = table.is_heldout
    labels, systems = table.labels[held], table.systems[held]
    scores = {view: apply_head(state, table.features[ear][view][held]) for view in VIEWS}
    whole = scores["whole"]
    return {
        "pearson": {view: pearson(scores[view], labels) for view in ("whole", "window", "codec", "blurred")},
        "pearson_whole_95": bootstrap_interval(lambda i: pearson(whole[i], labels[i]), table.prompts[held]),
        "within_system_spearman": {v: within_system_spearman(scores[v], labels, systems) for v in ("whole", "window")},
        "score_by_system": by_system(whole, systems),
        "mean_score": {view: scores[view].mean() for view in VIEWS},
        "share_lowered": {v: np.mean(scores[v] < scores["window"]) for v in ("low_pass", "noise")},
    }


def measure_noise(name: str, out_dir: Path) -> dict:
    """Scores of white noise and of silence; silence is refused by the guards, so its score is the bare head's."""
    reward = HeadReward(name, Ear(ASSETS / f"musicnn_{HEADS[name]}.safetensors"), out_dir / f"{name}.safetensors")
    length = int(CLIP_SECONDS * RATE_HZ)
    noise = Clip(0.1 * np.random.default_rng(0).standard_normal(length).astype(np.float32), RATE_HZ, "")
    silence = Clip(np.zeros(length, np.float32), RATE_HZ, "")
    return {
        "white_noise": reward.score([noise])[0].value,
        "silence_unguarded": reward.head(reward.ear.hear([silence])).item(),
        "silence": refuse(silence),
    }


def measure_alignment(state: dict[str, Tensor], table: Table, text: np.ndarray, rows: np.ndarray, view: str) -> dict:
    """Right-of-ten among the prompts of `rows` [N of truth values], and Pearson with the real CLAP score.

    Args:
        text: [M, 384] sentence embeddings of the shipped prompts, in order.
    """
    choices, truth = np.unique(table.prompts[rows], return_inverse=True)
    head = AlignmentHead.from_state_dict(state)
    features = torch.from_numpy(table.features["mtt"][view][rows])
    with torch.no_grad():
        cosine = head(features, torch.from_numpy(text[choices])).numpy()
    systems = table.systems[rows]
    own = cosine[np.arange(len(truth)), truth]
    return {
        "right_of_ten": right_of_ten(cosine, truth),
        "right_of_ten_by_system": {
            str(name): right_of_ten(cosine[systems == name], truth[systems == name]) for name in np.unique(systems)
        },
        "pearson_with_clap": pearson(own, table.clap[rows]),
        "score_by_system": by_system(own, systems),
    }


def measure_seconds(out_dir: Path, num_clips: int = 8) -> dict[str, float]:
    """Seconds of one thread for a 5 s clip at 16 kHz in a batch of eight, after one warm-up batch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ear = Ear(ASSETS / "musicnn_mtt.safetensors")
    encode = PromptFeatures().encode
    rewards = {
        "tunejury_mini": HeadReward("tunejury_mini", ear, out_dir / "tunejury_mini.safetensors"),
        "alignment_mini_after_it": AlignmentReward(ear, out_dir / "alignment_mini.safetensors", encode),
    }
    rng = np.random.default_rng(0)
    length = int(CLIP_SECONDS * RATE_HZ)
    seconds = {}
    for _ in range(2):
        audio = 0.1 * rng.standard_normal((num_clips, length)).astype(np.float32)
        clips = [Clip(samples, RATE_HZ, "") for samples in audio]
        for name, reward in rewards.items():
            start = time.process_time()
            reward.score(clips)
            seconds[name] = (time.process_time() - start) / num_clips
        start = time.process_time()
        for clip in clips:
            prepare(clip)
        seconds["loudness"] = (time.process_time() - start) / num_clips
    torch.set_num_threads(threads)
    return seconds


def by_system(values: np.ndarray, systems: np.ndarray) -> dict[str, float]:
    """Mean of values [N] for every system."""
    return {str(name): float(values[systems == name].mean()) for name in np.unique(systems)}


def rounded(value):
    """Numbers to three decimals, through dicts and sequences, for a file that people read."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return round(float(value), 3) if isinstance(value, (float, np.floating)) else value
