"""The default command on the shipped mini stack, shortened: real weights, real rewards, prompts from a file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlloop.audio.io import read_audio

REPOSITORY = Path(__file__).parents[2]
SHORT = [
    "sampler.clips_per_prompt=4",
    "stages.expert_iteration.generations=1",
    "stages.expert_iteration.tickets=4",
    "stages.expert_iteration.selection.min_examples=1",
    "stages.expert_iteration.selection.top_fraction=0.25",
    "stages.expert_iteration.phases.0.updates=2",
    "stages.expert_iteration.phases.0.batch_size=4",
    "evaluation.num_prompts=2",
    "evaluation.seeds_per_prompt=1",
    "generator.text_encoder=words",
]


def main(*overrides: str, timeout: float = 60) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rlloop.main", *overrides]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.mark.e2e
def test_the_default_command_scores_trains_publishes_and_leaves_music(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_bytes("\ufeffA calm piano piece\n\n\nA fast drum solo\n".encode())
    run_dir = tmp_path / "run"
    done = main(*SHORT, f"prompts={prompts}", f"run_dir={run_dir}", timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["policy_versions"] == 1
    assert summary["clips_generated"] == 16 and summary["num_eval_prompts"] == 2
    assert set(summary["guards"]) == {"alignment_mini", "judge_mini"}
    assert np.isfinite([summary["reward_before"], summary["reward_after"]]).all()
    for name in ("version000000-prompt000", "version000001-prompt001"):
        audio, rate = read_audio(run_dir / "audio" / f"{name}.flac")
        assert rate == 16_000 and len(audio) >= 4.9 * rate and np.abs(audio).max() > 0.01
    assert json.loads((run_dir / "prompts.json").read_text())["train"] == ["A calm piano piece", "A fast drum solo"]
    assert list((run_dir).rglob("events.out.tfevents*"))
    (start,) = json.loads((run_dir / "environment.json").read_text())
    assert start["versions"]["torch"] and start["nodes"][0]["CPU"] >= 1
    assert {path.name for path in (run_dir / "audio").glob("generation*")} == {
        f"generation000000-{place}.flac" for place in ("best", "median", "worst")
    }
    report = subprocess.run([sys.executable, "-m", "rlloop.commands.main", "report", str(run_dir)], cwd=REPOSITORY)
    page = (run_dir / "report.html").read_text()
    assert (
        report.returncode == 0 and page.count("<audio") == 2 * 2 + 3 and f"torch {start['versions']['torch']}" in page
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["prompts=no/such/file.txt"], "no/such/file.txt"),
        (["sampler.num_actor=2"], "did you mean 'num_actors'"),
        (["trainer.num_workers=3"], "batch_size 16 is not a multiple of trainer.num_workers 3"),
        (["sampler.num_actors=9999"], "CPU"),
        (["generator.target=no.such:thing"], "no.such"),
        (["scorer.rewards=['tunejury_mini', 'nonsense']"], "nonsense"),
        (["stages.expert_iteration.algorithm=alchemy"], "alchemy"),
    ],
)
def test_what_cannot_work_is_one_line_before_anything_starts(overrides, said, tmp_path):
    done = main(*overrides, f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("rlloop: ")]
    assert len(lines) == 1 and said in lines[0], done.stderr
    assert "Traceback" not in done.stderr
