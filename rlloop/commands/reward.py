"""`rlloop reward`: trains a reward from human preferences, and calibrates one on compared systems."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Rewards: training from preferences, calibration of systems.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("train")
def train(
    pairs: Annotated[
        Path, typer.Argument(help="Parquet file, folder of feature files {uuid}.pt, or votes of a report.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the head, its figures and its card.")],
    features: Annotated[
        str,
        typer.Option(help="Blocks to hear, of clap,mert,text; musicnn for votes.", show_default="all that there are"),
    ] = "",
    seeds: Annotated[str, typer.Option(help="One head a seed; the best on validation is kept.")] = "42",
    split_seed: Annotated[int, typer.Option(help="Splits pairs that bring no split, by prompt.")] = 42,
    hidden: Annotated[str, typer.Option(help="Widths of the hidden layers.")] = "1024,512,256,128",
    lr: Annotated[float, typer.Option(help="Learning rate of AdamW.")] = 1e-4,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 1e-3,
    batch: Annotated[int, typer.Option(min=2, help="Pairs a step.")] = 32,
    epochs: Annotated[int, typer.Option(min=1, help="At most so many.")] = 1000,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without a better validation loss.")] = 30,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    clips: Annotated[
        Path | None, typer.Option(help="For votes: where the run lies.", show_default="where it lay")
    ] = None,
) -> None:
    """Trains a TuneJury head on pairs with a winner and measures it on held-out pairs.

    Pairs have `winner` (model_a, model_b, tie) and features_a, features_b, or clap_a, clap_b, mert_a, mert_b, text_emb;
    and if you like prompt, source, system_a, system_b, split (train, val, test). Votes are the votes.jsonl that the
    blind test of `rlloop report` stores: their clips are heard with the bundled ear, or with TuneJury's (--features);
    votes given after what was what had been shown are left out.

    Examples: rlloop reward train pairs.parquet --out my_reward --seeds 42,43,44

    rlloop reward train votes.jsonl --out my_taste --hidden 16
    """
    from rlloop.recipes.head_training import Schedule
    from rlloop.recipes.reward_training import RewardTraining, train_reward

    settings = RewardTraining(
        hidden=integers("--hidden", hidden),
        learning_rate=lr,
        weight_decay=weight_decay,
        schedule=Schedule(batch_size=batch, max_epochs=epochs, patience=patience),
        seeds=tuple(dict.fromkeys(integers("--seeds", seeds))),
        split_seed=split_seed,
        device=device,
    )
    blocks = [name.strip() for name in features.split(",")] if features else None
    metrics = train_reward(pairs, out, settings, blocks, clips)
    if left_out := metrics["votes_not_blind"]:
        print(
            f"rlloop: note: {left_out} votes were given after what was what had been shown, and are left out",
            file=sys.stderr,
        )
    show(metrics)
    print(f"{out / 'head.safetensors'}; figures in metrics.json and MODEL_CARD.md beside it")


@app.command("calibrate")
def calibrate(
    comparisons: Annotated[Path, typer.Argument(help="JSON lines or Parquet of compared clips with their rewards.")],
    out: Annotated[Path, typer.Option(help="JSON file for the offsets and held-out figures.")],
    anchor: Annotated[str, typer.Option(help="System whose offset stays 0.", show_default="none")] = "",
    strength: Annotated[float, typer.Option(min=0.0, help="Of the penalty on offsets.")] = 1.0,
    folds: Annotated[int, typer.Option(min=2, help="Parts of the cross-validation.")] = 5,
    seed: Annotated[int, typer.Option(help="Draws the parts.")] = 0,
) -> None:
    """Finds what each system's clips score too high, from comparisons by people; ties are left out.

    Comparisons have reward_a, reward_b, system_a, system_b and winner: `rlloop reward train` writes such a file,
    heldout.jsonl.

    Example: rlloop reward calibrate my_reward/heldout.jsonl --out offsets.json
    """
    from rlloop.data.comparisons import read_comparisons
    from rlloop.recipes.reward_calibration import calibrate as fit

    found = fit(read_comparisons(comparisons), strength=strength, anchor=anchor or None, num_folds=folds, seed=seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    for system, offset in found["offsets"].items():
        print(f"{offset:+.3f}  {system}")
    before, after = (found["heldout"][when]["accuracy"] for when in ("before", "after"))
    print(f"held-out accuracy {before:.3f} before, {after:.3f} after, {found['comparisons']} comparisons; {out}")


def integers(option: str, text: str) -> tuple[int, ...]:
    """Positive numbers between commas, at least one.

    Raises:
        ValueError: anything else.
    """
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = (0,)
    if min(found) < 1:
        raise ValueError(f"{option} {text!r}: expected whole numbers from 1 on, with commas between")
    return found


def show(metrics: dict) -> None:
    """The seeds as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("seed", "epochs", "validation loss", "held-out accuracy", "95 %", "calibration error")
    for one in metrics["seeds"]:
        low, high = one["accuracy_95"]
        name = f"{one['seed']}{' (kept)' if one['seed'] == metrics['chosen_seed'] else ''}"
        row = (name, str(one["epochs"]), f"{one['val_loss']:.4f}", f"{one['accuracy']:.4f}")
        table.add_row(*row, f"{low:.3f} to {high:.3f}", f"{one['calibration_error']:.4f}")
    Console().print(table)
