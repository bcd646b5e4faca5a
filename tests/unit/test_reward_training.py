"""Training a reward from pairs: the loss, the loop, splits, what is read and refused, and what a folder then holds."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from typer.testing import CliRunner

from rlloop.commands.main import app
from rlloop.data.pairs import Pairs, clip_groups, read_pairs, split_by_prompt, with_splits
from rlloop.recipes.head_training import Schedule, fit, kept_epoch, preference_loss, ridge_loss
from rlloop.recipes.mini_heads import fit_ridge
from rlloop.recipes.reward_training import RewardTraining, Trained, train_reward
from rlloop.rewards.tunejury import TuneJuryHead, load_head

WIDTH = 6
FAST = RewardTraining(hidden=(16,), learning_rate=3e-3, schedule=Schedule(max_epochs=60, patience=15))


def columns(num_pairs: int = 300, seed: int = 0) -> dict[str, list]:
    """Pairs whose winner follows a line through feature space, with noise and ties; three pairs a prompt."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, num_pairs, WIDTH)).astype(np.float32)
    margin = 2 * (a - b) @ np.array([1.0, -1, 0.5, 0, 0, 0]) + rng.logistic(size=num_pairs)
    winner = np.where(np.abs(margin) < 0.3, "tie", np.where(margin > 0, "model_a", "model_b"))
    return {
        "features_a": list(a),
        "features_b": list(b),
        "winner": winner.tolist(),
        "prompt": [f"prompt {n // 3}" for n in range(num_pairs)],
        "source": [("MA", "SE")[n % 2] for n in range(num_pairs)],
        "system_a": ["one"] * num_pairs,
        "system_b": ["two"] * num_pairs,
    }


@pytest.fixture
def pairs_file(tmp_path):
    pq.write_table(pa.table(columns()), tmp_path / "pairs.parquet")
    return tmp_path / "pairs.parquet"


# The loss and the loop


def test_the_preference_loss_is_soft_cross_entropy_with_two_passes():
    torch.manual_seed(0)
    a, b, target = torch.randn(4, WIDTH), 3 + torch.randn(4, WIDTH), torch.tensor([1.0, 0, 0.5, 1])
    head = TuneJuryHead((WIDTH, 5, 1))
    head.net[3].p = 0.0
    rows = torch.tensor([0, 1, 2])
    found = preference_loss(a, b, target)(head.train(), rows)

    def alone(x: torch.Tensor) -> torch.Tensor:  # each side is normalised by its own mean and variance
        hidden = head.net[0](x)
        hidden = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt()
        return head.net[4](F.relu(hidden))[:, 0]

    p = torch.sigmoid(alone(a[rows]) - alone(b[rows]))
    y = target[rows]
    assert found.item() == pytest.approx(-(y * p.log() + (1 - y) * (1 - p).log()).mean().item(), abs=5e-5)
    assert preference_loss(a, a, target)(head.eval(), rows).item() == pytest.approx(np.log(2))


def test_the_loop_keeps_the_best_weights_and_stops():
    """Training pulls the weight up without end; validation likes it best at 1."""
    head = TuneJuryHead((1, 1))
    torch.nn.init.zeros_(head.net[0].weight)
    weight = head.net[0].weight

    def loss(head, rows):
        return (-weight if head.training else (weight - 1) ** 2).sum()

    optimizer = torch.optim.SGD([weight], lr=0.25)
    seen = []
    schedule = Schedule(batch_size=2, max_epochs=100, patience=3, min_delta=0.0)
    epochs = fit(head, loss, torch.arange(2), torch.arange(1), optimizer, schedule, on_epoch=seen.append)
    assert [epoch.val_loss for epoch in epochs] == pytest.approx([0.5625, 0.25, 0.0625, 0.0, 0.0625, 0.25, 0.5625])
    assert seen == epochs and weight.item() == 1.0 and not head.training


def test_the_epoch_that_is_reported_is_that_of_the_weights():
    """Losses 0.5625, 0.25, 0.0625 and 0: below the second the third is by less than min_delta, the fourth by more."""
    head = TuneJuryHead((1, 1))
    torch.nn.init.zeros_(head.net[0].weight)
    weight = head.net[0].weight

    def loss(head, rows):
        return (-weight if head.training else (weight - 1) ** 2).sum()

    optimizer = torch.optim.SGD([weight], lr=0.25)
    schedule = Schedule(batch_size=2, max_epochs=4, patience=9, min_delta=0.2)
    epochs = fit(head, loss, torch.arange(2), torch.arange(1), optimizer, schedule)
    assert [epoch.val_loss for epoch in epochs] == pytest.approx([0.5625, 0.25, 0.0625, 0.0])
    assert [epoch.is_better for epoch in epochs] == [True, True, False, True]
    assert kept_epoch(epochs) is epochs[3] and weight.item() == 1.0
    trained = Trained(0, head, epochs[:3], np.zeros(1), np.zeros(1))
    assert trained.best.number == 1  # the third has the lower loss, but not by min_delta


