"""The blocks of FluxAudio: gated feed-forward, rotary attention, and the adaLN block of both branches.

Reference.md section 2.3. One block serves audio (convolutions) and text (linear maps): kernel 0 means linear.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

QK_EPS = torch.finfo(torch.float32).eps  # nn.RMSNorm's default in float32; bfloat16's own would be 7.8e-3


class ChannelLastConv1d(nn.Conv1d):
    """A "same" convolution over [B, L, C]."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, bias: bool = True):
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def projection(in_channels: int, out_channels: int, kernel: int, bias: bool = True) -> nn.Module:
    """A convolution of odd `kernel` over [B, L, C], or a linear map if it is 0."""
    if kernel == 0:
        return nn.Linear(in_channels, out_channels, bias=bias)
    return ChannelLastConv1d(in_channels, out_channels, kernel, bias=bias)


def glu_width(hidden: int, mlp_ratio: float) -> int:
    """Two thirds of the ratio, rounded up to a multiple of 256 (reference.md section 2.1)."""
    return 256 * -(-int(2 * int(mlp_ratio * hidden) / 3) // 256)


class GLU(nn.Module):
    """W2 (SiLU(W1 x) * W3 x), without biases."""

    def __init__(self, hidden: int, width: int, kernel: int = 0):
        super().__init__()
        self.w1 = projection(hidden, width, kernel, bias=False)
        self.w2 = projection(width, hidden, kernel, bias=False)
        self.w3 = projection(hidden, width, kernel, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


def rotary_table(length: int, head_dim: int, device: torch.device) -> Tensor:
    """[2, length, head_dim / 2]: cosine and sine of position times 10000^(-2 i / head_dim)."""
    frequencies = 10_000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * frequencies
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, table: Tensor | None) -> Tensor:
    """Rotates adjacent channel pairs of x [B, H, L, d] by the table; in float32, cast back. None leaves x alone."""
    if table is None:
        return x
    cos, sin = table
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([cos * even - sin * odd, sin * even + cos * odd], dim=-1).flatten(-2).to(x.dtype)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without parameters, then x (1 + scale) + shift."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale) + shift


class SelfAttention(nn.Module):
    """Query, key and value of one branch: the output channel of `qkv` is (head * d + i) * 3 + {q, k, v}."""

    def __init__(self, hidden: int, head_dim: int):
        super().__init__()
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.q_norm = nn.RMSNorm(head_dim, eps=QK_EPS)
        self.k_norm = nn.RMSNorm(head_dim, eps=QK_EPS)
        self.head_dim = head_dim

    def forward(self, x: Tensor, table: Tensor | None) -> list[Tensor]:
        """x [B, L, D] -> q, k, v, each [B, H, L, d]."""
        q, k, v = self.qkv(x).unflatten(-1, (-1, self.head_dim, 3)).transpose(1, 2).unbind(-1)
        q, k = (norm(h.float()).to(v.dtype) for norm, h in ((self.q_norm, q), (self.k_norm, k)))
        # CUDA's fused attention wants whole rows of v; on the CPU, v as it is keeps results to the bit
        return [rotate(q, table), rotate(k, table), v.contiguous() if v.is_cuda else v]


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of [B, H, L, d], scale 1 / sqrt(d), no mask: [B, L, H d]."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Block(nn.Module):
    """One adaLN block of one branch: six modulations (shift, scale, gate of attention, then of the feed-forward).

    Used alone it is a fused block; inside `JointBlock` attention is shared with the other branch.
    """

    def __init__(self, hidden: int, head_dim: int, mlp_width: int, kernel: int):
        super().__init__()
        self.attn = SelfAttention(hidden, head_dim)
        self.linear1 = projection(hidden, hidden, kernel)
        self.ffn = GLU(hidden, mlp_width, kernel)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 6 * hidden))

    def open(self, x: Tensor, c: Tensor, table: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """Query, key, value, and the four modulations that `close` needs."""
        shift, scale, *rest = self.adaLN_modulation(c).chunk(6, dim=-1)
        return self.attn(modulate(x, shift, scale), table), rest

    def close(self, x: Tensor, attended: Tensor, rest: list[Tensor]) -> Tensor:
        """Adds attention and feed-forward to x [B, L, D]."""
        gate_msa, shift_mlp, scale_mlp, gate_mlp = rest
        x = x + self.linear1(attended) * gate_msa
        return x + self.ffn(modulate(x, shift_mlp, scale_mlp)) * gate_mlp

    def forward(self, x: Tensor, c: Tensor, table: Tensor | None) -> Tensor:
        qkv, rest = self.open(x, c, table)
        return self.close(x, attend(*qkv), rest)


class LastTextBlock(nn.Module):
    """The text branch of the last joint block: it is attended to and then dropped."""

    def __init__(self, hidden: int, head_dim: int):
        super().__init__()
        self.attn = SelfAttention(hidden, head_dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * hidden))

    def open(self, x: Tensor, c: Tensor, table: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """As `Block.open`, with nothing left for a close."""
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        return self.attn(modulate(x, shift, scale), table), []

    def close(self, x: Tensor, attended: Tensor, rest: list[Tensor]) -> Tensor:
        """Leaves x alone."""
        return x


class JointBlock(nn.Module):
    """Audio and text attend to [audio ; text] together."""

    def __init__(self, hidden: int, head_dim: int, mlp_width: int, kernel: int, *, text_block: nn.Module):
        super().__init__()
        self.latent_block = Block(hidden, head_dim, mlp_width, kernel)
        self.text_block = text_block

    def forward(
        self, x: Tensor, text: Tensor, c: Tensor, table: Tensor | None, text_table: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        audio_qkv, audio_rest = self.latent_block.open(x, c, table)
        text_qkv, text_rest = self.text_block.open(text, c, text_table)
        joint = attend(*(torch.cat(pair, dim=2) for pair in zip(audio_qkv, text_qkv, strict=True)))
        from_audio, from_text = joint.split([x.shape[1], text.shape[1]], dim=1)
        return self.latent_block.close(x, from_audio, audio_rest), self.text_block.close(text, from_text, text_rest)
