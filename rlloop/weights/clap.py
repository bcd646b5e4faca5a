"""LAION-CLAP checkpoints as transformers' ClapModel, key by key; laion-clap itself is not needed (environment.md).

The two implementations are one network under different names, except that LAION fuses query, key and value, and carries
constants and heads that embeddings do not need. Both sides read text here, so its encoding is here too.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlloop.weights.reading import check_tensors, read_checkpoint

if TYPE_CHECKING:
    from transformers import ClapConfig, ClapModel, RobertaTokenizer

SAMPLE_RATE_HZ = 48_000
NUM_FFT, HOP, NUM_MELS, MEL_RANGE_HZ = 1024, 480, 64, (50.0, 14_000.0)
NUM_TOKENS = 77
MEL_KEY = "audio_branch.logmel_extractor.melW"

RENAMED = (  # transformers -> LAION, in this order
    (r"^text_model\.", "text_branch."),
    (r"^(audio|text)_projection\.linear1\.", r"\1_projection.0."),
    (r"^(audio|text)_projection\.linear2\.", r"\1_projection.2."),
    (r"^audio_model\.audio_encoder\.batch_norm\.", "audio_branch.bn0."),
    (r"^audio_model\.audio_encoder\.", "audio_branch."),
    (r"^(audio_branch\..*)\.layernorm_before\.", r"\1.norm1."),
    (r"^(audio_branch\..*)\.layernorm_after\.", r"\1.norm2."),
    (r"^(audio_branch\..*)\.attention\.output\.dense\.", r"\1.attn.proj."),
    (r"^(audio_branch\..*)\.attention\.self\.(?:query|key|value)\.", r"\1.attn.qkv."),
    (r"^(audio_branch\..*)\.attention\.self\.", r"\1.attn."),
    (r"^(audio_branch\..*)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"^(audio_branch\..*)\.output\.dense\.", r"\1.mlp.fc2."),
)
CONSTANTS = ("position_ids", "token_type_ids", "relative_position_index")  # ClapModel makes its own
UNNEEDED = (
    r".*\.(position_ids|token_type_ids|relative_position_index|attn_mask)",
    r"audio_branch\.spectrogram_extractor\..*",  # the Fourier basis as a convolution
    r"audio_branch\.(tscam_conv|head)\..*",  # tags
    r"(audio|text)_transform\..*",  # second projections, of the training loss only
)


def clap_config() -> ClapConfig:
    """HTSAT-base without fusion, roberta-base, 512 dimensions: the form of both published checkpoints."""
    from transformers import ClapConfig

    return ClapConfig(
        text_config={"layer_norm_eps": 1e-5},  # roberta-base; transformers' default for CLAP is 1e-12
        audio_config={
            "hidden_size": 1024,
            "patch_embeds_hidden_size": 128,
            "depths": [2, 2, 12, 2],
            "num_attention_heads": [4, 8, 16, 32],
            "enable_fusion": False,
        },
        projection_dim=512,
    )


def load_clap(checkpoint: Path, config: ClapConfig | None = None) -> ClapModel:
    """Builds the model and fills it from a LAION-CLAP checkpoint, in evaluation mode, in float32, on the CPU.

    Args:
        checkpoint: torch or safetensors file, state dict as it is or under `state_dict`, with or without `module.`.
        config: other sizes than the published ones.
    Raises:
        ValueError: not readable, or a tensor is missing, foreign, of another shape or not finite, or the checkpoint was
            trained on another spectrogram; names the file and LAION's key.
    """
    from transformers import ClapModel

    model = ClapModel(config or clap_config())
    own = model.state_dict()
    found = read_checkpoint(checkpoint)
    found = found.get("state_dict", found)
    if not isinstance(found, Mapping):
        raise ValueError(f"{checkpoint}: state_dict is a {type(found).__name__}, expected tensors by key")
    laion = {key.removeprefix("module."): value for key, value in found.items()}
    laion = {key: value for key, value in laion.items() if not is_unneeded(key)}
    check_tensors(checkpoint, laion, to_laion(own))
    _check_mel_filters(checkpoint, laion[MEL_KEY])
    model.load_state_dict({**own, **from_laion(laion, own)})
    return model.float().eval().requires_grad_(False)


def is_unneeded(key: str) -> bool:
    """Whether a LAION key, without `module.`, holds what no embedding depends on or what ClapModel makes itself."""
    return any(re.fullmatch(pattern, key) for pattern in UNNEEDED)


def to_laion(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ClapModel's state dict as LAION's: query, key and value fused, mel filters added, unneeded keys left out."""
    parts: dict[str, list[Tensor]] = {}
    for key, value in state.items():
        if not key.endswith(CONSTANTS):
            parts.setdefault(laion_key(key), []).append(value)
    fused = {key: torch.cat(values) if len(values) > 1 else values[0] for key, values in parts.items()}
    return {**fused, MEL_KEY: mel_filters()}