def test_small_gains_do_not_count_and_a_loss_that_is_not_finite_ends_it():
    head = TuneJuryHead((1, 1))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.0)
    schedule = Schedule(max_epochs=100, patience=5, min_delta=10.0)
    rows = torch.arange(4)
    losses = iter(range(1000, 0, -1))
    epochs = fit(
        head, lambda head, _: head.net[0].bias.sum() * 0 + next(losses), rows, rows, optimizer, schedule
    )  # falls by 2 an epoch: less than min_delta, but 10 in five
    assert len(epochs) == 6
    with pytest.raises(ValueError, match="loss nan in training"):
        fit(head, lambda head, _: head.net[0].bias.sum() * torch.nan, rows, rows, optimizer, schedule)


def test_the_ridge_is_the_closed_form():
    rng = np.random.default_rng(0)
    z, labels = rng.normal(size=(60, 8)), rng.normal(size=60)
    z -= z.mean(0)
    weight, bias = fit_ridge(z, labels, 0.3)
    expected = np.linalg.solve(z.T @ z / 60 + 0.3 * np.eye(8), z.T @ (labels - labels.mean()) / 60)
    assert weight == pytest.approx(expected, abs=1e-8) and bias == pytest.approx(labels.mean(), abs=1e-8)
    head = TuneJuryHead((8, 1)).double()
    head.load_state_dict({"net.0.weight": torch.tensor(expected)[None], "net.0.bias": torch.tensor([labels.mean()])})
    best = ridge_loss(torch.tensor(z), torch.tensor(labels), 0.3)(head, torch.arange(60)).item()
    error = z @ expected + labels.mean() - labels
    assert best == pytest.approx((np.mean(error**2) + 0.3 * expected @ expected) / 2)


# Splits


def test_a_prompt_falls_on_one_side():
    prompts = [f"prompt {n // 4}" for n in range(200)] + [""] * 100
    split = split_by_prompt(prompts, seed=1)
    assert split_by_prompt(prompts, seed=1) == split != split_by_prompt(prompts, seed=2)
    assert 30 <= split.count("val") <= 33 and 30 <= split.count("test") <= 33
    for number in range(50):
        assert len(set(split[4 * number : 4 * number + 4])) == 1
    assert len(set(split[200:])) == 3  # without a prompt each pair goes its own way


# Reading


def test_features_may_come_whole_or_in_blocks(tmp_path):
    rng = np.random.default_rng(0)
    blocks = {name: rng.normal(size=(5, width)) for name, width in
              [("clap_a", 3), ("clap_b", 3), ("mert_a", 2), ("mert_b", 2), ("text_emb", 1)]}  # fmt: skip
    table = {name: list(values) for name, values in blocks.items()} | {
        "winner": ["tie", "model_a", "model_b"] + ["tie"] * 2
    }
    pq.write_table(pa.table(table), tmp_path / "blocks.parquet")
    found = read_pairs(tmp_path / "blocks.parquet")
    expected = np.concatenate([blocks["clap_a"], blocks["mert_a"], blocks["text_emb"]], axis=1)
    assert np.allclose(found.features_a, expected) and np.allclose(found.features_b[:, 5], expected[:, 5])
    assert found.target.tolist() == [0.5, 1, 0, 0.5, 0.5] and found.prompt == [""] * 5
    assert read_pairs(tmp_path / "blocks.parquet", ["text", "clap"]).features_b.shape == (5, 4)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(10.0)), 2)
    pq.write_table(pa.table({"features_a": fixed, "features_b": fixed, "winner": ["tie"] * 5}), tmp_path / "f.parquet")
    assert read_pairs(tmp_path / "f.parquet").features_a[4].tolist() == [8, 9]


