"""Sampler: turns one ticket into latents and audio. Plain class, no Ray; one ticket is one forward batch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlloop.config import Config, Role, Sampling
from rlloop.recipes.build import build_generator, place_generator


@dataclass(frozen=True)
class Sample:
    """latents: [C, L, D] float16, normalised; audio: [C, T] float32 in [-1, 1]; C clips."""

    latents: np.ndarray
    audio: np.ndarray
    sample_rate_hz: int


class Sampler:
    """Holds a generator and the version of its weights. `load` swaps weights in, `sample` draws clips."""

    def __init__(self, config: Config, role: Role) -> None:
        import torch

        torch.set_num_threads(role.threads)
        self.generator = place_generator(build_generator(config), config, role)
        self.version: int | None = None
        self._own_variant = network_variant(self.generator.network)

    def load(self, arrays: Mapping[str, np.ndarray], version: int, variant: str | None = None) -> None:
        """Takes published float32 weights over into the network, whatever its dtype and device.

        On the CPU in float32 the network computes with `arrays` themselves: the samplers of a node share one copy.

        Args:
            variant: score variant that this version has (Plan.variant_of); None is the generator's own.
        Raises:
            ValueError: names or shapes that are not the network's.
        """
        set_variant(self.generator.network, variant or self._own_variant)
        take_arrays(self.generator.network, arrays)
        self.version = version

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling) -> Sample:
        """Draws one clip per (prompt, seed); a clip depends on its own seed only.

        Latents are rounded to float16 before decoding, so that the audio that is scored is that of the latents that
        are trained on.
        """
        import torch

        from rlloop.models.policy import SamplingSettings

        with torch.inference_mode():
            latents = self.generator.sample_latents(
                list(prompts), list(seeds), SamplingSettings(**sampling.model_dump())
            )
            latents = latents.to(torch.float16)
            audio = self.generator.decode(latents.float())
        return Sample(latents.cpu().numpy(), audio.float().cpu().numpy(), self.generator.sample_rate_hz)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """[C, L, D] -> [C, T] float32."""
        import torch

        with torch.inference_mode():
            return self.generator.decode(torch.from_numpy(np.array(latents, dtype=np.float32))).float().cpu().numpy()


def network_variant(network) -> str | None:
    """Name of the network's score variant; None for networks that know none."""
    return getattr(getattr(network, "spec", None), "score_variant", None)


def set_variant(network, variant: str | None) -> None:
    """Goes over to another score variant, where that changes anything.

    Raises:
        ValueError: the network cannot.
    """
    if variant == network_variant(network):
        return
    if not hasattr(network, "set_variant"):
        raise ValueError(f"stages go over to variant {variant}, but {type(network).__name__} has no set_variant()")
    network.set_variant(variant)


def load_arrays(network, arrays: Mapping[str, np.ndarray]) -> None:
    """Copies arrays into a network, strictly.

    Raises:
        ValueError: the first name or shape that disagrees.
    """
    network.load_state_dict(as_tensors(network, arrays))


def take_arrays(network, arrays: Mapping[str, np.ndarray]) -> None:
    """As `load_arrays`, for a network that only computes: its parameters become these arrays wherever they can.

    That is on the CPU and of the same type; buffers, which a forward pass may write, are copied.

    Raises:
        ValueError: the first name or shape that disagrees.
    """
    import torch

    given, own = as_tensors(network, arrays), network.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, tensor in own.items():
            new = given[name]
            if isinstance(tensor, torch.nn.Parameter) and (tensor.device, tensor.dtype) == (new.device, new.dtype):
                tensor.data = new
            else:
                tensor.copy_(new)


def as_tensors(network, arrays: Mapping[str, np.ndarray]) -> dict:
    """Tensors over the memory of arrays that have the names and shapes of a network's state.

    Raises:
        ValueError: the first name or shape that disagrees.
    """
    import torch

    state = network.state_dict()
    for name in sorted({*state, *arrays}):
        found, expected = arrays.get(name), state.get(name)
        if found is None or expected is None or tuple(found.shape) != tuple(expected.shape):
            raise ValueError(
                f"weights: '{name}' has shape {None if found is None else tuple(found.shape)}, "
                f"the network expects {None if expected is None else tuple(expected.shape)}"
            )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor is it written to
        return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}


def network_arrays(network) -> dict[str, np.ndarray]:
    """The network's state as arrays of its own (copies, on the CPU)."""
    return {name: value.detach().cpu().numpy().copy() for name, value in network.state_dict().items()}
