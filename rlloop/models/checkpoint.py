"""Published FluxAudio weights in, and back out under the names they came with.

Nothing is left out silently: a score path that would stay unloaded is refused, whatever else stays behind is listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from rlloop.models.fluxaudio import FluxAudio, FluxAudioSpec
from rlloop.models.latent_statistics import check_statistics, compare_statistics
from rlloop.models.layout import RECOMPUTED, derive_spec, sizes, unwrap
from rlloop.models.score_conditioning import VARIANTS, score_variant
from rlloop.models.score_path import ScorePath, find_score_path
from rlloop.weights import check_tensors, read_checkpoint

DEFAULT_VARIANT = "v2"  # of the published inference (reference.md section 10)
TWO_SCORES = (0.0, 1.37)  # far apart, and not a period of common frequencies
STORED = {"latent_mean", "latent_std", "empty_string_feat", "empty_string_feat_c"}


@dataclass(frozen=True, eq=False)
class LoadReport:
    """What a checkpoint held and what became of it.

    `mapped`: their key (without a wrapper's prefix) -> ours. `extra`: found and unused. `missing`: ours -> how it was
    filled. `warnings`: what is odd, but cannot be called wrong. `shapes`: theirs -> shape in the file, where it is not
    ours. `constants`: tensors that our network computes or has in its specification; they go back into an export.
    """

    path: Path
    layout: str
    spec: FluxAudioSpec
    mapped: Mapping[str, str]
    extra: tuple[str, ...]
    missing: Mapping[str, str]
    warnings: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Tensor]

    def describe(self) -> list[str]:
        """Lines for printing."""
        spec, score = self.spec, "no score conditioning"
        if spec.score_variant is not None:
            score = (
                f"score {spec.score_variant}: {spec.score_fourier} Fourier features {spec.score_features} -> "
                f"{spec.score_width} -> {spec.hidden}, null {spec.score_null}"
            )
        lines = [f"{self.path}: {self.layout}", f"{sizes(spec)}; {score}", f"mapped: {len(self.mapped)} tensors"]
        path = [(theirs, ours) for theirs, ours in self.mapped.items() if ours.startswith("score_embed.")]
        lines += [f"  {theirs} -> {ours}" for theirs, ours in path]
        lines += [f"constant: {key}" for key in self.constants]
        lines += [f"extra, unused: {key}" for key in self.extra]
        lines += [f"missing: {key}, {how}" for key, how in self.missing.items()]
        return lines + [f"warning: {text}" for text in self.warnings]


def load_network(
    path: Path | str,
    spec: FluxAudioSpec | None = None,
    *,
    variant: str | None = None,
    latent_seq_len: int | None = None,
) -> tuple[FluxAudio, LoadReport]:
    """Reads a network from any published layout, as safetensors or torch file, into float32 on the CPU.

    Args:
        spec: sizes that the file must have. None takes them from its shapes. How wide the score path is, and whether
            its frequencies and its null are stored, is always the file's word; `score_null` as a number, which no file
            need hold, is the specification's.
        variant: which one the score path was trained as, which keys cannot tell between v1, v2 and v4. None takes that
            of `spec`, or without `spec` v2, as the published inference does.
        latent_seq_len: L where there is no `spec`; needed for latents of no published rate only.
    Returns:
        the network and what was done.
    Raises:
        ValueError: unreadable, another kind of file, other sizes, a value that is not finite, latent statistics that
            cannot be right, a score path that would stay unloaded, or none where one is asked for; one line that names
            the file and the first key.
    """
    path = Path(path)
    state, extra, layout = unwrap(path, read_checkpoint(path))
    stored = {key: tuple(value.shape) for key, value in state.items()}
    base = replace(spec or derive_spec(path, state, latent_seq_len), score_variant=None)
    own, foreign, missing = split(path, state, base)
    score = score_path(path, foreign, base.hidden)
    asked = variant or (spec.score_variant if spec else DEFAULT_VARIANT if score and not score.has_projector else None)
    final = with_score(path, base, score, asked)
    names = dict(score.names) if score else {}
    network = build(final, own | {ours: foreign[theirs] for theirs, ours in names.items()})
    mapped = {key: key for key in own if key not in missing} | names
    if final.score_variant and final.score_null == "zeros":
        missing["score_embed.null"] = "none is stored: the embedding of no score is zeros"
    constants = {key: foreign[key].clone() for key in (score.constants if score else ())}
    ours = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    report = LoadReport(
        path,
        layout,
        final,
        mapped,
        tuple(key for key in [*extra, *state] if key not in mapped and key not in constants),
        missing,
        (*compare_statistics(network.latent_mean, network.latent_std), *dependence_warnings(path, network)),
        {theirs: stored[theirs] for theirs, name in mapped.items() if stored[theirs] != ours[name]},
        constants,
    )
    return network, report


def split(
    path: Path, state: Mapping[str, Tensor], base: FluxAudioSpec
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
    """Separates the tensors of a network without score from all others.

    Returns:
        its tensors, complete, in its shapes; tensors of no known place; what was filled and how.
    Raises:
        ValueError: one of its tensors is missing, misshapen, too many or not finite, or its statistics cannot be right.
    """
    with torch.device("meta"):
        expected = FluxAudio(base).state_dict()
    roots = {key.partition(".")[0] for key in expected} | {key.partition(".")[0] for key in RECOMPUTED}
    own = {key: value for key, value in state.items() if key.partition(".")[0] in roots and key not in RECOMPUTED}
    for key in STORED & own.keys():  # (1, 77, 1024) and (1, 512) in some files
        if own[key].numel() == expected[key].numel() and own[key].squeeze().shape == expected[key].squeeze().shape:
            own[key] = own[key].reshape(expected[key].shape)
    missing = {}
    if "empty_string_feat_c" not in own and "empty_string_feat" in own and base.text_dim == base.text_c_dim:
        own["empty_string_feat_c"] = own["empty_string_feat"].float().mean(dim=0)
        missing["empty_string_feat_c"] = "filled by the mean of empty_string_feat, as old versions did"
    try:
        check_tensors(path, own, expected)
    except ValueError as error:
        raise ValueError(f"{error}{difference(path, state, base)}") from None
    check_statistics(path, own["latent_mean"], own["latent_std"])
    foreign = {key: value for key, value in state.items() if key not in own and key not in RECOMPUTED}
    return own, foreign, missing


def difference(path: Path, state: Mapping[str, Tensor], base: FluxAudioSpec) -> str:
    """What the file is and what is expected, where the two differ in more than one tensor."""
    try:
        found = sizes(derive_spec(path, state, base.latent_seq_len))
    except ValueError:
        return ""
    return "" if found == sizes(base) else f"; the file looks like {found}, expected {sizes(base)}"


def score_path(path: Path, foreign: Mapping[str, Tensor], hidden: int) -> ScorePath | None:
    """The score path among foreign tensors; errors name the file, and its values must be finite."""
    try:
        found = find_score_path(foreign, hidden)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if found is not None:
        mine = {key: foreign[key] for key in [*found.names, *found.constants]}
        check_tensors(path, mine, mine)
    return found


def with_score(path: Path, spec: FluxAudioSpec, score: ScorePath | None, asked: str | None) -> FluxAudioSpec:
    """The specification with the score path that was found, as the variant that is asked for.

    Raises:
        ValueError: the two do not go together.
    """
    kind = score_variant(asked) if asked else None
    if score is None:
        if kind is None:
            return spec
        raise ValueError(
            f"{path}: no score path is found, but score variant {asked} is asked for; take a checkpoint that was "
            "trained with scores, or none of the variants"
        )
    first = next(iter(score.names))
    if kind is None:
        choice = "v3 or v5" if score.has_projector else "v1, v2 or v4"
        raise ValueError(f"{path}: {first} starts a score path that would stay unloaded; pass variant {choice}")
    if kind.prepends_token != score.has_projector:
        fitting = [name for name, other in VARIANTS.items() if other.prepends_token == score.has_projector]
        raise ValueError(
            f"{path}: {first} starts a score path with{'' if score.has_projector else 'out'} a projector, which is not "
            f"{asked}; pass variant {' or '.join(fitting)}"
        )
    if spec.score_fourier == "gaussian" and score.fourier != "gaussian":
        raise ValueError(f"{path}: no Gaussian Fourier frequencies are stored beside {first}, but they are asked for")
    keeps_number = score.null == "zeros" and not isinstance(spec.score_null, str)
    return replace(
        spec,
        score_variant=asked,
        score_fourier=score.fourier,
        score_features=score.features,
        score_width=score.width,
        score_null=spec.score_null if keeps_number else score.null,
    )


def build(spec: FluxAudioSpec, tensors: Mapping[str, Tensor]) -> FluxAudio:
    """A network of `spec` around copies of tensors, in float32; no weight is drawn first."""
    with torch.device("meta"):
        network = FluxAudio(spec)
    network.load_state_dict(
        # a copy in any case: a tensor that is mapped from its file must not follow that file
        {key: tensors[key].to(torch.float32, copy=True).reshape(v.shape) for key, v in network.state_dict().items()},
        assign=True,
    )
    return network


@torch.no_grad()
def dependence_warnings(path: Path, network: FluxAudio) -> list[str]:
    """Makes sure that a loaded score path tells scores apart.

    Raises:
        ValueError: its weights are not zero, and yet two scores have one embedding.
    """
    if network.spec.score_variant is None:
        return []
    low, high = network.score_embed(torch.tensor(TWO_SCORES))
    if not torch.equal(low, high):
        return []
    if not network.score_embed.mlp[2].weight.any():
        return ["the last layer of the score path is zero, so scores change nothing: it is not trained"]
    raise ValueError(f"{path}: score_embed gives the scores {TWO_SCORES} the same embedding; its weights are damaged")


def export_state(network: FluxAudio, like: LoadReport | None = None) -> dict[str, Tensor]:
    """The state dict in the published layout: what was loaded and trained here loads there.

    Args:
        like: report of the checkpoint whose names, shapes and constants it takes; None keeps our names.
    Returns:
        copies on the CPU, in the network's precision.
    Raises:
        ValueError: the network lacks a tensor of that checkpoint.
    """
    state = network.state_dict()
    theirs = {ours: name for name, ours in like.mapped.items()} if like else {}
    absent = sorted(theirs.keys() - state.keys())
    if like and absent:
        raise ValueError(
            f"{like.path}: {theirs[absent[0]]} was loaded as {absent[0]}, which this network does not have"
        )
    shapes = like.shapes if like else {}
    exported = {theirs.get(key, key): value.detach().cpu().clone() for key, value in state.items()}
    exported = {key: value.reshape(shapes.get(key, value.shape)) for key, value in exported.items()}
    return exported | {key: value.clone() for key, value in (like.constants if like else {}).items()}
