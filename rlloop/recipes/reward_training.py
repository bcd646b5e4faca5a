"""Trains a TuneJury from human preferences (reference.md section 8.3) and measures it on pairs it never saw.

One folder holds all of it: head.safetensors, metrics.json, the learning curve as JSON lines and for TensorBoard, the
held-out pairs with their rewards (what `rlloop reward calibrate` reads), and a model card.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from rlloop.data.pairs import SPLITS, Pairs, with_splits
from rlloop.recipes.head_training import Epoch, Schedule, fit, kept_epoch, preference_loss
from rlloop.recipes.reward_training_curve import Curve
from rlloop.recipes.reward_training_report import describe, measure, write_card, write_heldout
from rlloop.recipes.votes import read_preferences
from rlloop.rewards.tunejury import TuneJuryHead


@dataclass(frozen=True)
class RewardTraining:
    """TuneJury's numbers (section 8.3). `split_seed` counts only for pairs that bring no split."""

    hidden: tuple[int, ...] = (1024, 512, 256, 128)
    learning_rate: float = 1e-4
    weight_decay: float = 1e-3
    schedule: Schedule = field(default_factory=Schedule)
    seeds: tuple[int, ...] = (42,)
    split_seed: int = 42
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class Trained:
    """A head of one seed, how it came about, and its rewards of the test pairs [N]."""

    seed: int
    head: TuneJuryHead
    epochs: list[Epoch]
    reward_a: np.ndarray
    reward_b: np.ndarray

    @property
    def best(self) -> Epoch:
        return kept_epoch(self.epochs)


def train_reward(
    pairs_path: Path,
    out_dir: Path,
    settings: RewardTraining,
    blocks: Sequence[str] | None = None,
    clips: Path | None = None,
) -> dict:
    """Trains one head a seed; head.safetensors is the one with the lowest validation loss.

    Nothing is chosen on the test pairs. Equal seeds, pairs and number of threads give equal weights on a CPU.

    Args:
        pairs_path, blocks, clips: see rlloop.recipes.votes.read_preferences.
    Returns:
        what metrics.json holds.
    Raises:
        ValueError: unusable pairs, a split without pairs, no such device, or a folder that holds a head already.
    """
    if (out_dir / "head.safetensors").exists():
        raise ValueError(f"{out_dir} holds a head already; choose another --out")
    check_device(settings.device)
    given, taken, num_not_blind = read_preferences(pairs_path, blocks, clips)
    pairs = with_splits(given, settings.split_seed)
    rows = split_rows(pairs, pairs_path)
    out_dir.mkdir(parents=True, exist_ok=True)
    with Curve(out_dir, settings.schedule.max_epochs) as curve:
        trained = [train_one(pairs, rows, settings, seed, curve.of(seed)) for seed in settings.seeds]
    chosen = min(trained, key=lambda one: one.best.val_loss)
    metrics = {
        "features": {"width": pairs.features_a.shape[1], "blocks": "all" if taken == ["all"] else taken},
        "pairs": describe(pairs, rows, given),
        "votes_not_blind": num_not_blind,
        "settings": asdict(settings),
        "seeds": [measure(one, pairs, rows["test"]) for one in trained],
        "chosen_seed": chosen.seed,
    }
    write_heldout(chosen, pairs, rows["test"], out_dir / "heldout.jsonl")
    (out_dir / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    write_card(metrics, pairs_path.name, out_dir / "MODEL_CARD.md")
    for one in trained if len(trained) > 1 else ():
        save_head(one.head, out_dir / "seeds" / f"{one.seed}.safetensors")
    save_head(chosen.head, out_dir / "head.safetensors")  # last: a folder with a head is complete
    return metrics


def split_rows(pairs: Pairs, path: Path) -> dict[str, torch.Tensor]:
    """Row numbers of each split.

    Raises:
        ValueError: one of them is empty, or every test pair is a tie.
    """
    split = np.array(pairs.split)
    rows = {name: torch.from_numpy(np.flatnonzero(split == name)) for name in SPLITS}
    sizes = ", ".join(f"{name} {len(found)}" for name, found in rows.items())
    if len(rows["train"]) < 2 or not len(rows["val"]) or bool((pairs.target[rows["test"]] == 0.5).all()):
        raise ValueError(
            f"{path}: {sizes} pairs; expected at least 2 to train, 1 to validate and 1 to test that is no tie; "
            "bring more pairs, or a split of your own"
        )
    return rows


def train_one(
    pairs: Pairs,
    rows: dict[str, torch.Tensor],
    settings: RewardTraining,
    seed: int,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Trained:
    """A head of one seed, which decides its first weights, the order of the pairs, and dropout."""
    device = torch.device(settings.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = TuneJuryHead((pairs.features_a.shape[1], *settings.hidden, 1)).to(device)
    a, b, target = (side.to(device) for side in (pairs.features_a, pairs.features_b, pairs.target))
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    train, val, test = (rows[name].to(device) for name in SPLITS)
    loss = preference_loss(a, b, target)
    epochs = fit(head, loss, train, val, optimizer, settings.schedule, seed=seed, on_epoch=on_epoch)
    with torch.no_grad():
        rewards = [head(side[test]).cpu().numpy().astype(np.float64) for side in (a, b)]
    return Trained(seed, head.cpu(), epochs, *rewards)


def check_device(name: str) -> None:
    """Raises ValueError where torch cannot put a tensor on the device."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {name!r}: {str(error).splitlines()[0]}; choose cpu, or cuda where there is one"
        ) from None


def save_head(head: TuneJuryHead, path: Path) -> None:
    """Saves a head as safetensors, readable for everyone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in head.state_dict().items()}, path)
    path.chmod(0o644)  # safetensors makes it private to its owner
