"""BigVGAN: log-mel to waveform by transposed convolutions and anti-aliased periodic activations.

Architecture: Lee et al. 2023 (arXiv:2206.04658); sizes, filters and state-dict names: reference.md section 5.3.
Separate from vocoder.py because that inverts mels for the mini stack without published weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.signal import firwin, kaiser_atten, kaiser_beta
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from rlloop.weights import check_tensors, read_checkpoint

NUM_TAPS = 12
CPU_BLOCK = 2**18  # values of an activation's block that stay in a core's cache; 3 to 4 times as fast as whole tensors
LEGACY_KEYS = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}


@dataclass(frozen=True)
class BigVGANSpec:
    """Sizes of a vocoder; `bound` is "tanh" or "clamp", which also decides whether the last convolution has a bias."""

    num_mels: int
    upsample_rates: tuple[int, ...]
    upsample_kernels: tuple[int, ...]
    bound: str
    initial_channels: int = 1536
    block_kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)

    @property
    def hop(self) -> int:
        """Samples per mel frame."""
        return int(torch.tensor(self.upsample_rates).prod())


BIGVGAN_16K = BigVGANSpec(80, (4, 4, 2, 2, 2, 2), (8, 8, 4, 4, 4, 4), "tanh")
BIGVGAN_44K = BigVGANSpec(128, (8, 4, 2, 2, 2, 2), (16, 8, 4, 4, 4, 4), "clamp")


def half_band_filter() -> Tensor:
    """Kaiser-windowed sinc of 12 taps: cutoff a quarter of the sampling rate, half-width 0.3, sum 1; [12] float32.

    The published window is the one that Kaiser's formula gives for half the taps.
    """
    beta = kaiser_beta(kaiser_atten(NUM_TAPS // 2, 4 * 0.3))
    return torch.from_numpy(firwin(NUM_TAPS, 0.5, window=("kaiser", beta))).float()


class Filter(nn.Module):
    """A constant that is stored with the weights: [1, 1, 12]."""

    def __init__(self):
        super().__init__()
        self.register_buffer("filter", half_band_filter()[None, None])


class SnakeBeta(nn.Module):
    """x + sin^2(x e^alpha) / (e^beta + 1e-9), per channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))


def correlate(x: Tensor, taps: Tensor) -> Tensor:
    """Filters every channel by itself: x [B, C, P, L + 6] and taps [Q, P, 7] -> [B, C, Q, L]."""
    channels, length = x.shape[1], x.shape[3] - 6
    if x.device.type != "cpu":
        return F.conv1d(x.flatten(1, 2), taps.repeat(channels, 1, 1), groups=channels).unflatten(1, (channels, -1))
    phases = []  # sums of shifted signals: half the time of a grouped convolution there
    for filters in taps.tolist():
        terms = [(tap, x[:, :, p, k : k + length]) for p, row in enumerate(filters) for k, tap in enumerate(row) if tap]
        phase = terms[0][0] * terms[0][1]
        for tap, shifted in terms[1:]:
            phase.add_(shifted, alpha=tap)
        phases.append(phase)
    return torch.stack(phases, dim=2)


