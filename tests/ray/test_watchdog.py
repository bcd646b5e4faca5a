"""A run that hangs ends by itself: status 1, one line that names who waits for whom, ledger and stacks on disk."""

import json
import re
from pathlib import Path

import pytest

from tests.ray import runs
from tests.ray.conftest import SYNCHRONOUS

pytestmark = pytest.mark.ray
WAITS = {
    "sampler": r"the pump waits for sampler-\d+-\w+-\w+ with ticket \d+ since \d+ s",
    "trainer": r"the gate waits for the trainer's version 1 since \d+ s; trainer: training generation 0",
}


@pytest.mark.parametrize("where", ["sampler", pytest.param("trainer", marks=pytest.mark.long)])
def test_a_run_that_hangs_ends_with_the_stack_of_who_hangs(tmp_path, where):
    run_dir = tmp_path / "run"
    overrides = (
        SYNCHRONOUS, "sampler.num_actors=1", "evaluation.in_between=false", "loop.wait_timeout_s=60",
        "loop.stall_timeout_s=45", "generator.target=tests.fakes:hanging_generator",
        f"generator.options={{where: {where}}}",
    )  # fmt: skip
    summary = runs.finish(runs.start(run_dir, *overrides), run_dir, status=1)
    assert summary["status"] == "failed"
    assert re.search("neither a commit nor a step since .*" + WAITS[where], summary["reason"]), summary["reason"]
    folder = Path(re.search(r"ledger and stacks: (\S+)", summary["reason"])[1])
    assert folder.parent == run_dir / "watchdog" and str(folder) in runs.tail(run_dir)
    stacks = {path.name.split("-")[0]: path.read_text() for path in folder.glob("*.txt")}
    assert {"driver", "buffer", "store", "pump", "evaluator", "sampler", "scorer", "trainer"} <= stacks.keys()
    hanging = {role for role, text in stacks.items() if "in hang_for_ever" in text}
    assert where in hanging and hanging <= {where, "evaluator"}  # which samples, too
    tickets = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert len(tickets) == 24 and any(ticket["state"] != "open" for ticket in tickets)
