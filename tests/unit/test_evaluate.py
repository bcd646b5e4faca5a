"""Evaluating folders of clips: what is paired, what is missing, what is refused; the sweep's command and its plot."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import soundfile
from rich.console import Console
from typer.testing import CliRunner

from rlloop.commands.main import app
from rlloop.commands.sweep_score import parse
from rlloop.evaluation.comparison import ClipSet, Yardstick, compare
from rlloop.evaluation.frechet import FrechetStatistics
from rlloop.recipes.clip_files import list_clips
from rlloop.recipes.clip_hearing import hear_clips
from rlloop.recipes.embedders import Embedder
from rlloop.views.evaluation import comparison_table, decomposition_table
from rlloop.views.svg import Line, Panel, figure, ticks

RATE = 16_000


def clip_set(name: str, rewards: dict[str, list], dim: int = 2, offset: float = 0.0) -> ClipSet:
    """Clips by prompt; embeddings are drawn around `offset`."""
    units = [prompt for prompt, values in rewards.items() for _ in values]
    scores = {"reward": [value for values in rewards.values() for value in values]}
    return ClipSet(name, units, scores, {"ear": np.random.default_rng(0).normal(offset, 1, (len(units), dim))})


def yardstick(embeddings: bool = False) -> Yardstick:
    drawn = np.random.default_rng(1).normal(size=(50, 2))
    return Yardstick("songs", FrechetStatistics.of(drawn), drawn if embeddings else None)


def test_a_set_alone_has_means_over_prompts_and_a_distance_with_its_n():
    report = compare(clip_set("a", {"x": [1.0, 3.0], "y": [5.0]}), None, {"ear": yardstick()})
    cell = report["scores"]["reward"]
    assert (cell["mean"], cell["num_prompts"], cell["gain"], cell["against"]) == (3.5, 2, None, None)
    far = report["distances"]["frechet_ear"]
    assert far["n"] == 3 and far["gain"] is None and far["reference"]["num_clips"] == 50
    json.dumps(report, allow_nan=False)


def test_two_sets_are_paired_over_the_prompts_that_both_have():
    after = clip_set("after", {"x": [2.0, 4.0], "y": [5.0], "only after": [100.0]})
    before = clip_set("before", {"y": [4.0], "x": [1.0], "only before": [-100.0], "z": [0.0]})
    report = compare(after, before, {})
    cell = report["scores"]["reward"]
    assert cell["gain"] == 1.5 and report["paired_prompts"] == 2  # x: 3 - 1, y: 5 - 4
    assert cell["mean"] == 36.0 and cell["against"] == pytest.approx(-95 / 4)
    assert report["notes"] == ["paired over the 2 prompts that both have; means are over all prompts of each"]


def test_nothing_in_common_is_said():
    report = compare(clip_set("a", {"x": [1.0], "y": [1.0]}), clip_set("b", {"u": [0.0], "y": [0.0]}), {})
    assert report["scores"]["reward"]["gain"] is None and "1 prompts in common" in report["notes"][0]


def test_missing_scores_are_counted_and_never_zero():
    cell = compare(clip_set("a", {"x": [None, 4.0], "y": [None]}), None, {})["scores"]["reward"]
    assert (cell["mean"], cell["num_prompts"], cell["num_missing"]) == (4.0, 1, 2)


def test_distances_of_other_sizes_have_a_gain_only_if_allowed():
    small, large = clip_set("a", {"x": [1.0] * 4}), clip_set("b", {"x": [1.0] * 6}, offset=1.0)
    refused = compare(small, large, {"ear": yardstick()})
    assert refused["distances"]["frechet_ear"]["gain"] is None and "sets of 6 and 4 clips" in refused["notes"][-1]
    allowed = compare(small, large, {"ear": yardstick()}, allow_other_n=True)
    cell = allowed["distances"]["frechet_ear"]
    assert cell["gain"] == pytest.approx(cell["value"] - cell["against"]) and "as allowed" in allowed["notes"][-1]


@pytest.mark.parametrize("dim", [0, 2])
def test_a_set_that_cannot_be_heard_has_no_distance(dim):
    deaf = ClipSet("a", ["x", "y"], {}, {"ear": np.full((2, dim), np.nan)})
    report = compare(deaf, None, {"ear": yardstick()})
    assert report["distances"] == {} and report["notes"] == ["a: 0 clips could be heard by ear; a distance needs two"]


class LevelScorer:
    """Scores a clip by its level."""

    names = ["level"]

    def score_clips(self, clips):
        return [{"level": float(np.abs(clip.audio).mean())} for clip in clips], [{} for _ in clips]


def folder_of(path, names=("a", "b", "c", "d"), seconds: float = 1.5):
    """Noise of growing level, one file a name."""
    path.mkdir()
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        wave = 0.05 * (number + 1) * rng.uniform(-1, 1, int(RATE * seconds))
        soundfile.write(path / f"{name}.wav", wave, RATE)
    return path


def test_each_clip_is_heard_once_and_a_broken_one_costs_itself_alone(tmp_path):
    folder = folder_of(tmp_path / "clips")
    (folder / "b.wav").write_bytes(b"RIFF")
    soundfile.write(folder / "c.wav", np.zeros(RATE * 2), RATE)
    heard, done = [], []
    ear = Embedder("ear", "levels", lambda clips: heard.extend(clips) or np.array([[c.audio.max()] for c in clips]))
    lines, embeddings = hear_clips(list_clips(folder), LevelScorer(), [ear], 3, lambda n, bad: done.append((n, bad)))
    assert [line.path for line in lines] == ["a.wav", "b.wav", "c.wav", "d.wav"] and len(heard) == 2
    assert [line.scores["level"] is None for line in lines] == [False, True, False, False]
    assert "not readable as audio" in lines[1].reasons["level"] and "silent" in lines[2].reasons["ear"]
    assert np.isnan(embeddings["ear"][:, 0]).tolist() == [False, True, True, False]
    assert done == [(3, 2), (1, 0)]
    _, deaf = hear_clips(list_clips(folder)[1:3], None, [ear], 3, lambda n, bad: None)
    assert deaf["ear"].shape == (2, 0)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_scores(path, scores: dict[str, float]):
    lines = [{"path": name, "prompt": "", "scores": {"level": value}, "reasons": {}} for name, value in scores.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_scores_of_another_command_are_taken_as_they_are(tmp_path):
    """Clips without a prompt are paired by file name; nothing is heard, so the files may be empty."""
    options = ["--reference", "none", "--out", tmp_path / "out"]
    for system, shift in (("after", 1.0), ("before", 0.0)):
        (tmp_path / system).mkdir()
        for name in ("a.wav", "b.wav", "c.wav"):
            (tmp_path / system / name).touch()
        write_scores(tmp_path / f"{system}.jsonl", {"a.wav": 0.1 + shift, "b.wav": 0.2 + shift, "c.wav": 0.6 + shift})
        options += [f"--{'' if system == 'after' else 'against-'}scores", tmp_path / f"{system}.jsonl"]
    done = invoke("evaluate", tmp_path / "after", "--against", tmp_path / "before", *options)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["scores"]["level"]["gain"] == pytest.approx(1.0) and report["paired_prompts"] == 3
    assert "level" in done.output and "+1.000" in done.output


def test_a_reference_folder_is_heard_once_and_found_again(tmp_path):
    clips, songs = folder_of(tmp_path / "clips"), folder_of(tmp_path / "songs", names=("p", "q", "r"))
    options = ["--rewards", "none", "--reference", songs, "--cache", tmp_path / "cache", "--out", tmp_path / "out"]
    for _ in range(2):
        done = invoke("evaluate", clips, *options)
        assert done.exit_code == 0, done.output
    (entry,) = (tmp_path / "cache").iterdir()
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["distances"]["frechet_musicnn"]["reference"]["num_clips"] == 3
    assert report["distances"]["frechet_musicnn"]["value"] > 0 and "frechet_musicnn" in done.output
    assert len((tmp_path / "out" / "scores.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clips", "--against", "fewer"], "has 4 clips and fewer has 2: distances depend on n"),
        (["clips", "--scores", "scores.jsonl", "--reference", "none"], "lacks 3 of 4 clips, b.wav first"),
        (["nowhere"], "no such file or folder"),
        (["clips", "--rewards", "none", "--reference", "fewer", "--embedding", "bat"], "embedding 'bat': expected one"),
        (
            ["clips", "--rewards", "none", "--cache", "c", "--reference", "short"],
            "short: 0 of 2 files could be heard",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "clips")
    folder_of(tmp_path / "fewer", names=("a", "b"))
    folder_of(tmp_path / "short", names=("a", "b"), seconds=0.2)
    write_scores(tmp_path / "scores.jsonl", {"a.wav": 0.1})
    done = invoke("evaluate", *arguments)
    assert done.exit_code == 2 and message in done.output and done.output.splitlines()[-1].startswith("rlloop: ")


def test_the_sweep_writes_figures_and_a_plot(tmp_path):
    done = invoke("sweep-score", "--config", "tests/fake.yaml", "--scores", "none,0,1,2", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert [row["s"] for row in found["points"]] == [None, 0.0, 1.0, 2.0]
    assert found["spearman"]["Loudness"]["num_prompts"] == found["points"][1]["scores"]["Loudness"]["num_prompts"] > 1
    ElementTree.parse(tmp_path / "sweep.svg")
    assert "Spearman" in done.output


def test_values_of_s():
    assert parse("none, 0,1.5") == [None, 0.0, 1.5]
    for text, message in (
        ("0,a", "'a' is no number"),
        ("nan", "'nan' is no score"),
        ("1,1", "2 values"),
        ("", "0 val"),
    ):
        with pytest.raises(ValueError, match=message):
            parse(text)


def test_points_lie_where_their_values_are():
    """Of equal steps in x and y the drawn steps are equal; a larger y lies higher, which is a smaller number."""
    line = Line("reward <1>", [2.0, 0.0, 1.0], [0.4, 0.0, 0.2], [0.3, -0.1, None], [0.5, 0.1, None])
    root = ElementTree.fromstring(figure([Panel("reward & judge", [line]), Panel("empty", [])], "s"))
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter("{http://www.w3.org/2000/svg}circle")]
    (x0, y0), (x1, y1), (x2, y2) = sorted(circles)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and y0 - y1 == pytest.approx(y1 - y2, abs=0.2) and y0 > y1
    assert "reward & judge" in "".join(root.itertext())
    assert len([e for e in root.iter() if e.get("stroke-width") == "1.5"]) == 2  # one interval is unknown


def test_a_missing_value_is_a_gap():
    line = Line("reward", [0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.0, None, 1.0, 2.0])
    root = ElementTree.fromstring(figure([Panel("reward", [line])], "s"))
    assert [len(p.get("points").split()) for p in root.iter("{http://www.w3.org/2000/svg}polyline")] == [2, 2]


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-7, 18, [-5, 0, 5, 10, 15]), (3, 3.9, 5)]
)
def test_ticks_are_round(low, high, expected):
    found = ticks(low, high)
    assert len(found) == expected if isinstance(expected, int) else found == expected


def test_tables_show_what_there_is():
    report = compare(clip_set("a", {"x": [1.0], "y": [None]}), clip_set("b", {"x": [0.0], "y": [1.0]}), {})
    rows = [
        {"stage": "baseline", "scores": {"reward": report["scores"]["reward"]}, "distances": {}},
        {"stage": "sft", "scores": {}, "distances": {"fad": {"value": 0.4, "n": 9, "gain": -0.1, "note": ""}}},
    ]
    console = Console(width=160, record=True, file=open("/dev/null", "w"))
    console.print(comparison_table(report))
    console.print(decomposition_table(rows))
    shown = console.export_text()
    assert "1 clips missing" in shown and "0.4 (n 9)" in shown and "-0.100" in shown and "baseline" in shown
