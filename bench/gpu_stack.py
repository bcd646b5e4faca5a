"""Models of the published sizes with drawn weights, where the real ones are not at hand: speed does not depend on them.

Named by path in the configuration of a run: `generator.target=bench.gpu_stack:generator`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.sampling import make_generator
from rlloop.models.official import Mode, choose_mode
from rlloop.models.policy import FluxAudioGenerator
from rlloop.rewards.clap import ClapEmbedder, ClapScore
from rlloop.rewards.mert import MertEmbedder
from rlloop.rewards.tunejury import TuneJury, TuneJuryHead
from rlloop.weights.clap import clap_config

if TYPE_CHECKING:
    from transformers import ClapConfig

HEAD = (2048, 1024, 512, 256, 128, 1)
MERT_330M = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True,
}  # fmt: skip


def generator(mode: str | Mode = "44k") -> FluxAudioGenerator:
    """FluxAudio-S at 44.1 kHz, or of sizes of one's own."""
    return make_generator(choose_mode(mode))


class DrawnClap(ClapEmbedder):
    """CLAP's audio side; a prompt is a fixed vector, so that no tokenizer is needed."""

    def __init__(self, device: str = "auto", batch_size: int = 16, config: ClapConfig | None = None) -> None:
        from transformers import ClapModel

        torch.manual_seed(0)
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.model = ClapModel(config or clap_config()).eval().requires_grad_(False).to(self.device)
        self.dim = self.model.config.projection_dim
        self.crop, self.seed, self.quantise, self.batch_size = "random", 0, True, batch_size
        self._heard = {}

    def text(self, prompts: Sequence[str]) -> Tensor:
        return torch.ones(len(prompts), self.dim) / self.dim**0.5


def mert(device: str = "auto", batch_size: int = 16, sizes: Mapping[str, Any] | None = None) -> MertEmbedder:
    """MERT-v1-330M's network; `sizes` are other fields of HubertConfig."""
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(0)
    config = HubertConfig(**(sizes or MERT_330M), mask_time_prob=0.0, mask_feature_prob=0.0)
    return MertEmbedder(HubertModel(config), do_normalize=False, device=device, batch_size=batch_size)


def tunejury(
    device: str = "auto",
    batch_size: int = 16,
    clap: ClapConfig | None = None,
    mert_sizes: Mapping[str, Any] | None = None,
) -> TuneJury:
    """The reward `tunejury` with both ears, whose sizes may be others than the published ones."""
    torch.manual_seed(0)
    return TuneJury(TuneJuryHead(HEAD), DrawnClap(device, batch_size, clap), mert(device, batch_size, mert_sizes))


def clap_score(device: str = "auto", batch_size: int = 16, clap: ClapConfig | None = None) -> ClapScore:
    return ClapScore(DrawnClap(device, batch_size, clap))
