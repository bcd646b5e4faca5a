"""Votes of a blind test: what a report hands out is read as preference pairs, and trains."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rlloop.commands.main import app
from rlloop.recipes.run_report import report_page
from rlloop.recipes.votes import is_votes, read_preferences
from rlloop.rewards.base import Clip
from rlloop.rewards.mini import mini_head
from tests.unit.run_directory import PROMPTS, make_run


def pairs_of(page: str) -> list[dict]:
    """The pairs that the page's script reads."""
    start = page.index('id="blind-data">') + len('id="blind-data">')
    return json.loads(page[start : page.index("</script>", start)])["pairs"]


def vote(pairs: list[dict], path: Path, winners: str = "aabt") -> Path:
    """Votes as the page stores them, one winner after another."""
    names = {"a": "model_a", "b": "model_b", "t": "tie"}
    rows = [{"winner": names[winners[n % len(winners)]], **pair["vote"]} for n, pair in enumerate(pairs)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "small")


@pytest.fixture
def votes(run, tmp_path):
    return vote(pairs_of(report_page([run])), tmp_path / "votes.jsonl")


def test_votes_become_pairs_with_the_features_of_their_clips(votes, run):
    pairs, blocks, not_blind = read_preferences(votes, None)
    assert not_blind == 0
    assert blocks == ["musicnn"] and pairs.features_a.shape == pairs.features_b.shape == (12, 200)
    assert pairs.target[:4].tolist() == [1.0, 1.0, 0.0, 0.5] and set(pairs.prompt) == set(PROMPTS)
    rows = [json.loads(line) for line in votes.read_text().splitlines()]
    same = [(n, m) for n, a in enumerate(rows) for m, b in enumerate(rows) if a["audio_a"] == b["audio_b"]]
    assert same and all(torch.equal(pairs.features_a[n], pairs.features_b[m]) for n, m in same)
    assert pairs.system_a == [row["system_a"] for row in rows] and set(pairs.source) == {"small"}


def test_votes_train_a_reward_that_a_run_can_name(votes, tmp_path):
    out = tmp_path / "taste"
    options = ["--hidden", "8", "--epochs", "3", "--batch", "4"]
    done = CliRunner().invoke(app, ["reward", "train", str(votes), "--out", str(out), *options])
    assert done.exit_code == 0, done.output
    assert json.loads((out / "metrics.json").read_text())["features"] == {"width": 200, "blocks": ["musicnn"]}
    tone = 0.3 * np.sin(np.arange(32_000) * 0.1).astype(np.float32)
    (score,) = mini_head(out / "head.safetensors").score([Clip(tone, 16_000, "")])
    assert np.isfinite(score.value)


def test_votes_after_a_reveal_are_left_out_and_counted(votes, tmp_path):
    rows = [json.loads(line) for line in votes.read_text().splitlines()]
    for place, row in enumerate(rows):
        row["revealed"] = place in (0, 5)
    rows[5]["sha256_a"] = "0" * 64  # not even heard
    votes.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs, _, not_blind = read_preferences(votes, None)
    assert not_blind == 2 and pairs.target.tolist() == [{"model_a": 1.0, "model_b": 0.0, "tie": 0.5}[row["winner"]]
                                                       for row in rows if not row["revealed"]]  # fmt: skip
    assert pairs.prompt == [row["prompt"] for row in rows if not row["revealed"]] and len(pairs) == 10
    options = ["--out", str(tmp_path / "taste"), "--hidden", "4", "--epochs", "2", "--batch", "4"]
    done = CliRunner().invoke(app, ["reward", "train", str(votes), *options])
    assert done.exit_code == 0 and "2 votes were given after what was what had been shown" in done.output, done.output
    rows[1]["sha256_a"] = "0" * 64
    votes.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="row 1 voted on another"):  # counted as in the file
        read_preferences(votes, None)
    votes.write_text("".join(json.dumps(row | {"revealed": True}) + "\n" for row in rows))
    with pytest.raises(ValueError, match="all 12 votes were given after"):
        read_preferences(votes, None)


def test_votes_follow_a_run_that_has_moved(votes, run, tmp_path):
    shutil.move(run, tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is missing; name the run's folder with --clips"):
        read_preferences(votes, None)
    assert len(read_preferences(votes, None, tmp_path / "elsewhere")[0]) == 12


def test_votes_on_two_runs_know_both(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)
    path = vote(pairs_of(report_page([a, b])), tmp_path / "votes.jsonl")
    assert len(read_preferences(path, None)[0]) == 4
    moved = tmp_path / "moved"
    moved.mkdir()
    for run in (a, b):
        shutil.move(run, moved)
    assert len(read_preferences(path, None, moved)[0]) == 4


def test_two_runs_of_one_name_are_not_mixed_up(tmp_path):
    a, b = make_run(tmp_path / "a" / "mini"), make_run(tmp_path / "b" / "mini", seed=1)
    path = vote(pairs_of(report_page([a, b])), tmp_path / "votes.jsonl")
    assert len(read_preferences(path, None)[0]) == 4
    with pytest.raises(ValueError, match=f"on {a} and {b}, which --clips {tmp_path} cannot tell apart"):
        read_preferences(path, None, tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256_a": "0" * 64}, "voted on another"),
        ({"audio_b": "audio/none.flac"}, "is missing"),
        ({"winner": "a"}, "expected one of model_a"),
        ({"run_a": ""}, "run_a of row 1 is empty"),
    ],
)
def test_votes_that_cannot_be_used_are_refused(votes, change, said):
    rows = [json.loads(line) for line in votes.read_text().splitlines()]
    rows[1] |= change
    votes.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=said):
        read_preferences(votes, None)


def test_what_is_no_vote_goes_the_other_way(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"winner": "tie", "features_a": [1.0], "features_b": [2.0]}\n')
    assert not is_votes(path) and read_preferences(path, None)[0].features_a.tolist() == [[1.0]]
    with pytest.raises(ValueError, match="--clips is for votes"):
        read_preferences(path, None, tmp_path)


def test_other_blocks_are_refused(votes):
    with pytest.raises(ValueError, match="expected musicnn alone, or some of clap, mert, text"):
        read_preferences(votes, ["musicnn", "clap"])
