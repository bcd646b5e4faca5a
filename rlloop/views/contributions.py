"""Which stage contributed how much: the order of a table's stages by their gain, beside what the paper published."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

# arXiv:2606.21670 as reference.md section 11.2 has it: 100 prompts of one seed, FAD-CLAP against SDD-706. Its table of
# absolute values is not known, nor a p but where it says so.
PUBLISHED = (
    "SFT with score conditioning over the baseline: FAD-CLAP -0.025 to -0.040",
    "expert iteration: contributes most; FAD-CLAP -0.0362, CLAP and reward rise significantly",
    "cross-load v1 to v2: FAD-CLAP within 0.02",
    "CRPO over the chain's end: FAD-CLAP -0.003, CLAP +0.002, reward -0.002, near zero and not significant",
)


def order_of_contributions(
    rows: Sequence[Mapping[str, Any]], distances: Collection[str] = ()
) -> dict[str, list[dict[str, Any]]]:
    """Score or distance -> its stages, the largest contribution first; a stage without a gain in it is left out.

    Args:
        rows: of `decompose`, or of `over_runs`.
        distances: names whose gain is the better the lower; those in a row's "distances" are known.
    Returns:
        name -> [{"stage", "gain", "p"}], p None where there is none.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    lower = set(distances) | {name for row in rows for name in row.get("distances", ())}
    for row in rows:
        for name, cell in (row.get("gains") or {**row["scores"], **row["distances"]}).items():
            gain = cell["mean"] if "gains" in row else cell["gain"]
            if gain is not None:
                found.setdefault(name, []).append({"stage": row["stage"], "gain": gain, "p": cell.get("p")})
    for name, own in found.items():
        own.sort(key=lambda one: one["gain"], reverse=name not in lower)
    return found


def contribution_lines(order: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Markdown: a list of the stages by score, then the published facts to hold them against."""
    lines = ["Order of contributions, the largest first:", ""]
    lines += [f"- {name}: {', '.join(map(_entry, stages))}" for name, stages in order.items()]
    lines += ["", "Published (arXiv:2606.21670, other data and other scores):", ""]
    return lines + [f"- {fact}" for fact in PUBLISHED]


def _entry(one: Mapping[str, Any]) -> str:
    p = "" if one["p"] is None else f" (p {one['p']:.2g})"
    return f"{one['stage']} {one['gain']:+.3f}{p}"
