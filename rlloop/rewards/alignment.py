"""How well a clip fits its prompt: learned projections of text and audio features into one space. It is not CLAP."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AlignmentHead(nn.Module):
    """Mean cosine over S pairs of linear projections, fitted from different seeds.

    Args:
        num_seeds, dim: S projections to D dimensions.
        audio_dim, text_dim: widths of the features.
    """

    def __init__(self, num_seeds: int, dim: int, audio_dim: int, text_dim: int):
        super().__init__()
        self.audio = nn.Parameter(torch.zeros(num_seeds, audio_dim, dim))
        self.audio_bias = nn.Parameter(torch.zeros(num_seeds, 1, dim))
        self.text = nn.Parameter(torch.zeros(num_seeds, text_dim, dim))
        self.text_bias = nn.Parameter(torch.zeros(num_seeds, 1, dim))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "AlignmentHead":
        """Builds the head with the shapes found in the state dict, in evaluation mode, in float32."""
        head = cls(state["audio"].shape[0], state["audio"].shape[2], state["audio"].shape[1], state["text"].shape[1])
        head.load_state_dict({name: tensor.float() for name, tensor in state.items()})
        return head.eval()

    def forward(self, audio: Tensor, text: Tensor) -> Tensor:
        """Cosine [N, M] of N clips with features [N, A] and M prompts with sentence embeddings [M, E]."""
        a = F.normalize(audio @ self.audio + self.audio_bias, dim=-1)  # [S, N, D]
        t = F.normalize(text @ self.text + self.text_bias, dim=-1)  # [S, M, D]
        return (a @ t.mT).mean(0)
