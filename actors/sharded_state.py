"""A rank's optimizer state as plain arrays, so that checkpoints need no pickle.

DeepSpeed's ZeRO 1 and 2 keep one flat float32 partition per parameter group, with AdamW's moments on it; that
partition, its moments and the step count are all there is beside the network's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

MOMENTS = ("exp_avg", "exp_avg_sq")


def save_rank_state(engine) -> dict[str, np.ndarray]:
    """group index -> master weights and moments of this rank's partition, as float32 arrays."""
    zero, arrays = engine.optimizer, {}
    for group, partition in enumerate(zero.single_partition_of_fp32_groups):
        arrays[f"{group}.master"] = partition.detach().cpu().numpy().copy()
        state = zero.optimizer.state.get(partition, {})
        for name in MOMENTS:
            if name in state:
                arrays[f"{group}.{name}"] = state[name].detach().cpu().numpy().copy()
        if "step" in state:
            arrays[f"{group}.step"] = np.array([float(state["step"])], dtype=np.float64)
    return arrays


def load_rank_state(engine, arrays: Mapping[str, np.ndarray]) -> None:
    """Inverse of `save_rank_state`; the network's weights were loaded before the engine was built.

    Raises:
        ValueError: a partition of another size (another number of ranks or another network).
    """
    zero = engine.optimizer
    for group, partition in enumerate(zero.single_partition_of_fp32_groups):
        master = arrays[f"{group}.master"]
        if master.shape != tuple(partition.shape):
            raise ValueError(
                f"optimizer partition {group} has shape {master.shape}, here it is {tuple(partition.shape)}"
            )
        partition.data.copy_(torch.from_numpy(np.array(master)))
        state = {
            n: torch.from_numpy(np.array(arrays[f"{group}.{n}"])).to(partition.device)
            for n in MOMENTS
            if f"{group}.{n}" in arrays
        }
        if f"{group}.step" in arrays:
            state["step"] = torch.tensor(float(arrays[f"{group}.step"][0]), dtype=torch.float32)
        if state:
            zero.optimizer.state[partition] = state


def reshard(parts: Sequence[Mapping[str, np.ndarray]], engine, rank: int) -> dict[str, np.ndarray]:
    """One rank's state out of the parts of another number of ranks, in the order of their ranks.

    A group's partitions, one after the other, are its flat buffer; only the zeros that pad it depend on the number of
    ranks.
    """
    arrays = {}
    for group, partition in enumerate(engine.optimizer.single_partition_of_fp32_groups):
        size, first = partition.numel(), rank * partition.numel()
        for name in ("master", *MOMENTS):
            key = f"{group}.{name}"
            if key in parts[0]:
                flat = np.concatenate([part[key] for part in parts])[first : first + size]
                arrays[key] = np.pad(flat, (0, size - len(flat)))
        if f"{group}.step" in parts[0]:
            arrays[f"{group}.step"] = parts[0][f"{group}.step"]
    return arrays


def reset_rank_state(engine) -> None:
    """Forgets the moments: a new stage is a new fine-tuning run."""
    for partition in engine.optimizer.single_partition_of_fp32_groups:
        engine.optimizer.optimizer.state.pop(partition, None)
