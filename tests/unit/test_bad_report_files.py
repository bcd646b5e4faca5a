"""Files that a report shows, damaged or foreign: it does without them, and names each with one line.

Apart from tests/unit/test_bad_files.py because nothing here ends anything: a report is made of whatever is whole.
The rows are in docs/bad_files.md, which that file writes.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from rlloop.data.rollouts import ScoredTicket, rollout_path, write_rollouts
from rlloop.recipes.cohort import cohort_candidates
from rlloop.recipes.kept_files import KeptFiles, read_kept
from rlloop.recipes.run_clips import cohort_clips
from rlloop.recipes.run_record import read_run
from tests.unit.damages import DEEP, Case, fields, halve, text
from tests.unit.run_directory import make_run

SUMMARY = json.dumps({"status": "finished", "policy_versions": 2, "wall_seconds": 5.0, "messages": [], "restarts": {}})
POINT_OF_SWEEP = {"s": 1, "scores": {"x": {"mean": 0.5, "ci_low": None, "ci_high": None}}, "distances": {}}
GOOD = {
    "summary.json": SUMMARY,
    "sweep.json": json.dumps({"points": [POINT_OF_SWEEP], "spearman": {"x": {"rho": None}}, "notes": []}),
    "environment.json": json.dumps([{"epoch": 1, "versions": {"python": "3.12"}, "nodes": [{"CPU": 2.0}]}]),
    "corpus.json": json.dumps({"rows": 5}),
    "prompts.json": json.dumps({"train": ["a"], "heldout": ["b"]}),
}
LEFT_OUT = [
    *(Case(name, "half of it", halve, "is no JSON") for name in GOOD),
    *(Case(name, "nested 200,000 deep", text(DEEP), "nested too deeply") for name in GOOD),
    Case("summary.json", "a time is a text", fields(wall_seconds="long"), "wall_seconds"),
    Case("summary.json", "a time is NaN", fields(wall_seconds=float("nan")), "wall_seconds"),
    Case("summary.json", "another status", fields(status=3), "status"),
    Case("summary.json", "messages are a text", fields(messages="x"), "messages"),
    Case("sweep.json", "a point without scores", fields(points=[{"s": 1}]), "points.0.scores"),
    Case("sweep.json", "an s is a text", fields(points=[{**POINT_OF_SWEEP, "s": "high"}]), "points.0.s"),
    Case("sweep.json", "of another program", text('{"accuracy": 1}'), "points"),
    Case("environment.json", "versions are a list", text('[{"versions": ["3.12"]}]'), "0.versions"),
    Case("corpus.json", "a list", text("[]"), "its value"),
    Case("prompts.json", "a list", text("[]"), "its value"),
    Case("prompts.json", "a number for the prompts", text('{"train": 5}'), "train"),
    Case("prompts.json", "without those of training", text("{}"), "train"),
]
ROLLOUTS = "rollouts/*.parquet"
WITHOUT_AUDIO = [
    Case(ROLLOUTS, "half of it, and its clip evicted", halve, "cannot be decoded: … no readable rollout file"),
    Case(ROLLOUTS, "latents of another shape, and its clip evicted", lambda path: None, "cannot be decoded: …"),
]


@pytest.mark.parametrize("case", LEFT_OUT, ids=lambda case: case.name)
def test_a_report_leaves_a_bad_file_out_and_names_it(case, tmp_path):
    path = tmp_path / case.file
    path.write_text(GOOD[case.file])
    whole = read_kept(tmp_path)
    assert whole.damaged == [] and any_of(whole)
    case.damage(path)
    found = read_kept(tmp_path)
    assert not any_of(found)
    (line,) = found.damaged
    assert case.file in line and case.said in line and "\n" not in line and len(line) < 500, line


def any_of(found: KeptFiles) -> bool:
    return bool(found.summary or found.sweep or found.starts or found.corpus or found.training_prompts)


@pytest.mark.parametrize("case", WITHOUT_AUDIO, ids=lambda case: case.what)
def test_a_report_shows_a_clip_without_audio_and_says_why(case, tmp_path):
    """The latents are [1, 8, 4], which the mini stack cannot decode."""
    run = make_run(tmp_path / "run")
    (run / "audio" / "generation000001-best.flac").unlink()
    record, ledger = read_run(run)
    best = cohort_candidates(ledger, 1, ledger.plan.stage_of(1))[0]
    latents = np.full((2, 8, 4), 0.5, np.float16)
    path = rollout_path(run, best.ticket)
    write_rollouts(path, ScoredTicket(best.ticket, 0, "a", [1, 2], latents, [{}] * 2, [{}] * 2))
    case.damage(path)
    clips, _ = cohort_clips(record, ledger)
    first, *others = clips
    parts = case.said.split("…")
    assert all(part.strip() in first.missing for part in parts) and "\n" not in first.missing, first.missing
    assert not first.data and not any(clip.missing for clip in others)
