"""Human preferences on pairs of clips, as features and a winner: what a reward is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from rlloop.data.columns import matrix, read_table, refuse_non_finite, targets, texts
from rlloop.weights import read_checkpoint

SPLITS = ("train", "val", "test")
# Where the published feature files keep each block of a's and b's features (reference.md section 8.3).
BLOCKS = {"clap": ("clap_a", "clap_b"), "mert": ("mert_a", "mert_b"), "text": ("text_emb", "text_emb")}
WHOLE = ("features_a", "features_b")
TEXTS = ("prompt", "source", "system_a", "system_b", "split")


@dataclass(frozen=True, eq=False)
class Pairs:
    """N compared pairs.

    `features_a`, `features_b` [N, D] float32; `target` [N]: 1 where a won, 0 where b won, 0.5 for a tie. The texts have
    N entries, empty where the file does not say.
    """

    features_a: Tensor
    features_b: Tensor
    target: Tensor
    prompt: list[str]
    source: list[str]
    system_a: list[str]
    system_b: list[str]
    split: list[str]

    def __len__(self) -> int:
        return len(self.target)


def read_pairs(path: Path, blocks: Sequence[str] | None = None) -> Pairs:
    """Reads a Parquet file, or a folder of the published feature files `{uuid}.pt`.

    Parquet: `winner` (model_a, model_b, tie) and either `features_a`, `features_b` or the blocks' columns, lists of
    numbers; optional texts `prompt`, `source`, `system_a`, `system_b`, `split`. Feature files hold the blocks, and a
    file in a folder named train, val or test belongs to that split.

    Args:
        blocks: which of clap, mert, text to take; all by default.
    Raises:
        ValueError: nothing there, a column is missing, or a row has a wrong winner, length, number or split.
    """
    if unknown := [block for block in blocks or () if block not in BLOCKS]:
        raise ValueError(f"features {', '.join(unknown)}: expected some of {', '.join(BLOCKS)}")
    chosen = [block for block in BLOCKS if block in (blocks or BLOCKS)]
    if path.is_dir():
        return _read_files(path, chosen)
    table = read_table(path)
    if set(WHOLE) <= set(table.column_names):
        if blocks is not None:
            raise ValueError(f"{path}: features_a is in one piece, from which {', '.join(blocks)} cannot be taken")
        sides = [matrix(path, table, name) for name in WHOLE]
    else:
        names = [[BLOCKS[block][side] for block in chosen] for side in (0, 1)]
        sides = [torch.cat([matrix(path, table, name) for name in side], dim=1) for side in names]
    if sides[0].shape != sides[1].shape:
        raise ValueError(f"{path}: features of a are {sides[0].shape[1]} wide, those of b {sides[1].shape[1]}")
    columns = {name: texts(table, name) for name in TEXTS}
    _check_splits(path, columns["split"])
    return Pairs(sides[0], sides[1], targets(path, texts(table, "winner")), **columns)


def with_splits(pairs: Pairs, seed: int) -> Pairs:
    """The pairs with the split that their file gives, or else with a seeded one by prompt, or by clips without prompts.

    Raises:
        ValueError: pairs without prompts share so many clips that no split keeps them apart.
    """
    if any(pairs.split):
        return pairs
    units = [prompt or f"\0clips {group}" for prompt, group in zip(pairs.prompt, clip_groups(pairs), strict=True)]
    largest = max(Counter(unit for unit in units if unit.startswith("\0")).values(), default=0)
    if largest > max(1, len(units) / 2):
        raise ValueError(
            f"{largest} of {len(units)} pairs have no prompt and share clips, directly or through others: a seeded "
            "split would put the same clips on both sides; bring prompts, or a split column"
        )
    return replace(pairs, split=split_by_prompt(units, seed))


def clip_rows(features: Tensor) -> list[bytes]:
    """What tells clips apart: the bytes of each row of [N, D]."""
    return [row.tobytes() for row in features.numpy()]


def clip_groups(pairs: Pairs) -> list[int]:
    """A number a pair; pairs that share a clip, directly or through others, have the same (union-find)."""
    parent: dict[bytes, bytes] = {}

    def root(clip: bytes) -> bytes:
        while parent.setdefault(clip, clip) != clip:
            parent[clip] = parent[parent[clip]]
            clip = parent[clip]
        return clip

    sides = list(zip(clip_rows(pairs.features_a), clip_rows(pairs.features_b), strict=True))
    for a, b in sides:
        parent[root(a)] = root(b)
    numbers: dict[bytes, int] = {}
    return [numbers.setdefault(root(a), len(numbers)) for a, _ in sides]


def split_by_prompt(prompts: Sequence[str], seed: int, *, val: float = 0.1, test: float = 0.1) -> list[str]:
    """A split of each pair, by a seeded order of the prompts: a prompt's pairs all fall on one side.

    Args:
        val, test: the shares of the pairs, reached to within one prompt.
    """
    groups: dict[object, list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(prompt or row, []).append(row)
    members = list(groups.values())
    out = ["train"] * len(prompts)
    left = {"val": val * len(prompts), "test": test * len(prompts)}
    for number in np.random.default_rng(seed).permutation(len(members)):
        name = next((name for name in left if left[name] > 0), None)
        if name is None:
            break
        for row in members[number]:
            out[row] = name
        left[name] -= len(members[number])
    return out


def _read_files(folder: Path, blocks: list[str]) -> Pairs:
    files = sorted(folder.rglob("*.pt"))
    if not files:
        raise ValueError(f"{folder} holds no .pt file; expected feature files {{uuid}}.pt, or a Parquet file")
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    columns: dict[str, list[str]] = {name: [] for name in (*TEXTS, "winner")}
    for path in track(files, "feature files"):
        found = read_checkpoint(path)
        for side, rows in enumerate(sides):
            rows.append(_features(path, found, [BLOCKS[block][side] for block in blocks]))
            if len(rows[-1]) != len(sides[0][0]):
                raise ValueError(f"{path}: {len(rows[-1])} features, expected {len(sides[0][0])} as in {files[0].name}")
        for name, values in columns.items():
            values.append(str(found.get(name) or ""))
        columns["split"][-1] = path.parent.name if path.parent.name in SPLITS else ""
        targets(path, columns["winner"][-1:])
    _check_splits(folder, columns["split"])
    target = targets(folder, columns.pop("winner"))
    return Pairs(torch.stack(sides[0]), torch.stack(sides[1]), target, **columns)


def _features(path: Path, found: dict, keys: list[str]) -> Tensor:
    for key in ("winner", *keys):
        if key not in found:
            raise ValueError(f"{path} has no {key}; found {', '.join(map(str, found))}")
    row = torch.cat([torch.as_tensor(found[key]).float().flatten() for key in keys])
    refuse_non_finite(path, " + ".join(keys), row[None])
    return row


def _check_splits(path: Path, splits: list[str]) -> None:
    for row, split in enumerate(splits if any(splits) else ()):
        if split not in SPLITS:
            raise ValueError(
                f"{path}: split of row {row} is {split!r}, expected {', '.join(SPLITS)}, or no split at all"
            )
