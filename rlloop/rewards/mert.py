"""MERT-v1-330M (arXiv:2306.00107) as an ear: its own weights in transformers' HubertModel, without remote code.

MERT's published class adds two things to HuBERT, a CQT beside the waveform's features and deepnorm residuals, and both
are switches of its config.json: with them off its forward pass is HuBERT's, so a folder that has one on is refused.
`attention_relax` is read by the deepnorm layers alone, and there it only shifts logits before a softmax.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rlloop.audio.precision import full_float32
from rlloop.audio.resample import resample_all
from rlloop.weights import check_tensors, read_checkpoint

if TYPE_CHECKING:
    from transformers import HubertConfig, HubertModel

SAMPLE_RATE_HZ = 24_000
FULL_CLIP = 10 * SAMPLE_RATE_HZ
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# What decides HubertModel's forward pass; MERT's defaults for these are HuBERT's.
ARCHITECTURE = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps",
    "feat_extract_norm", "feat_extract_activation", "feat_proj_layer_norm", "conv_dim", "conv_stride", "conv_kernel",
    "conv_bias", "num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "do_stable_layer_norm",
)  # fmt: skip
FOREIGN_SWITCHES = ("deepnorm", "feature_extractor_cqt", "conv_pos_batch_norm")
# A mask for pre-training, and the constants of the CQT that `feature_extractor_cqt: false` leaves unused.
UNNEEDED = ("masked_spec_embed", "feature_extractor_cqt.")
POSITION = "encoder.pos_conv_embed.conv."
RENAMED = {  # weight norm, as torch spelled it before parametrizations
    f"{POSITION}weight_g": f"{POSITION}parametrizations.weight.original0",
    f"{POSITION}weight_v": f"{POSITION}parametrizations.weight.original1",
}
VARIANCE_FLOOR = 1e-7  # that of Wav2Vec2FeatureExtractor


class MertEmbedder:
    """Clips to the last layer's mean over time, the whole clip in one pass (reference.md section 8.1).

    Args:
        model: with `hidden_size` H; used in evaluation mode.
        do_normalize: brings each waveform to mean 0 and variance 1 first.
        device: cpu, cuda or auto: cuda where there is one.
        batch_size: clips of 10 s in one forward pass; of longer ones fewer.
    """

    def __init__(self, model: "HubertModel", *, do_normalize: bool, device: str = "auto", batch_size: int = 16):
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.dim = model.config.hidden_size
        self.do_normalize = do_normalize
        self.batch_size = batch_size

    @classmethod
    def from_folder(cls, folder: Path, device: str = "auto", batch_size: int = 16) -> "MertEmbedder":
        """Reads a folder as it is published: config.json, weights, and perhaps preprocessor_config.json.

        `do_normalize` is what preprocessor_config.json says. Without that file it is false, as the published
        differentiable scorer assumes (section 8.5; what is right for 330M is open question 13).

        Raises:
            ValueError: a file is missing or damaged, the architecture is not HuBERT's, or a tensor does not fit.
        """
        found = _read_json(folder / "config.json")
        rate = found.get("sample_rate", SAMPLE_RATE_HZ)
        if rate != SAMPLE_RATE_HZ:
            raise ValueError(
                f"{folder}/config.json: sample_rate is {rate}, expected {SAMPLE_RATE_HZ}; use MERT-v1-330M"
            )
        preprocessor = folder / "preprocessor_config.json"
        do_normalize = bool(_read_json(preprocessor).get("do_normalize", False)) if preprocessor.is_file() else False
        model = load_hubert(folder, hubert_config(found, folder))
        return cls(model, do_normalize=do_normalize, device=device, batch_size=batch_size)

    def audio(self, waves: Sequence[np.ndarray], rates_hz: Sequence[int]) -> Tensor:
        """[B, H] on the CPU, of mono clips [T] float32 of any rates and lengths; each as if it were alone.

        Clips share a forward pass only with clips of their own length: padding would reach into the group norms and
        the normalisation of some of MERT's sizes, and generated clips have one length.
        """
        resampled = resample_all(waves, rates_hz, SAMPLE_RATE_HZ, self.device)
        out = torch.empty(len(waves), self.dim)
        for length in sorted({len(wave) for wave in resampled}):
            rows = [row for row, wave in enumerate(resampled) if len(wave) == length]
            at_once = max(1, self.batch_size * min(length, FULL_CLIP) // length)
            for some in (rows[first : first + at_once] for first in range(0, len(rows), at_once)):
                out[some] = self.embed(torch.stack([resampled[row] for row in some])).cpu()
        return out

    def embed(self, waves: Tensor) -> Tensor:
        """[B, T] at 24 kHz on the device to [B, H]."""
        if self.do_normalize:
            variance, mean = torch.var_mean(waves, dim=1, correction=0, keepdim=True)
            waves = (waves - mean) / (variance + VARIANCE_FLOOR).sqrt()
        with torch.no_grad(), full_float32():
            return self.model(waves).last_hidden_state.mean(1)


def hubert_config(found: dict[str, Any], folder: Path) -> "HubertConfig":
    """HubertConfig with MERT's sizes, and nothing that only training uses.

    Raises:
        ValueError: a switch is on that changes the forward pass.
    """
    from transformers import HubertConfig

    for switch in FOREIGN_SWITCHES:
        if found.get(switch, False):
            raise ValueError(
                f"{folder}/config.json: {switch} is {found[switch]}, expected false: HuBERT has no such part; "
                "use MERT-v1-330M as it was published"
            )
    sizes = {name: found[name] for name in ARCHITECTURE if name in found}
    return HubertConfig(**sizes, mask_time_prob=0.0, mask_feature_prob=0.0)


def load_hubert(folder: Path, config: "HubertConfig") -> "HubertModel":
    """Fills a HubertModel from the folder's weights; every tensor must be there, and none may be left over.

    Raises:
        ValueError: no weights, or a tensor that is missing, foreign, of another shape or not finite.
    """
    from transformers import HubertModel

    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(f"{folder} holds none of {', '.join(WEIGHTS)}; expected the folder of MERT-v1-330M")
    state = {
        RENAMED.get(key, key): value.float()
        for key, value in read_checkpoint(path).items()
        if not key.startswith(UNNEEDED)
    }
    with torch.device("meta"):  # no random start that is overwritten at once
        model = HubertModel(config)
    check_tensors(path, state, model.state_dict())
    model.load_state_dict(state, assign=True)
    return model


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable JSON file ({error}); expected the one of MERT-v1-330M") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, expected an object; take the one of MERT-v1-330M")
    return found
