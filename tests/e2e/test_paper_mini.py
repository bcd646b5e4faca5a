"""The paper's chain on the shipped mini stack, shortened: a corpus, four stages, the table."""

import json

import pytest

from rlloop.config import load
from rlloop.recipes.mini_corpus import make_here
from tests.e2e.test_mini import main

SHORT = [
    "stages.sft.phases.0.updates=3",
    "stages.sft.phases.0.warmup=1",
    "stages.expert_iteration.tickets=4",
    "stages.expert_iteration.selection.top_fraction=0.25",
    "stages.expert_iteration.selection.min_examples=2",
    "stages.expert_iteration.phases.0.updates=2",
    "stages.expert_iteration.phases.0.batch_size=4",
    "stages.expert_iteration.phases.0.warmup=0",
    "stages.expert_iteration.phases.1.updates=1",
    "stages.expert_iteration.phases.1.batch_size=4",
    "stages.crpo.tickets=3",
    "stages.crpo.selection.min_examples=2",
    "stages.crpo.phases.0.updates=2",
    "stages.crpo.phases.0.batch_size=2",
    "evaluation.num_prompts=3",
    "evaluation.seeds_per_prompt=1",
    "generator.text_encoder=words",
]


@pytest.mark.e2e
def test_the_chain_ends_with_what_every_stage_contributed(tmp_path):
    corpus, run_dir = tmp_path / "corpus", tmp_path / "run"
    make_here(corpus, load("paper_mini", ["generator.text_encoder=words", "sampling.num_steps=2"]), 8, 0)
    done = main("--config", "paper_mini", *SHORT, f"corpus={corpus}", f"run_dir={run_dir}", timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    table = json.loads((run_dir / "summary.json").read_text())["decomposition"]
    assert [row["stage"] for row in table] == ["baseline", "sft", "expert_iteration", "cross_load", "crpo"]
    for row in table:
        assert row["distances"]["frechet_mini"]["n"] == 3
        assert set(row["scores"]) == {"tunejury_mini", "alignment_mini", "judge_mini"}
        assert (row["scores"]["judge_mini"]["p"] is None) == (row["stage"] == "baseline")
    for stage in ("baseline", "sft", "expert_iteration", "cross_load", "crpo"):
        assert stage in done.stdout
