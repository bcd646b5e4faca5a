"""Fits the small heads of the mini rewards: functions of arrays, no files and no audio.

180 labelled clips and 200 features leave room for little: a ridge on clamped features, and low-dimensional projections.
The ridge is a linear head in the training loop of every reward head (recipes/head_training.py), with labels for pairs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rlloop.recipes.head_training import Schedule, fit, ridge_loss
from rlloop.rewards.agreement import pearson
from rlloop.rewards.tunejury import TuneJuryHead

BATCH_NORM_EPS = 1e-5
NUM_FOLDS = 6
TEXT_SCALE = 20.0  # a unit vector in 384 dimensions has elements of about 1 / 20


@dataclass(frozen=True)
class HeadSettings:
    """What cross-validation chooses: views to fit on, clamp in standard deviations, ridge in units of variance."""

    views: tuple[str, ...]
    clamp: float
    ridge: float


def fit_head(features: np.ndarray, labels: np.ndarray, clamp: float, ridge: float) -> dict[str, Tensor]:
    """Ridge regression on clamped, standardised features, as the state dict of a TuneJury head.

    The clamp bounds what a feature unlike any real clip's can do to the reward. It fits the head's shape exactly:
    clamp(z, -c, c) = relu(z + c) - relu(z - c) - c, with a batch norm that does nothing.

    Args:
        features: [N, D]; labels: [N].
    Returns:
        state dict of widths D, 2 D, 1.
    """
    mean, std = features.mean(0), features.std(0)
    std = np.maximum(std, 0.05 * np.median(std))
    z = np.clip((features - mean) / std, -clamp, clamp)
    centre = z.mean(0)
    weight, bias = fit_ridge(z - centre, labels, ridge)
    bias -= centre @ weight + clamp * weight.sum()
    scale = np.diag(1 / std)
    state = {
        "net.0.weight": np.concatenate([scale, scale]),
        "net.0.bias": np.concatenate([clamp - mean / std, -clamp - mean / std]),
        "net.1.weight": np.full(2 * len(mean), math.sqrt(1 + BATCH_NORM_EPS)),
        "net.1.bias": np.zeros(2 * len(mean)),
        "net.1.running_mean": np.zeros(2 * len(mean)),
        "net.1.running_var": np.ones(2 * len(mean)),
        "net.1.num_batches_tracked": np.zeros(()),
        "net.4.weight": np.concatenate([weight, -weight])[None],
        "net.4.bias": np.array([bias]),
    }
    return {name: torch.from_numpy(value).float() for name, value in state.items()}


def fit_ridge(z: np.ndarray, labels: np.ndarray, ridge: float) -> tuple[np.ndarray, float]:
    """Weights [D] and bias of the linear head with the least ridge loss, to about 1e-9.

    The loss is convex and the data fits one batch, so the loop runs on all rows with L-BFGS, from zero, and what it
    validates on are the training rows.

    Args:
        z: [N, D] features of mean 0; labels: [N].
    """
    head = TuneJuryHead((z.shape[1], 1)).double()
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.LBFGS(
        head.parameters(),
        max_iter=1000,
        history_size=50,
        tolerance_grad=1e-10,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )
    rows = torch.arange(len(z))
    loss = ridge_loss(torch.from_numpy(z).double(), torch.from_numpy(labels).double(), ridge)
    fit(head, loss, rows, rows, optimizer, Schedule(batch_size=len(z), max_epochs=2, patience=1, min_delta=0.0))
    linear = head.net[-1]
    return linear.weight.detach().numpy()[0], linear.bias.item()


@torch.no_grad()
def apply_head(state: dict[str, Tensor], features: np.ndarray) -> np.ndarray:
    """[N, D] to [N] by the state dict of a head."""
    return TuneJuryHead.from_state_dict(state)(torch.from_numpy(features).float()).numpy()


def cross_validate(
    views: dict[str, np.ndarray],
    labels: np.ndarray,
    prompts: np.ndarray,
    settings: HeadSettings,
    tests: Sequence[str],
) -> dict[str, float]:
    """Pearson of predictions on each view in `tests`, each prompt predicted by a head that never saw it.

    Args:
        views: name -> [N, D] features; labels: [N]; prompts: [N] number of the clip's prompt.
    """
    predicted = {test: np.zeros(len(labels)) for test in tests}
    for fold in range(NUM_FOLDS):
        seen = prompts % NUM_FOLDS != fold
        state = fit_on_views(views, labels, seen, settings)
        for test in tests:
            predicted[test][~seen] = apply_head(state, views[test][~seen])
    return {test: pearson(predicted[test], labels) for test in tests}


def fit_on_views(
    views: dict[str, np.ndarray], labels: np.ndarray, rows: np.ndarray, settings: HeadSettings
) -> dict[str, Tensor]:
    """fit_head on all views of the settings at once: each keeps its clip's label."""
    features = np.concatenate([views[name][rows] for name in settings.views])
    return fit_head(features, np.tile(labels[rows], len(settings.views)), settings.clamp, settings.ridge)


def fit_alignment(
    views: list[np.ndarray],
    text: np.ndarray,
    prompts: np.ndarray,
    *,
    num_seeds: int = 6,
    dim: int = 32,
    steps: int = 100,
    temperature: float = 0.2,
    dropout: float = 0.5,
    learning_rate: float = 3e-3,
    weight_decay: float = 0.1,
) -> dict[str, Tensor]:
    """Contrastive projections of audio and text (InfoNCE both ways, arXiv:2103.00020), one clip a prompt in each step.

    Args:
        views: each [N, A] features of the same N clips.
        text: [M, E] sentence embeddings; prompts: [N] row in `text` of each clip's prompt.
    Returns:
        state dict of AlignmentHead, with the standardisation folded in.
    """
    audio = torch.from_numpy(np.concatenate(views)).float()
    owner = torch.from_numpy(np.tile(prompts, len(views)))
    mean, std = audio.mean(0), audio.std(0)
    std = std.clamp_min(0.05 * std.median().item())
    used = owner.unique()
    all_text = torch.from_numpy(text).float()
    text_mean = all_text[used].mean(0)
    rows = [torch.nonzero(owner == prompt).squeeze(1) for prompt in used]
    z, t = (audio - mean) / std, (all_text[used] - text_mean) * TEXT_SCALE
    out: dict[str, list[Tensor]] = {name: [] for name in ("audio", "audio_bias", "text", "text_bias")}
    for seed in range(num_seeds):
        torch.manual_seed(seed)
        a, b = torch.nn.Linear(z.shape[1], dim), torch.nn.Linear(t.shape[1], dim)
        optimizer = torch.optim.AdamW([*a.parameters(), *b.parameters()], lr=learning_rate, weight_decay=weight_decay)
        for _ in range(steps):
            pick = torch.stack([row[torch.randint(len(row), ())] for row in rows])
            loss = info_nce(a(F.dropout(z[pick], dropout)), b(F.dropout(t, dropout)), temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        w, v = a.weight.detach().T / std[:, None], b.weight.detach().T * TEXT_SCALE
        out["audio"].append(w)
        out["audio_bias"].append((a.bias.detach() - mean @ w)[None])
        out["text"].append(v)
        out["text_bias"].append((b.bias.detach() - text_mean @ v)[None])
    return {name: torch.stack(tensors) for name, tensors in out.items()}


def info_nce(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding each row of b [N, D] from its row of a [N, D] by cosine, and back."""
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature
    target = torch.arange(len(a))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
