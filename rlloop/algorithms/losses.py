"""Loss functions of tensors: no network, no configuration, no device."""

from __future__ import annotations

from torch import Tensor


def velocity_error(v_predicted: Tensor, v_target: Tensor) -> Tensor:
    """Squared velocity error of each example, mean over [L, D]. Flow matching, reference.md section 3.

    Args:
        v_predicted, v_target: [B, L, D].
    Returns:
        [B], float32.
    """
    return (v_predicted.float() - v_target.float()).square().flatten(1).mean(1)
