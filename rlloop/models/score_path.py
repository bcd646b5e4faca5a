"""Finds the score path of a checkpoint by shape: nobody has published the names of its keys (reference.md section 4).

Looked for among the tensors that a FluxAudio without score does not have: Linear(F -> H), Linear(H -> D), perhaps a
projector Linear(D -> D), Linear(D -> D) behind them, perhaps a null vector [D] or [1, D] or a null score of one number,
perhaps Fourier frequencies [F / 2]. Names decide only where shapes leave a choice.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from rlloop.models.score_conditioning import timestep_frequencies

LAYERS = ("mlp.0", "mlp.2", "projector.0", "projector.2")
MOST_MATRICES = 12  # of foreign ones that are tried as layers; a FluxAudio with more is something else
NULL_NAMES = re.compile(r"null|empty|uncond", re.IGNORECASE)
SETTING_NAMES = re.compile(r"prob|rate|drop", re.IGNORECASE)
FOURIER_NAMES = re.compile(r"(?-i:^B$)|freq|fourier|gauss", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class ScorePath:
    """What was found: our key for each of theirs, and the sizes that follow.

    `constants` are keys that our network computes or keeps in its specification instead of storing them.
    """

    names: Mapping[str, str]
    features: int
    width: int
    fourier: str
    null: str | float
    has_projector: bool
    constants: tuple[str, ...]


def find_score_path(candidates: Mapping[str, Tensor], hidden: int) -> ScorePath | None:
    """The score path among tensors that belong to no other part; None where not one of them looks like a part of it.

    Args:
        candidates: by key as in the file.
        hidden: width D of the network.
    Raises:
        ValueError: some look like parts of a score path, but do not make one, or a choice between them is open; names
            the keys.
    """
    shapes = {key: tuple(n for n in value.shape if n != 1) for key, value in candidates.items()}
    matrices = {key: shape for key, shape in shapes.items() if len(shape) == 2}
    if not any(looks_like_score(key, shape, hidden) for key, shape in shapes.items()):
        return None
    order = chain(matrices, hidden)
    vectors = {key: shape for key, shape in shapes.items() if len(shape) < 2 and not marked(key)}
    names = {}
    for layer, matrix in zip(LAYERS, order, strict=False):
        bias = bias_of(matrix, matrices[matrix][0], {key: shape for key, shape in vectors.items() if key not in names})
        names |= {matrix: f"score_embed.{layer}.weight", bias: f"score_embed.{layer}.bias"}
    width, features = matrices[order[0]]
    rest = {key: candidates[key] for key in candidates if key not in names}
    fourier, null, constants = "timestep", "zeros", []
    for key, value in rest.items():
        size = value.numel()
        is_null, is_frequencies = size == hidden, size == features // 2
        if is_null and is_frequencies:
            is_null, is_frequencies = bool(NULL_NAMES.search(key)), not NULL_NAMES.search(key)
        if is_null and null == "zeros":
            null, names[key] = "learned", "score_embed.null"
        elif is_frequencies and fourier == "timestep" and not constants:
            if is_fixed(value):
                constants.append(key)
            else:
                fourier, names[key] = "gaussian", "score_embed.fourier.B"
        elif size == 1 and SETTING_NAMES.search(key):
            continue  # how often scores were dropped: of the training, not of the network
        elif size == 1 and NULL_NAMES.search(key) and null == "zeros":
            null = float(value)
            constants.append(key)
        elif looks_like_score(key, shapes[key], hidden):
            raise ValueError(
                f"{key} of shape {tuple(value.shape)} looks like a part of the score path and has no place in it; "
                f"found so far: {', '.join(names)}"
            )
    return ScorePath(names, features, width, fourier, null, len(order) > 2, tuple(constants))


def looks_like_score(key: str, shape: tuple[int, ...], hidden: int) -> bool:
    """Whether a tensor could be a part of a score path: by its name, or because a side of it is the network's width."""
    return bool(re.search(r"score|reward", key, re.IGNORECASE)) or hidden in shape


def chain(matrices: Mapping[str, tuple[int, int]], hidden: int) -> list[str]:
    """Keys of four or else two weight matrices [out, in] in the order in which they act; all but the first end in D.

    Where shapes allow several orders, the one of the numbers in the names is taken.
    """
    for length in (4, 2) if len(matrices) <= MOST_MATRICES else ():
        for order in permutations(sorted(matrices, key=natural), length):
            sides = [matrices[key] for key in order]
            fits = all(a[0] == b[1] for a, b in zip(sides, sides[1:], strict=False))
            if fits and all(out == hidden for out, _ in sides[1:]) and sides[0][1] % 2 == 0:
                return list(order)
    found = ", ".join(f"{key} {shape}" for key, shape in matrices.items()) or "no weight matrix"
    raise ValueError(
        f"the score path is not one that is known: expected (H, F) and ({hidden}, H), F even, perhaps two more of "
        f"({hidden}, {hidden}) for a prepended token; found {found}"
    )


def bias_of(matrix: str, size: int, vectors: Mapping[str, tuple[int, ...]]) -> str:
    """The vector of `size` whose name is the nearest to a matrix's: of the same module, else the most alike."""
    alike = {
        key: (module_of(key) == module_of(matrix), difflib.SequenceMatcher(None, key, matrix, autojunk=False).ratio())
        for key, shape in vectors.items()
        if shape == (size,)
    }
    if not alike:
        raise ValueError(f"the score path has no bias of shape ({size},) for {matrix}")
    best = max(alike.values())
    nearest = [key for key, likeness in alike.items() if likeness == best]
    if len(nearest) > 1:
        raise ValueError(f"the score path has two candidates for the bias of {matrix}: {nearest[0]} and {nearest[1]}")
    return nearest[0]


def marked(key: str) -> bool:
    """Whether the last part of a name says that it is a null vector or frequencies, so no bias."""
    last = key.rsplit(".", 1)[-1]
    return last != "bias" and bool(NULL_NAMES.search(key) or FOURIER_NAMES.search(last))


def module_of(key: str) -> str:
    return key.rpartition(".")[0]


def natural(key: str) -> list[str | int]:
    """Sorts `mlp.10` after `mlp.2`; the parts alternate between words and numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", key)]


def is_fixed(frequencies: Tensor) -> bool:
    """Whether these are the frequencies of the timestep embedding, stored."""
    w = frequencies.detach().flatten().float()
    return torch.allclose(w, timestep_frequencies(2 * len(w)), rtol=1e-3, atol=1e-6)
