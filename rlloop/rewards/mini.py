"""The rewards of the mini stack: musicnn's ears with small heads fitted to real TuneJury labels.

`tunejury_mini` and `alignment_mini` hear through MTT_musicnn, `judge_mini` through MSD_musicnn, which is trained on
other data: nothing is ever selected or trained on the judge. None of them is TuneJury or CLAP, and none is called so.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlloop.audio.io import resample
from rlloop.audio.loudness import fix_loudness
from rlloop.rewards.alignment import AlignmentHead
from rlloop.rewards.base import Clip, Reward, Score
from rlloop.rewards.guards import score_guarded
from rlloop.rewards.musicnn import SAMPLE_RATE_HZ, MusiCNN
from rlloop.rewards.tunejury import load_head
from rlloop.weights import check_tensors, read_checkpoint

ASSETS = Path(__file__).parents[1] / "assets" / "mini"
MINI_NAMES = ("tunejury_mini", "alignment_mini", "judge_mini")
EncodePrompts = Callable[[Sequence[str]], dict[str, Tensor]]


class Ear:
    """Clips to musicnn features at 16 kHz and -18 LUFS, remembering the last batch, which several rewards ask for."""

    def __init__(self, weights: Path):
        self.model = MusiCNN.from_file(weights)
        self._clips: list[Clip] = []
        self._features = torch.empty(0)

    def hear(self, clips: Sequence[Clip]) -> Tensor:
        """[B, 200] features; clips of one length share a forward pass."""
        if len(clips) != len(self._clips) or any(a is not b for a, b in zip(clips, self._clips, strict=True)):
            self._clips, self._features = list(clips), self._embed(clips)
        return self._features

    def _embed(self, clips: Sequence[Clip]) -> Tensor:
        audio = [prepare(clip) for clip in clips]
        features = torch.empty(len(clips), self.model.dense.out_features)
        for length in sorted({len(samples) for samples in audio}):
            rows = [row for row, samples in enumerate(audio) if len(samples) == length]
            features[rows] = self.model.embed(torch.from_numpy(np.stack([audio[row] for row in rows])))
        return features


def prepare(clip: Clip) -> np.ndarray:
    """[T] float32 at 16 kHz and -18 LUFS: what every mini reward hears."""
    return fix_loudness(resample(clip.audio, clip.sample_rate_hz, SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)


class HeadReward:
    """A TuneJury-shaped head on an ear's features; the prompt is not heard."""

    def __init__(self, name: str, ear: Ear, head: Path):
        self.name = name
        self.ear = ear
        self.head = load_head(head).requires_grad_(False)

    def score(self, clips: Sequence[Clip]) -> list[Score]:
        return score_guarded(clips, lambda good: self.head(self.ear.hear(good)).tolist())


def mini_head(head: Path | str, name: str = "mini_head") -> HeadReward:
    """A head of `rlloop reward train` on votes, as `scorer.rewards` can name it: what it was trained to hear, heard.

    Args:
        head: its head.safetensors.
    Raises:
        ValueError: not readable, not a head, or not as wide as the ear.
    """
    reward = HeadReward(name, Ear(ASSETS / "musicnn_mtt.safetensors"), Path(head))
    wanted, found = reward.ear.model.dense.out_features, reward.head.num_features
    if wanted != found:
        raise ValueError(f"{head} hears {found} features, the bundled ear has {wanted}; name a head trained on votes")
    return reward


class AlignmentReward:
    """Cosine between a clip's features and its prompt's sentence embedding, both projected (rewards/alignment.py).

    Args:
        encode_prompts: prompts to a dict with "text_c" [B, 384]; a ValueError for a prompt makes its score missing.
    """

    name = "alignment_mini"

    def __init__(self, ear: Ear, head: Path, encode_prompts: EncodePrompts):
        self.ear = ear
        self.head = load_alignment(head).requires_grad_(False)
        self.encode_prompts = encode_prompts

    def score(self, clips: Sequence[Clip]) -> list[Score]:
        return score_guarded(clips, self._values)

    def _values(self, clips: list[Clip]) -> list[float | Score]:
        text = {prompt: self._encode(prompt) for prompt in dict.fromkeys(clip.prompt for clip in clips)}
        values: list[float | Score] = []
        for feature, clip in zip(self.ear.hear(clips), clips, strict=True):
            found = text[clip.prompt]
            values.append(found if isinstance(found, Score) else self.head(feature[None], found[None]).item())
        return values

    def _encode(self, prompt: str) -> Tensor | Score:
        if not prompt.strip():
            return Score(None, "no prompt to compare the clip with")
        try:
            return self.encode_prompts([prompt])["text_c"][0]
        except ValueError as error:
            return Score(None, str(error))


def load_alignment(path: Path) -> AlignmentHead:
    """Reads an alignment head, whose sizes are those of its file.

    Raises:
        ValueError: not readable, not a head, or not finite; names the file and the first key.
    """
    state = read_checkpoint(path)
    audio, text = state.get("audio"), state.get("text")
    if not isinstance(audio, Tensor) or not isinstance(text, Tensor) or audio.ndim != 3 or text.ndim != 3:
        raise ValueError(
            f"{path} is no alignment head: expected audio and text of [S, features, D], found {[*state][:3]}"
        )
    head = AlignmentHead(audio.shape[0], audio.shape[2], audio.shape[1], text.shape[1])
    check_tensors(path, state, head.state_dict())
    return AlignmentHead.from_state_dict(state)


def mini_rewards(names: Sequence[str], encode_prompts: EncodePrompts, assets: Path | None = None) -> list[Reward]:
    """Builds the named mini rewards in that order; those with the same ear share it.

    Args:
        names: of "tunejury_mini", "alignment_mini", "judge_mini".
        encode_prompts: see AlignmentReward.
        assets: folder with the weights; the shipped one by default.
    Raises:
        ValueError: an unknown name.
    """
    assets = assets or ASSETS
    for name in names:
        if name not in MINI_NAMES:
            raise ValueError(f"reward {name!r}: expected one of {', '.join(MINI_NAMES)}")
    kinds = {name: "musicnn_msd" if name == "judge_mini" else "musicnn_mtt" for name in names}
    ears = {kind: Ear(assets / f"{kind}.safetensors") for kind in set(kinds.values())}
    rewards: list[Reward] = []
    for name in names:
        head = assets / f"{name}.safetensors"
        if name == "alignment_mini":
            rewards.append(AlignmentReward(ears[kinds[name]], head, encode_prompts))
        else:
            rewards.append(HeadReward(name, ears[kinds[name]], head))
    return rewards
