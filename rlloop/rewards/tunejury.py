"""TuneJury (arXiv:2606.17006): features of a clip and its prompt to one reward. The mini heads have the same shape."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rlloop.rewards.base import Clip, Score
from rlloop.rewards.guards import score_guarded
from rlloop.weights import check_tensors, read_checkpoint, resolve

DROPOUT = 0.5
PREFIXES = ("net.", "score.")  # the release, and its forerunners
STRIDE = 4  # Linear, BatchNorm, ReLU, Dropout
BLOCKS = {"clap": 512, "mert": 1024, "text": 512}  # CLAP of the audio, MERT of the audio, CLAP of the prompt
CLAP_BLOCKS = {"clap", "text"}
PROMPTS = {"caption": lambda clip: clip.prompt, "empty": lambda clip: ""}


class TuneJuryHead(nn.Module):
    """MLP: after each hidden Linear a BatchNorm1d, ReLU and Dropout 0.5; one output (reference.md section 8.2).

    Args:
        widths: input, hidden ..., 1; the release has 2048, 1024, 512, 256, 128, 1. Two numbers make a linear head.
    """

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip(widths[:-2], widths[1:-1], strict=True):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(), nn.Dropout(DROPOUT)]
        self.net = nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
        for module in self.net:
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "TuneJuryHead":
        """Builds the head whose widths the state dict has and loads it, in evaluation mode, in float32.

        Args:
            state: keys under `net.` or the legacy `score.`.
        Raises:
            ValueError: neither prefix is there, or the layers do not fit the shape of the head.
        """
        prefix = next((p for p in PREFIXES if any(key.startswith(p) for key in state)), None)
        if prefix is None:
            raise ValueError(f"not a TuneJury head: expected keys under {PREFIXES}, found {sorted(state)[:3]}")
        own = {"net." + key.removeprefix(prefix): value.float() for key, value in state.items()}
        if foreign := [key for key in own if not key.split(".")[1].isdigit()]:
            raise ValueError(f"not a TuneJury head: expected keys {prefix}NUMBER.NAME, found {foreign[0]}")
        num_linear = len({int(key.split(".")[1]) // STRIDE for key in own})
        weights = [own.get(f"net.{STRIDE * i}.weight") for i in range(num_linear)]
        if any(weight is None or weight.ndim != 2 for weight in weights):
            raise ValueError(f"not a TuneJury head: expected a Linear every {STRIDE} layers, found {sorted(own)}")
        head = cls((weights[0].shape[1], *(weight.shape[0] for weight in weights)))
        try:
            head.load_state_dict(own)
        except RuntimeError as error:
            raise ValueError(f"not a TuneJury head: {' '.join(str(error).split())}") from error
        return head.eval()

    @property
    def num_features(self) -> int:
        """Width of the input."""
        return self.net[0].in_features

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Reward [B] of features [B, D]; with `other`, how much x is preferred to it: the logit of P(x better)."""
        score = self.net(x).squeeze(-1)
        return score if other is None else score - self.net(other).squeeze(-1)


def load_head(path: Path) -> TuneJuryHead:
    """Reads a head: a plain state dict, or one under `state_dict`, as safetensors or torch file.

    Raises:
        ValueError: not readable, not a head, or not finite; names the file.
    """
    found = read_checkpoint(path)
    state = found.get("state_dict", found)
    check_tensors(path, state, state)
    try:
        return TuneJuryHead.from_state_dict(state)
    except ValueError as error:
        raise ValueError(f"{path} is {error}") from error


class Ear(Protocol):
    """Waveforms, each [T] mono at its own rate in Hz, to features [B, dim] on the CPU, each as if it were alone."""

    dim: int

    def audio(self, waves: Sequence[np.ndarray], rates_hz: Sequence[int]) -> Tensor: ...


class SpeakingEar(Ear, Protocol):
    """Also prompts to features [B, dim] on the CPU."""

    def text(self, prompts: Sequence[str]) -> Tensor: ...


