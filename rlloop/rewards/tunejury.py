"""The head of TuneJury (arXiv:2606.17006): features of a clip to one reward. The mini heads have the same shape."""

from collections.abc import Mapping

from torch import Tensor, nn

DROPOUT = 0.5
PREFIXES = ("net.", "score.")  # the release, and its forerunners
STRIDE = 4  # Linear, BatchNorm, ReLU, Dropout


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

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Reward [B] of features [B, D]; with `other`, how much x is preferred to it: the logit of P(x better)."""
        score = self.net(x).squeeze(-1)
        return score if other is None else score - self.net(other).squeeze(-1)
