"""The stage table of a run from its evaluations: rows, what is left out, and the views and files that hold it."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rlloop.commands.main import app
from rlloop.config import Config, build
from rlloop.evaluation.decomposition import over_runs
from rlloop.loop.snapshot import EvaluationResult
from rlloop.recipes.decomposition_report import report
from rlloop.recipes.evaluations import stored_results, write_result
from rlloop.views.contributions import PUBLISHED, contribution_lines, order_of_contributions
from rlloop.views.decomposition import markdown, over_runs_grid, run_grid, tables
from rlloop.views.run_decomposition import run_decomposition
from rlloop.views.summary import build_summary, print_summary
from rlloop.views.tensorboard import RunWriter
from tests.unit.snapshots import REWARD, snapshot
from tests.unit.test_tensorboard import read_points

FIVE = ("sft", "expert_iteration", "polish", "cross_load", "crpo")
PROMPTS, SEEDS = ["slow piano", "fast drums", "a choir", "rain"], [[1, 2], [3, 4], [5, 6], [7, 8]]


def config(*names: str, **more) -> Config:
    """Stages of two generations each: they end at versions 2, 4, ..."""
    return build({"stages": [{"name": name, "generations": 2} for name in names], **more})


def far(value: float, n: int | None = 8) -> dict:
    return {"frechet_mini": {"value": value, "n": n, "reference": "abc", "reference_n": 180}}


def result(version: int, reward: float, distance: dict | None = None, slope: float = 0.0) -> EvaluationResult:
    """Prompt p has the mean reward + slope * p over its two seeds."""
    scores = {REWARD: [[reward + slope * p - 0.1, reward + slope * p + 0.1] for p in range(4)]}
    return EvaluationResult(version, "any", PROMPTS, SEEDS, scores, [], 1.0, 100.0 + version, distance or far(9.0))


def gains(rows: list, name: str = REWARD) -> list:
    return [({**row["scores"], **row["distances"]})[name]["gain"] for row in rows]


def test_one_stage_has_two_rows_and_the_last_version_counts():
    found = run_decomposition(config("a"), [result(1, 9.0), result(0, 0.5), result(2, 1.5, far(7.5), slope=1.0)])
    assert [(row["stage"], row["version"], row["over"]) for row in found.rows] == [
        ("baseline", 0, None),
        ("a", 2, "baseline"),
    ]
    cell = found.rows[1]["scores"][REWARD]
    # Gains 1, 2, 3, 4 by prompt: mean 2.5, t = 2.5 / (sqrt(5/3) / 2) with 3 degrees of freedom.
    u = 2.5 / (math.sqrt(5 / 3) / 2) / math.sqrt(3)
    assert cell["gain"] == pytest.approx(2.5) and cell["num_prompts"] == 4
    assert cell["p"] == pytest.approx(1 - 2 / math.pi * (math.atan(u) + u / (1 + u * u)))
    assert found.rows[1]["distances"]["frechet_mini"]["gain"] == -1.5 and found.notes == []


def test_five_stages_are_each_over_the_one_before():
    values = [0.0, 1.0, 3.0, 3.5, 3.25, 3.0]
    found = run_decomposition(config(*FIVE), [result(2 * n, value) for n, value in enumerate(values)])
    assert [row["stage"] for row in found.rows] == ["baseline", *FIVE]
    assert [row["over"] for row in found.rows] == [None, "baseline", *FIVE[:-1]]
    assert gains(found.rows)[0] is None and gains(found.rows)[1:] == pytest.approx([1.0, 2.0, 0.5, -0.25, -0.25])
    json.dumps(found.rows, allow_nan=False)


def test_a_stage_without_evaluation_is_left_out_with_a_note():
    found = run_decomposition(config("a", "b", "c"), [result(0, 0.0), result(3, 5.0), result(4, 2.0)])
    assert [row["stage"] for row in found.rows] == ["baseline", "b"] and gains(found.rows)[1] == pytest.approx(2.0)
    assert found.notes == [
        "a is left out: version 2 was not evaluated",
        "b: its gains are over baseline",
        "c is left out: version 6 was not evaluated",
    ]


def test_without_a_baseline_the_first_stage_has_no_gain():
    found = run_decomposition(config("a", "b"), [result(2, 1.0), result(4, 2.0)])
    assert gains(found.rows) == [None, pytest.approx(1.0)] and "a: its gains are missing" in found.notes[1]
    assert run_decomposition(config("a"), []).rows == []


def test_other_seeds_are_left_out_with_a_note():
    other = replace(result(2, 1.0), seeds=[[1, 2], [3, 4], [5, 6], [7, 9]])
    found = run_decomposition(config("a", "b"), [result(0, 0.0), other, result(4, 2.0)])
    assert [row["stage"] for row in found.rows] == ["baseline", "b"]
    assert found.notes[0] == "a is left out: version 2 was evaluated on other prompts or seeds than version 0"


def test_nan_is_missing_and_never_in_the_file():
    broken = result(2, 1.0, far(math.nan))
    broken.scores[REWARD][0] = [math.nan, None]
    found = run_decomposition(config("a"), [result(0, 0.0), broken])
    cell = found.rows[1]["scores"][REWARD]
    assert (cell["gain"], cell["num_prompts"], cell["num_missing"]) == (pytest.approx(1.0), 3, 2)
    assert found.rows[1]["distances"]["frechet_mini"] == {"value": None, "n": 8, "gain": None, "note": ""}
    json.dumps(found.rows, allow_nan=False)


@pytest.mark.parametrize("older", [0, 2])
def test_a_result_of_the_old_form_is_read_but_not_compared(tmp_path, older):
    for version in (0, 2):
        write_result(tmp_path, result(version, 1.0))
    path = tmp_path / "evaluations" / f"version{older:06d}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "distances": {"frechet_mini": 9.0}}))
    read = {one.version: one for one in stored_results(tmp_path)}
    assert read[older].distances["frechet_mini"] == {"value": 9.0, "n": None, "reference": None, "reference_n": None}
    assert read[2 - older].distances == far(9.0)
    found = run_decomposition(config("a"), list(read.values()))
    cell = found.rows[1]["distances"]["frechet_mini"]
    assert cell["gain"] is None and "did not keep the number of its clips" in found.notes[0]
    summary = build_summary(config("a"), snapshot("runs/x", evaluations=tuple(read.values())))
    assert summary["evaluations"][0]["distances"] == {"frechet_mini": {"value": 9.0, "n": None if older == 0 else 8}}


def shown(grid, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    for table in tables(grid, width):
        console.print(table)
    return console.export_text()


def test_tables_keep_every_figure_whole_on_eighty_columns():
    results = [result(2 * n, value, slope=0.1 * n) for n, value in enumerate([0.0, 1.0, 3.0, 3.5, 3.25, 3.0])]
    many = [replace(one, scores={f"a_longer_score_{n}": one.scores[REWARD] for n in range(5)}) for one in results]
    grid = run_grid(run_decomposition(config(*FIVE), many).rows)
    for width, num_tables in ((80, 2), (160, 1)):
        lines = shown(grid, width).splitlines()
        assert max(map(len, lines)) <= width and len(tables(grid, width)) == num_tables
        for _, cells in grid.rows:
            for wanted in (line for cell in cells.values() for line in cell):
                assert any(wanted in line for line in lines), wanted
        assert sum(line.startswith("expert_iteration") for line in lines) == num_tables


def test_markdown_has_one_line_a_stage():
    rows = run_decomposition(config("a"), [result(0, 0.5), result(2, 1.5, far(7.5))]).rows
    assert markdown(run_grid(rows)).splitlines() == [
        f"| stage | {REWARD} | frechet_mini ↓ |",
        "| --- | --- | --- |",
        "| baseline | +0.500 | 9 (n 8) |",
        "| a | +1.500, Δ +1.000 p 0, [+1.000, +1.000] | 7.5 (n 8), Δ -1.500 |",
    ]


def test_summary_and_terminal_have_the_table():
    results = (result(0, 0.0), result(2, 1.0), result(4, 3.0))
    summary = build_summary(config("sft", "crpo"), snapshot("runs/x", version=4, evaluations=results))
    assert gains(summary["decomposition"])[1:] == pytest.approx([1.0, 2.0]) and summary["decomposition_notes"] == []
    out = io.StringIO()
    print_summary(summary, Console(file=out, width=80))
    assert "Δ +2.000" in out.getvalue() and "they say nothing of another seed" in " ".join(out.getvalue().split())
    one = build_summary(config("a"), snapshot("runs/x", evaluations=results[:2]))
    assert len(one["decomposition"]) == 2
    out = io.StringIO()
    print_summary(one, Console(file=out, width=80))
    assert "Δ" not in out.getvalue()  # before and after say it


def test_tensorboard_has_each_stage_once_in_order(tmp_path):
    settings = config("sft", "crpo")
    first, second, last = result(0, 0.0), result(2, 1.0), result(4, 3.0)
    for evaluations in ((first,), (first, last), (first, result(1, 0.5), second, last)):
        for _ in range(2):
            writer = RunWriter(tmp_path, settings)
            writer.write(snapshot(str(tmp_path), evaluations=evaluations))
            writer.close()
    points = read_points(tmp_path)
    steps = {tag: sorted(step for name, step in points if name == tag) for tag, _ in points}
    assert steps["decomposition"] == steps[f"decomposition/{REWARD}"] == [0, 1, 2]
    assert steps["decomposition_gain/frechet_mini"] == [1, 2] and max(points.values()) == 1


def test_contributions_are_ordered_by_gain_and_distances_downwards():
    settings = config("sft", "expert_iteration", "crpo")
    ends = [(0.0, 9.0), (1.0, 8.0), (3.0, 8.5), (2.5, 5.0)]
    rows = run_decomposition(settings, [result(2 * n, *(r, far(d))) for n, (r, d) in enumerate(ends)]).rows
    order = order_of_contributions(rows)
    assert [one["stage"] for one in order[REWARD]] == ["expert_iteration", "sft", "crpo"]
    assert [one["stage"] for one in order["frechet_mini"]] == ["crpo", "sft", "expert_iteration"]
    lines = contribution_lines(order)
    assert f"- {REWARD}: expert_iteration +2.000 (p 0), sft +1.000 (p 0), crpo -0.500 (p 0)" in lines
    assert lines[-len(PUBLISHED) :] == [f"- {fact}" for fact in PUBLISHED]
    both = order_of_contributions(over_runs([rows, rows]), ["frechet_mini"])
    assert {name: [one["stage"] for one in of] for name, of in both.items()} == {
        name: [one["stage"] for one in of] for name, of in order.items()
    }


def test_a_gain_that_a_run_lacks_is_said():
    whole = run_decomposition(config("a"), [result(0, 0.0), result(2, 1.0)]).rows
    lacking = run_decomposition(config("a"), [result(0, 0.0), result(2, 2.0, far(9.0, n=7))]).rows
    grid = over_runs_grid(over_runs([whole, lacking]), ["frechet_mini"], 2)
    (stage, cells) = grid.rows[0]
    assert (
        stage == "a"
        and cells[REWARD][0].startswith("Δ +1.500")
        and cells["frechet_mini ↓"] == ["Δ +0.000", "of 1 runs"]
    )


def store(folder, settings: Config, *results: EvaluationResult) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(settings.model_dump_json())
    for one in results:
        write_result(folder, one)
    return str(folder)


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["decomposition", *arguments])


def test_the_command_takes_one_run(tmp_path):
    one = store(tmp_path / "one", config("a", "b"), result(0, 0.0), result(2, 1.0))
    done = invoke(one, "--out", str(tmp_path / "found.json"))
    assert done.exit_code == 0 and "Δ +1.000" in done.output and "b is left out" in done.output
    data = json.loads((tmp_path / "found.json").read_text())
    assert data["over_runs"] is None and gains(data["runs"][0]["decomposition"]) == [None, 1.0]
    assert data["order_of_contributions"][REWARD][0]["stage"] == "a"
    text = invoke(one, "--markdown").output
    assert text.startswith("| stage |") and "Published (arXiv:2606.21670" in text and "within this one run" in text


def test_the_command_takes_the_mean_over_runs(tmp_path):
    runs = [
        store(tmp_path / f"seed{n}", config("a", seed=n), result(0, 0.0), result(2, gain))
        for n, gain in enumerate((1.0, 2.0, 3.0))
    ]
    done = invoke(*runs, "--out", str(tmp_path / "found.json"))
    cell = json.loads((tmp_path / "found.json").read_text())["over_runs"][1]["gains"][REWARD]
    t = 2 * math.sqrt(3)  # with 2 degrees of freedom p = 1 - t / sqrt(2 + t^2)
    assert cell["mean"] == pytest.approx(2.0) and cell["p"] == pytest.approx(1 - t / math.sqrt(2 + t * t))
    half = 4.302652729911275 / math.sqrt(3)
    assert (cell["ci_low"], cell["ci_high"]) == (pytest.approx(2 - half), pytest.approx(2 + half))
    assert "mean over 3 runs" in done.output and "not independent" not in done.output


def keep_corpus(folder: str, identity: str, rows: int) -> None:
    (Path(folder) / "corpus.json").write_text(json.dumps({"path": "anywhere", "identity": identity, "rows": rows}))


@pytest.mark.parametrize(
    ("more", "corpora", "said"),
    [
        ({"seed": 0}, [], "seed 0 is that of"),
        ({"seed": 1, "sampler": {"clips_per_prompt": 5}}, [], "configured otherwise than"),
        ({"seed": 1}, [("aa", 9), ("bb", 9)], "trained on another corpus than"),
        ({"seed": 1}, [("aa", 9), ("aa", 8)], "(8 rows)"),
        ({"seed": 1}, [("aa", 9), ("aa", 9)], None),
        ({"seed": 1}, [("aa", 9)], None),
    ],
)
def test_unlike_runs_have_a_mean_without_p_and_interval(tmp_path, more, corpora, said):
    one = store(tmp_path / "one", config("a"), result(0, 0.0), result(2, 1.0))
    two = store(tmp_path / "two", config("a", **more), result(0, 0.0), result(2, 2.0))
    for folder, kept in zip((one, two), corpora, strict=False):
        keep_corpus(folder, *kept)
    found = report([Path(one), Path(two)])
    cell = found.data["over_runs"][1]["gains"][REWARD]
    assert cell["mean"] == pytest.approx(1.5) and cell["num_runs"] == 2
    if said is None:
        assert cell["p"] is not None and cell["ci_low"] is not None and "t-test over runs" in found.notes[0]
        return
    assert (cell["p"], cell["ci_low"], cell["ci_high"]) == (None, None, None)
    assert found.data["order_of_contributions"][REWARD][0]["p"] is None
    assert "without p and interval" in found.notes[0] and any(said in note for note in found.notes[1:])


def on_other_seeds(one: EvaluationResult) -> EvaluationResult:
    return replace(one, seeds=[[a + 10, b + 10] for a, b in SEEDS])


def test_mistakes_are_one_line(tmp_path):
    one = store(tmp_path / "one", config("a"), result(0, 0.0), result(2, 1.0))
    two = store(tmp_path / "two", config("a", "b"), result(0, 0.0), result(2, 1.0), result(4, 1.0))
    bare, empty = store(tmp_path / "bare", config("a"), result(0, 0.0)), store(tmp_path / "empty", config("a"))
    damaged = store(tmp_path / "damaged", config("a"), result(0, 0.0))
    (tmp_path / "damaged" / "evaluations" / "version000002.json").write_text("{")
    elsewhere = store(
        tmp_path / "elsewhere", config("a", seed=1), *map(on_other_seeds, (result(0, 0.0), result(2, 1.0)))
    )
    torn = store(tmp_path / "torn", config("a", seed=1), result(0, 0.0), result(2, 1.0))
    (tmp_path / "torn" / "corpus.json").write_text('{"identity": "aa"}')
    unknown = store(tmp_path / "unknown", config("a"), result(0, 0.0))
    (tmp_path / "unknown" / "config.json").write_text('{"sede": 1}')
    for arguments, message in (
        ([str(tmp_path)], "holds no run: "),
        ([empty], "neither version 0 nor the end of a stage was evaluated"),
        ([damaged], "holds a damaged result"),
        ([unknown], "did you mean 'seed'"),
        ([one, one], "is given twice"),
        ([bare, one], "evaluated at baseline alone"),
        ([one, elsewhere], "other held-out prompts or seeds (4 and 4 prompts)"),
        ([torn], "corpus.json is damaged"),
        ([one, two], "has the stages baseline, a and"),
        ([one, "--out", str(tmp_path / "no" / "a.json")], "there is no folder"),
    ):
        done = invoke(*arguments)
        assert done.exit_code == 2 and message in done.output, (arguments, done.output)
        assert done.output.startswith("rlloop: ") and done.output.count("\n") == 1