class TuneJury:
    """The reward `tunejury`: a head on [CLAP audio | MERT | CLAP text], none of them rescaled (section 8.1).

    An empty prompt is 512 zeros, not CLAP's idea of nothing. A head that was trained on fewer blocks names them.

    Args:
        head: its input is as wide as the blocks in `features` together.
        clap, mert: the ears; None where no block needs them.
        features: names of BLOCKS, always in that order.
        prompts: "caption", or "empty" to score every clip as if it had no prompt, as the published scores of corpora
            were made; which of the two arXiv:2606.21670 used is not known (section 11.1).
    Raises:
        ValueError: blocks that are unknown or not as wide as the head's input, or an ear that is missing or another.
    """

    name = "tunejury"

    def __init__(
        self,
        head: TuneJuryHead,
        clap: SpeakingEar | None,
        mert: Ear | None,
        *,
        features: Sequence[str] = tuple(BLOCKS),
        prompts: str = "caption",
    ):
        self.features = check_blocks(features, head.num_features)
        for block in self.features:
            ear = mert if block == "mert" else clap
            if ear is None or ear.dim != BLOCKS[block]:
                found = "there is no ear" if ear is None else f"the ear gives {ear.dim}"
                raise ValueError(f"tunejury: {block} is {BLOCKS[block]} features, {found}; expected the published one")
        if prompts not in PROMPTS:
            raise ValueError(f"tunejury: prompts {prompts!r}, expected one of {', '.join(PROMPTS)}")
        self.head = head.eval().requires_grad_(False)
        self.clap, self.mert = clap, mert
        self.read_prompt = PROMPTS[prompts]

    def score(self, clips: Sequence[Clip]) -> list[Score]:
        return score_guarded(clips, lambda good: self.head(self.embed(good)).tolist())

    def embed(self, clips: Sequence[Clip]) -> Tensor:
        """[B, D] features of clips, the blocks side by side."""
        waves, rates = [clip.audio for clip in clips], [clip.sample_rate_hz for clip in clips]
        blocks = {
            "clap": lambda: self.clap.audio(waves, rates),
            "mert": lambda: self.mert.audio(waves, rates),
            "text": lambda: self._text([self.read_prompt(clip) for clip in clips]),
        }
        return torch.cat([blocks[name]() for name in self.features], dim=1)

    def _text(self, prompts: list[str]) -> Tensor:
        out = torch.zeros(len(prompts), BLOCKS["text"])
        rows = [row for row, prompt in enumerate(prompts) if prompt.strip()]
        if rows:
            out[rows] = self.clap.text([prompts[row] for row in rows])
        return out


def check_blocks(features: Sequence[str], num_features: int) -> tuple[str, ...]:
    """The named blocks in their fixed order.

    Raises:
        ValueError: an unknown name, or blocks that are not `num_features` wide together.
    """
    unknown = [name for name in features if name not in BLOCKS]
    if unknown or not features:
        raise ValueError(f"tunejury: features {', '.join(unknown) or 'none'}, expected some of {', '.join(BLOCKS)}")
    chosen = tuple(name for name in BLOCKS if name in features)
    width = sum(BLOCKS[name] for name in chosen)
    if width != num_features:
        sizes = " + ".join(f"{name} {BLOCKS[name]}" for name in chosen)
        raise ValueError(
            f"tunejury: the head takes {num_features} features, but {sizes} make {width}; "
            "name the blocks that it was trained on with features"
        )
    return chosen


def tunejury(
    head: Path | str = "tunejury",
    clap: Path | str = "clap_scoring",
    tokenizer: Path | str = "roberta_base",
    mert: Path | str = "mert_v1_330m",
    *,
    features: Sequence[str] = tuple(BLOCKS),
    prompts: str = "caption",
    device: str = "auto",
    batch_size: int = 16,
    crop: str = "random",
    seed: int = 0,
    quantise: bool = True,
) -> TuneJury:
    """The reward `tunejury` as a configuration builds it; ears that `features` does not need are not loaded.

    Args:
        head: TuneJury's, a path or a name of the catalogue; so are the others.
        features, prompts: see TuneJury.
        device: cpu, cuda or auto: cuda where there is one.
        batch_size: clips of 10 s in one forward pass.
        crop, seed, quantise: see ClapEmbedder.
    Raises:
        ValueError: weights that are not here, damaged, or of another architecture.
    """
    from rlloop.rewards.clap import shared_embedder
    from rlloop.rewards.mert import MertEmbedder

    found = load_head(resolve(head))
    chosen = set(check_blocks(features, found.num_features))
    options = {"crop": crop, "seed": seed, "quantise": quantise, "batch_size": batch_size}
    return TuneJury(
        found,
        shared_embedder(clap, tokenizer, device, **options) if chosen & CLAP_BLOCKS else None,
        MertEmbedder.from_folder(resolve(mert), device, batch_size) if "mert" in chosen else None,
        features=features,
        prompts=prompts,
    )
