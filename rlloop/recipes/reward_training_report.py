"""What a trained reward is worth on pairs it never saw: figures, the pairs with their rewards, and the model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from rlloop.data.pairs import Pairs, clip_rows
from rlloop.rewards.agreement import bootstrap_interval
from rlloop.rewards.calibration import expected_calibration_error, pair_accuracy

if TYPE_CHECKING:
    from rlloop.recipes.reward_training import Trained

WINNERS = {1.0: "model_a", 0.0: "model_b", 0.5: "tie"}
SEEDED = "seeded, the pairs of a prompt, or of the same clips, together"
CARD = """# A reward head trained by `rlloop reward train`

A TuneJury head (arXiv:2606.17006): {width} features of a clip and its prompt (blocks: {blocks}) to one number. Only
differences between clips mean something: P(a preferred to b) = sigmoid(reward a - reward b).

Trained on {train} pairs of `{data}` ({train_ties} of them ties, kept as 0.5), stopped by {val} others. The split is
{split}.{leak}

| seed | epochs | validation loss | accuracy on {decided} held-out pairs | 95 % over prompts | calibration error |
|---|---|---|---|---|---|
{rows}

`head.safetensors` is seed {chosen}, chosen by its validation loss. Accuracy counts pairs that are no ties; calibration
error is the mean gap between confidence and accuracy in ten bins of equally many pairs.

It knows the taste of those who labelled these pairs, on the systems that made them. A loop that trains on it will find
what it overrates: watch a score that the loop does not see. The licence of the pairs binds the head, too.
"""


def measure(trained: Trained, pairs: Pairs, test: Tensor) -> dict:
    """Figures of the test pairs: accuracy without ties, its 95 % interval over prompts, and calibration."""
    decided = pairs.target[test] != 0.5
    rows = test[decided].tolist()
    margin = (trained.reward_a - trained.reward_b)[decided.numpy()]
    target = pairs.target[rows].numpy().astype(np.float64)
    groups = np.array([pairs.prompt[row] or f"row {row}" for row in rows])
    sources = np.array([pairs.source[row] for row in rows])
    return {
        "seed": trained.seed,
        "epochs": len(trained.epochs),
        "best_epoch": trained.best.number,
        "val_loss": trained.best.val_loss,
        "accuracy": pair_accuracy(margin, target),
        "accuracy_95": bootstrap_interval(lambda found: pair_accuracy(margin[found], target[found]), groups),
        "calibration_error": expected_calibration_error(margin, target),
        "accuracy_by_source": {
            str(name): pair_accuracy(margin[sources == name], target[sources == name])
            for name in np.unique(sources[sources != ""])
        },
    }


def describe(pairs: Pairs, rows: dict[str, Tensor], given: Pairs) -> dict:
    """How many pairs there are in each split, how it was made, and whether prompts lie on both sides of it."""
    a, b = clip_rows(pairs.features_a), clip_rows(pairs.features_b)
    clips = {name: {side[row] for row in found.tolist() for side in (a, b)} for name, found in rows.items()}
    prompts = {name: {pairs.prompt[row] for row in found.tolist()} - {""} for name, found in rows.items()}
    return {
        **{name: len(found) for name, found in rows.items()},
        "ties": {name: int((pairs.target[found] == 0.5).sum()) for name, found in rows.items()},
        "split": "that of the file"
        if any(given.split)
        else "seeded, the pairs of a prompt, or of the same clips, together",
        "test_prompts_seen_in_training": len(prompts["test"] & (prompts["train"] | prompts["val"])),
        "test_clips_seen_in_training": len(clips["test"] & (clips["train"] | clips["val"])),
    }


def write_heldout(trained: Trained, pairs: Pairs, test: Tensor, path: Path) -> None:
    """One JSON object a test pair: its rewards, its winner, and who made its clips."""
    lines = []
    for row, a, b in zip(test.tolist(), trained.reward_a, trained.reward_b, strict=True):
        found = {name: getattr(pairs, name)[row] for name in ("prompt", "source", "system_a", "system_b")}
        winner = WINNERS[pairs.target[row].item()]
        lines.append(json.dumps({**found, "reward_a": float(a), "reward_b": float(b), "winner": winner}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_card(metrics: dict, data: str, path: Path) -> None:
    """The model card: what the head is, what it was trained on, and the figures of metrics.json."""
    pairs = metrics["pairs"]
    seen = [f"{n} {what}" for what in ("prompts", "clips") if (n := pairs[f"test_{what}_seen_in_training"])]
    rows = [
        f"| {one['seed']} | {one['epochs']} | {one['val_loss']:.4f} | {one['accuracy']:.4f} "
        f"| {one['accuracy_95'][0]:.3f} to {one['accuracy_95'][1]:.3f} | {one['calibration_error']:.4f} |"
        for one in metrics["seeds"]
    ]
    text = CARD.format(
        width=metrics["features"]["width"],
        blocks=metrics["features"]["blocks"],
        train=pairs["train"],
        data=data,
        train_ties=pairs["ties"]["train"],
        val=pairs["val"],
        split=pairs["split"],
        leak=f" {', '.join(seen)} of held-out pairs also occur in training, so the figures flatter it." if seen else "",
        decided=pairs["test"] - pairs["ties"]["test"],
        rows="\n".join(rows),
        chosen=metrics["chosen_seed"],
    )
    path.write_text(text, encoding="utf-8")