def from_laion(laion: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LAION's tensors under the keys of `own`, a state dict of ClapModel; its constants are left out."""
    return {key: _part(laion[laion_key(key)], key) for key in own if not key.endswith(CONSTANTS)}


def laion_key(key: str) -> str:
    """LAION's name of a tensor of ClapModel; query, key and value of the audio side share one."""
    for pattern, replacement in RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


def _part(value: Tensor, key: str) -> Tensor:
    """Query, key or value of a fused tensor of the audio side; any other as it is."""
    fused = re.fullmatch(r"audio_model\..*\.(query|key|value)\.(?:weight|bias)", key)
    return value.chunk(3)[("query", "key", "value").index(fused[1])] if fused else value


@functools.cache
def mel_filters() -> Tensor:
    """[513, 64] slaney-normalised mel filters: those of librosa, with which LAION trains without fusion.

    In float64: where a band ends, rounding would leave traces that a loud tone lifts above the floor of the log.
    """
    from transformers.audio_utils import mel_filter_bank

    return torch.from_numpy(
        mel_filter_bank(NUM_FFT // 2 + 1, NUM_MELS, *MEL_RANGE_HZ, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney")
    )


def _check_mel_filters(checkpoint: Path, found: Tensor) -> None:
    difference = float((found.double() - mel_filters()).abs().max())
    if difference > 1e-5:  # the largest filter value is 0.02
        low, high = MEL_RANGE_HZ
        raise ValueError(
            f"{checkpoint}: {MEL_KEY} differs by {difference:.1g} from {NUM_MELS} slaney bands, {low:g} to {high:g} Hz "
            f"at {SAMPLE_RATE_HZ} Hz; expected a checkpoint trained on these"
        )


def clap_tokenizer(folder: Path) -> RobertaTokenizer:
    """The tokenizer of roberta-base from a local folder; nothing is fetched.

    Raises:
        ValueError: the folder holds none.
    """
    from transformers import RobertaTokenizer

    folder = Path(folder)
    if not (folder / "tokenizer.json").is_file() and not all(
        (folder / f).is_file() for f in ("vocab.json", "merges.txt")
    ):
        raise ValueError(
            f"{folder} holds no tokenizer; expected tokenizer.json, or vocab.json and merges.txt, of roberta-base"
        )
    try:
        return RobertaTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # a damaged file raises whatever its parser does
        raise ValueError(
            f"{folder} is not a readable tokenizer of roberta-base: {' '.join(str(error).split())}"
        ) from error


def embed_text(model: ClapModel, tokenizer: RobertaTokenizer, prompts: Sequence[str]) -> Tensor:
    """[B, 512] L2-normalised embeddings of prompts, each cut or padded to 77 tokens (reference.md section 6)."""
    tokens = tokenizer(
        list(prompts), padding="max_length", truncation=True, max_length=NUM_TOKENS, return_tensors="pt"
    ).to(model.device)
    with torch.no_grad():
        return model.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