def test_the_published_feature_files_are_read(tmp_path):
    for number, split in enumerate(["train", "train", "val", "test"]):
        (tmp_path / split).mkdir(exist_ok=True)
        file = {
            "uuid": f"u{number}",
            "prompt": "calm piano",
            "text_emb": torch.full((2,), number + 0.5),
            "clap_a": torch.full((1, 3), float(number)),
            "clap_b": torch.ones(3),
            "mert_a": torch.zeros(4, dtype=torch.float16),
            "mert_b": torch.ones(4),
            "flag": 1.0,
            "winner": "model_b",
            "source": "MusicArena",
        }
        torch.save(file, tmp_path / split / f"u{number}.pt")
    found = read_pairs(tmp_path)
    assert found.features_a.shape == (4, 9) and found.split == ["test", "train", "train", "val"]
    assert found.features_a[0].tolist() == [3, 3, 3, 0, 0, 0, 0, 3.5, 3.5]
    assert found.source == ["MusicArena"] * 4 and found.target.tolist() == [0] * 4
    torch.save(file | {"mert_a": torch.zeros(5)}, tmp_path / "val" / "v.pt")
    with pytest.raises(ValueError, match="v.pt: 10 features, expected 9 as in u3.pt"):
        read_pairs(tmp_path)
    torch.save({"winner": "tie"}, tmp_path / "val" / "v.pt")
    with pytest.raises(ValueError, match="v.pt has no clap_a"):
        read_pairs(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"winner": ["A"] * 300}, "winner of row 0 is 'A'"),
        ({"features_b": [[1.0]] * 300}, "features of a are 6 wide, those of b 1"),
        ({"features_a": [[1.0], [1.0, 2.0]] * 150}, "features_a is list<.*, all of one length"),
        ({"features_a": ["x"] * 300}, "features_a is string"),
        ({"features_a": [[np.nan] * 6] * 300}, "features_a of row 0 holds values that are not finite"),
        ({"split": ["train"] * 299 + ["dev"]}, "split of row 299 is 'dev', expected train, val, test"),
        ({"split": ["train"] * 300}, "train 300, val 0, test 0 pairs"),
    ],
)
def test_pairs_that_cannot_be_trained_on_are_refused(tmp_path, change, message):
    pq.write_table(pa.table(columns() | change), tmp_path / "pairs.parquet")
    with pytest.raises(ValueError, match=message):
        train_reward(tmp_path / "pairs.parquet", tmp_path / "out", FAST)
    assert not (tmp_path / "out").exists()


def test_blocks_of_a_file_in_one_piece_are_refused(pairs_file):
    with pytest.raises(ValueError, match="in one piece"):
        read_pairs(pairs_file, ["clap"])
    with pytest.raises(ValueError, match="features muq: expected some of clap, mert, text"):
        read_pairs(pairs_file, ["muq"])


# A whole training


def test_a_training_learns_and_says_what_it_learned(pairs_file, tmp_path):
    settings = RewardTraining(**{**vars(FAST), "seeds": (1, 2)})
    metrics = train_reward(pairs_file, tmp_path / "out", settings)
    out = tmp_path / "out"
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    for one in metrics["seeds"]:
        assert one["accuracy"] > 0.75 and one["accuracy_95"][0] < one["accuracy"] < one["accuracy_95"][1] + 1e-9
        assert set(one["accuracy_by_source"]) == {"MA", "SE"}
    kept = min(metrics["seeds"], key=lambda one: one["val_loss"])["seed"]
    assert metrics["chosen_seed"] == kept
    assert (out / "seeds" / f"{kept}.safetensors").read_bytes() == (out / "head.safetensors").read_bytes()
    assert metrics["pairs"]["test_prompts_seen_in_training"] == 0
    assert sum(metrics["pairs"][name] for name in ("train", "val", "test")) == 300

    curve = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    assert len(curve) == sum(one["epochs"] for one in metrics["seeds"])
    assert curve[0].keys() == {"seed", "epoch", "train_loss", "val_loss"}
    assert list((out / "tensorboard" / "seed_1").glob("events*"))
    heldout = [json.loads(line) for line in (out / "heldout.jsonl").read_text().splitlines()]
    assert len(heldout) == metrics["pairs"]["test"]
    decided = [row for row in heldout if row["winner"] != "tie"]
    right = [(row["reward_a"] > row["reward_b"]) == (row["winner"] == "model_a") for row in decided]
    one = next(one for one in metrics["seeds"] if one["seed"] == kept)
    assert np.mean(right) == pytest.approx(one["accuracy"])
    assert f"{one['accuracy']:.4f}" in (out / "MODEL_CARD.md").read_text()

    head = load_head(out / "head.safetensors")
    pairs = read_pairs(pairs_file)
    row = pairs.prompt.index(heldout[0]["prompt"])
    assert head(pairs.features_a[row : row + 3])[:1].item() in [pytest.approx(r["reward_a"], abs=1e-5) for r in heldout]
    with pytest.raises(ValueError, match="holds a head already"):
        train_reward(pairs_file, out, settings)