def snake_between_filters(x: Tensor, up: Tensor, down: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Doubles the rate, applies the periodic activation, halves the rate.

    The doubled signal is kept as its two phases u[2 n], u[2 n + 1], so both filters have 7 taps (one of them zero) at
    offsets -3 to 3 of the original rate and neither stride nor interleaving is needed. Beyond its ends a signal repeats
    its first and last sample, before either filter.

    Args:
        x: [B, C, L]. up: [2, 1, 7] and down: [1, 2, 7] taps of the phases. alpha, beta: [C].
    Returns:
        [B, C, L].
    """
    u = correlate(F.pad(x, (6, 6), mode="replicate")[:, :, None], up)
    u[..., :3] = u[..., :1, 3:4].clone()  # 3 on either side belong to the second filter's padding
    u[..., -3:] = u[..., 1:, -4:-3].clone()
    wave = (u * alpha.exp()[:, None, None]).sin().square()
    u = torch.addcmul(u, wave, (1 / (beta.exp() + 1e-9))[:, None, None])
    return correlate(u, down).squeeze(2)


class AntiAliasedSnake(nn.Module):
    """The activation between resampling filters, [B, C, L] -> [B, C, L]."""

    def __init__(self, channels: int):
        super().__init__()
        self.act = SnakeBeta(channels)
        self.upsample = Filter()
        self.downsample = nn.Module()
        self.downsample.lowpass = Filter()

    def forward(self, x: Tensor) -> Tensor:
        up, down = (f.flatten() for f in (self.upsample.filter, self.downsample.lowpass.filter))
        zero = up.new_zeros(1)
        up = 2 * torch.stack([torch.cat([up[1::2].flip(0), zero]), torch.cat([zero, up[::2].flip(0)])])[:, None]
        down = torch.stack([torch.cat([zero, down[1::2]]), torch.cat([down[::2], zero])])[None]
        if x.device.type != "cpu":
            return snake_between_filters(x, up, down, self.act.alpha, self.act.beta)
        num_channels = max(1, CPU_BLOCK // (x.shape[0] * x.shape[2]))
        blocks = (part.split(num_channels, dim=d) for part, d in ((x, 1), (self.act.alpha, 0), (self.act.beta, 0)))
        return torch.cat([snake_between_filters(b, up, down, a, c) for b, a, c in zip(*blocks, strict=True)], dim=1)


class ResidualBlock(nn.Module):
    """For every dilation: x + conv(act(dilated conv(act(x)))), [B, C, L] -> [B, C, L]."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]):
        super().__init__()

        def conv(dilation: int) -> nn.Module:
            padding = (kernel - 1) * dilation // 2
            return weight_norm(nn.Conv1d(channels, channels, kernel, padding=padding, dilation=dilation))

        self.convs1 = nn.ModuleList(conv(dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(conv(1) for _ in dilations)
        self.activations = nn.ModuleList(AntiAliasedSnake(channels) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.activations[::2], self.activations[1::2]
        for conv1, conv2, act1, act2 in zip(self.convs1, self.convs2, first, second, strict=True):
            x = x + conv2(act2(conv1(act1(x))))
        return x


class BigVGAN(nn.Module):
    """A vocoder with the published state-dict names; weight norm as torch parametrizations."""

    def __init__(self, spec: BigVGANSpec):
        super().__init__()
        self.spec = spec
        channels = [spec.initial_channels // 2**i for i in range(len(spec.upsample_rates) + 1)]
        self.conv_pre = weight_norm(nn.Conv1d(spec.num_mels, channels[0], 7, padding=3))
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()  # flat: the blocks of a stage follow one another
        for before, after, rate, kernel in zip(
            channels[:-1], channels[1:], spec.upsample_rates, spec.upsample_kernels, strict=True
        ):
            up = nn.ConvTranspose1d(before, after, kernel, rate, padding=(kernel - rate) // 2)
            self.ups.append(nn.ModuleList([weight_norm(up)]))
            self.resblocks.extend(ResidualBlock(after, k, spec.dilations) for k in spec.block_kernels)
        self.activation_post = AntiAliasedSnake(channels[-1])
        self.conv_post = weight_norm(nn.Conv1d(channels[-1], 1, 7, padding=3, bias=spec.bound == "tanh"))

    def fold_weight_norm(self) -> BigVGAN:
        """Computes every weight once, for inference; afterwards the state dict holds plain weights. Returns itself."""
        for module in self.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
        return self

    def forward(self, log_mel: Tensor) -> Tensor:
        """Log-mel [B, M, F] -> waveform [B, F * hop] in [-1, 1]."""
        x = self.conv_pre(log_mel)
        num_blocks = len(self.spec.block_kernels)
        for stage, (up,) in enumerate(self.ups):
            x = up(x)
            blocks = self.resblocks[stage * num_blocks : (stage + 1) * num_blocks]
            x = sum(block(x) for block in blocks) / num_blocks
        x = self.conv_post(self.activation_post(x)).squeeze(1)
        return x.tanh() if self.spec.bound == "tanh" else x.clamp(-1, 1)


def published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the weight norm of files that were written before torch had parametrizations."""
    renamed = {}
    for key, value in state.items():
        module, _, name = key.rpartition(".")
        renamed[f"{module}.{LEGACY_KEYS[name]}" if name in LEGACY_KEYS else key] = value
    return renamed


def check_filters(path: Path, state: Mapping[str, Tensor]) -> None:
    """The stored filters are constants of the architecture: others mean another vocoder.

    Raises:
        ValueError: the first filter that differs.
    """
    expected = half_band_filter()
    for key, value in state.items():
        if key.endswith("filter") and not torch.allclose(value.float().flatten(), expected, atol=1e-3):
            raise ValueError(f"{path}: {key} is not the resampling filter of this vocoder (12 taps, cutoff 0.25)")


def load_bigvgan(path: Path, spec: BigVGANSpec) -> BigVGAN:
    """Reads a published vocoder for inference: weight norm folded, evaluation mode, float32.

    Args:
        path: a checkpoint with the state dict under "generator", or that state dict itself.
    Raises:
        ValueError: the file is unreadable or not of this vocoder; names the file and the first key that disagrees.
    """
    checkpoint = read_checkpoint(path)
    state = checkpoint.get("generator", checkpoint)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds {sorted(checkpoint)[:5]}; expected a BigVGAN state dict under 'generator'")
    state = published_names(state)
    with torch.device("meta"):
        model = BigVGAN(spec)
    check_tensors(path, state, model.state_dict())
    check_filters(path, state)
    model.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    return model.fold_weight_norm().eval().requires_grad_(False)
