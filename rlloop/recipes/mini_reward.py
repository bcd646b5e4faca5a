"""Trains the mini rewards from clips with real TuneJury labels, and measures them on prompts none of them has seen.

The order: features of every view of every clip (cached, the slow part), a reward head and a judge head chosen by
cross-validation inside the training prompts, the alignment projections, and card_rewards.json with all figures.
"""

from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from rlloop.data.prompts import shipped_prompts
from rlloop.models.text import PromptFeatures
from rlloop.recipes.mini_heads import NUM_FOLDS, HeadSettings, cross_validate, fit_alignment, fit_on_views
from rlloop.recipes.mini_reward_card import measure_alignment, write_card
from rlloop.recipes.mini_table import Table, load_table, read_clips

FIT_VIEWS = (("whole", "window", "window2", "codec"), ("whole", "window", "window2", "codec", "blurred"))
CLAMPS = (2.0, 3.0, 4.0)
RIDGES = (0.3, 1.0, 3.0)
TEST_VIEWS = ("whole", "window", "codec")
# The baseline's clips hardly follow their prompts (real CLAP score 0.09 against 0.29): they teach alignment nothing.
ALIGNED_SYSTEMS = ("sub1", "sub2")


def train_mini_rewards(clips_dir: Path, out_dir: Path, work_dir: Path) -> dict:
    """Trains tunejury_mini, judge_mini and alignment_mini and writes them and their card into `out_dir`.

    Resumable: features are kept clip by clip in `work_dir`, so a second call with it starts where the first ended.

    Args:
        clips_dir: with clips.jsonl ("id", "system", "path", "prompt", "tunejury", "clap") and the audio it names.
    Returns:
        the figures of card_rewards.json.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    table = load_table(read_clips(clips_dir), work_dir)
    chosen = {}
    for name, ear in (("tunejury_mini", "mtt"), ("judge_mini", "msd")):
        settings, figures = choose_settings(table, ear)
        save_half(fit_on_views(table.features[ear], table.labels, ~table.is_heldout, settings), out_dir / name)
        chosen[name] = {"views": settings.views, "clamp": settings.clamp, "ridge": settings.ridge, **figures}
    text = PromptFeatures().encode(shipped_prompts())["text_c"].numpy()
    save_half(fit_alignment_on(table, text, ~table.is_heldout), out_dir / "alignment_mini")
    chosen["alignment_mini"] = {"cv_right_of_ten": cross_validate_alignment(table, text)}
    return write_card(table, text, chosen, out_dir)


def choose_settings(table: Table, ear: str) -> tuple[HeadSettings, dict[str, float]]:
    """The settings with the best mean Pearson over whole clips, windows and codec, by cross-validation.

    Only training prompts take part; the held-out ones decide nothing.
    """
    seen = ~table.is_heldout
    views = {view: features[seen] for view, features in table.features[ear].items()}
    results = {}
    for settings in (HeadSettings(v, c, r) for v in FIT_VIEWS for c in CLAMPS for r in RIDGES):
        figures = cross_validate(views, table.labels[seen], table.prompts[seen], settings, TEST_VIEWS)
        results[settings] = {f"cv_pearson_{test}": value for test, value in figures.items()}
    best = max(results, key=lambda settings: sum(results[settings].values()))
    return best, results[best]


def fit_alignment_on(table: Table, text: np.ndarray, rows: np.ndarray) -> dict[str, Tensor]:
    """Alignment projections from the aligned systems' clips among `rows` [N] of truth values."""
    rows = rows & np.isin(table.systems, ALIGNED_SYSTEMS)
    views = [table.features["mtt"][view][rows] for view in FIT_VIEWS[0]]
    return fit_alignment(views, text, table.prompts[rows])


def cross_validate_alignment(table: Table, text: np.ndarray) -> float:
    """Right-of-ten of whole training clips among the ten prompts of each fold, which its projections never saw."""
    results = []
    for fold in range(NUM_FOLDS):
        rows = ~table.is_heldout & (table.prompts % NUM_FOLDS == fold)
        state = fit_alignment_on(table, text, ~table.is_heldout & ~rows)
        results.append(measure_alignment(state, table, text, rows, "whole")["right_of_ten"])
    return float(np.mean(results))


def save_half(state: dict[str, Tensor], path: Path) -> None:
    """Saves as safetensors, matrices in half precision."""
    halves = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in state.items()}
    save_file({name: tensor.contiguous() for name, tensor in halves.items()}, path.with_suffix(".safetensors"))
    path.with_suffix(".safetensors").chmod(0o644)  # safetensors makes it private to its owner