def test_equal_seeds_give_equal_weights(pairs_file, tmp_path):
    short = RewardTraining(**{**vars(FAST), "schedule": Schedule(max_epochs=3)})
    torch.manual_seed(1)
    train_reward(pairs_file, tmp_path / "a", short)
    torch.manual_seed(2)  # the caller's generator has no say
    before = torch.get_rng_state()
    train_reward(pairs_file, tmp_path / "b", short)
    assert torch.equal(torch.get_rng_state(), before)
    a, b = (load_file(tmp_path / name / "head.safetensors") for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)
    train_reward(pairs_file, tmp_path / "c", RewardTraining(**{**vars(short), "seeds": (7,)}))
    assert not torch.equal(load_file(tmp_path / "c" / "head.safetensors")["net.0.weight"], a["net.0.weight"])


def test_a_split_of_the_file_is_kept_and_its_leak_is_said(tmp_path):
    split = ["train"] * 200 + ["val"] * 50 + ["test"] * 50
    pq.write_table(pa.table(columns() | {"split": split, "prompt": ["one and the same"] * 300}), tmp_path / "p.parquet")
    metrics = train_reward(tmp_path / "p.parquet", tmp_path / "out", FAST)
    assert metrics["pairs"]["split"] == "that of the file" and metrics["pairs"]["test"] == 50
    assert metrics["pairs"]["test_prompts_seen_in_training"] == 1
    assert "1 prompts of held-out pairs also occur in training" in (tmp_path / "out" / "MODEL_CARD.md").read_text()


def test_the_last_batch_of_one_row_is_left_out():
    pairs = read_like(33)
    head = TuneJuryHead((WIDTH, 4, 1))
    sizes = []
    inner = preference_loss(pairs.features_a, pairs.features_b, pairs.target)

    def loss(head, rows):
        sizes.append(len(rows))
        return inner(head, rows)

    rows = torch.arange(33)
    optimizer = torch.optim.AdamW(head.parameters())
    fit(head, loss, rows, rows, optimizer, Schedule(batch_size=16, max_epochs=1))
    assert sizes == [16, 16, 33]


def read_like(num_pairs: int) -> Pairs:
    made = columns(num_pairs)
    a, b = (torch.tensor(np.stack(made[name])) for name in ("features_a", "features_b"))
    texts = {name: [""] * num_pairs for name in ("prompt", "source", "system_a", "system_b", "split")}
    return Pairs(a, b, torch.full((num_pairs,), 0.5), **texts)


def test_the_command_trains_and_calibrates(pairs_file, tmp_path):
    out = str(tmp_path / "out")
    options = ["--out", out, "--hidden", "8", "--lr", "3e-3", "--epochs", "20", "--seeds", "1,2"]
    result = CliRunner().invoke(app, ["reward", "train", str(pairs_file), *options])
    assert result.exit_code == 0, result.output
    assert "(kept)" in result.output and (tmp_path / "out" / "head.safetensors").is_file()
    heldout = str(tmp_path / "out" / "heldout.jsonl")
    result = CliRunner().invoke(app, ["reward", "calibrate", heldout, "--out", str(tmp_path / "offsets.json")])
    assert result.exit_code == 0, result.output
    assert set(json.loads((tmp_path / "offsets.json").read_text())["offsets"]) == {"one", "two"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hidden", "8,x"], "--hidden '8,x'"),
        (["--seeds", ""], "--seeds ''"),
        (["--device", "nowhere"], "device 'nowhere'"),
    ],
)
def test_the_command_refuses_in_one_line(pairs_file, tmp_path, options, message):
    result = CliRunner().invoke(app, ["reward", "train", str(pairs_file), "--out", str(tmp_path / "out"), *options])
    assert result.exit_code == 2 and message in result.output and result.output.count("\n") == 1


def test_pairs_without_prompts_are_kept_together_by_their_clips():
    clips = torch.arange(12.0)[:, None]
    chain = Pairs(clips[[0, 1, 4, 6]], clips[[1, 2, 5, 7]], torch.ones(4), *[[""] * 4 for _ in range(5)])
    assert clip_groups(chain) == [0, 0, 1, 2]  # 0-1 and 1-2 share clip 1
    split = with_splits(chain, seed=0).split
    assert split[0] == split[1]
    ring = Pairs(clips[[0, 1, 2]], clips[[1, 2, 0]], torch.ones(3), *[[""] * 3 for _ in range(5)])
    with pytest.raises(ValueError, match="3 of 3 pairs have no prompt and share clips"):
        with_splits(ring, seed=0)
