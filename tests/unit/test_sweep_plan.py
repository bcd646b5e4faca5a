"""A sweep's plan: settings times seeds, folders that last, and refusals before anything starts."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from rlloop.commands.main import app
from rlloop.config import load
from rlloop.recipes.sweep_outcome import ended_outcome, last_line, stored_outcome
from rlloop.recipes.sweep_plan import Axis, folder_name, parse_axis, parse_seeds, plan_trials, settings, to_text

RATE = "stages.0.phases.0.learning_rate"


def test_an_axis_is_a_key_and_a_yaml_list_and_3e_5_is_a_number():
    assert parse_axis(f"{RATE}=[3e-5,1e-4, 2]") == Axis(RATE, (3e-5, 1e-4, 2))
    assert parse_axis("a=[1.5e4, -.5E3, 2.e3, 1.5e+4x, e4]").values == (15000.0, -500.0, 2000.0, "1.5e+4x", "e4")
    assert parse_axis("generator.options=[{variant: v1}, {}]").values == ({"variant": "v1"}, {})


@pytest.mark.parametrize("text", ["a.b", "a.b=3", "a.b=[]", "=[1]", "a.b=[1"])
def test_what_is_no_axis_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"expected KEY=\[VALUE,VALUE\]"):
        parse_axis(text)


def test_a_value_twice_is_refused_also_in_another_spelling():
    with pytest.raises(ValueError, match="0.0001 stands there twice"):
        parse_axis("a=[1e-4, 0.0001]")


def test_seeds_are_a_count_or_a_list():
    assert parse_seeds("3") == [0, 1, 2] and parse_seeds("4,7") == [4, 7] and parse_seeds("4,") == [4]
    for text in ("0", "", "1,1", "a", "-1"):
        with pytest.raises(ValueError, match="--seeds"):
            parse_seeds(text)


def test_one_seed_that_lacks_its_comma_is_no_count():
    with pytest.raises(ValueError, match="is a count, and 1000 is the most; .* --seeds '14159265,' with its comma"):
        parse_seeds("14159265")
    assert parse_seeds("14159265,") == [14159265] and len(parse_seeds("1000")) == 1000


@pytest.mark.parametrize("value", [3e-5, 1, True, None, "v1", "3e-5", [0.1, 2], {"a": {"b": [1, "x y"]}}, "a: b"])
def test_an_override_reads_back_as_the_same_value(value):
    assert yaml.safe_load(to_text(value)) == value and "\n" not in to_text(value)


def test_all_combinations_with_all_seeds_in_order(tmp_path):
    axes = [Axis("loop.max_staleness", (0, 1)), Axis(RATE, (3e-5, 1e-4))]
    trials = plan_trials("mini", ["sampling.num_steps=4"], axes, [0, 5], tmp_path)
    assert [trial.name for trial in trials[:3]] == [
        "max_staleness=0, learning_rate=3e-05, seed 0",
        "max_staleness=0, learning_rate=3e-05, seed 5",
        "max_staleness=0, learning_rate=0.0001, seed 0",
    ]
    assert len(trials) == 8 == len({trial.run_dir for trial in trials})
    last = load("mini", list(trials[-1].overrides))
    assert (last.seed, last.loop.max_staleness, last.stages[0].phases[0].learning_rate) == (5, 1, 1e-4)
    assert last.sampling.num_steps == 4 and last.run_dir == str(trials[-1].run_dir)
    assert trials[-1].log == trials[-1].run_dir.parent / "seed5.log"


def test_a_folder_has_no_equals_sign_and_stays_when_a_value_is_added():
    few, more = settings([Axis(RATE, (3e-5,))]), settings([Axis(RATE, (1e-4, 3e-5))])
    assert few[0].folder == more[1].folder == "learning_rate-3e-05"
    odd = [setting.folder for setting in settings([Axis("x", ("a b", "a/b", "a=b", "a-b"))])]
    assert len(set(odd)) == 4 and not any(set(folder) & set(" /=") for folder in odd)
    assert len(folder_name([("x", "y" * 500)], ["x=y"])) < 120


def test_keys_that_end_alike_keep_their_whole_names():
    found = settings([Axis("stages.0.phases.0.learning_rate", (1,)), Axis("stages.1.phases.0.learning_rate", (2,))])
    assert found[0].label == "stages.0.phases.0.learning_rate=1, stages.1.phases.0.learning_rate=2"
    assert settings([])[0].overrides == ()


@pytest.mark.parametrize(
    ("overrides", "axes", "message"),
    [
        (["seed=3"], [], "use --seeds"),
        ([], [Axis("run_dir", ("a",))], "use --out"),
        (["a.b=1"], [Axis("a.b", (1, 2))], "'a.b' is given 2 times"),
    ],
)
def test_keys_of_the_sweep_and_repeated_ones_are_refused(overrides, axes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plan_trials("mini", overrides, axes, [0], tmp_path)


@pytest.mark.parametrize(
    ("overrides", "overs", "both"),
    [  # in paper_mini the stage crpo is at position 3
        (["stages.3.options.beta=100"], ["stages.crpo.options.beta=[500,2000]"], "stages.3.options.beta"),
        ([], ["stages.3.tickets=[8,16]", "stages.crpo.tickets=[32]"], "stages.3.tickets"),
        (["stages.crpo.options={beta: 100}"], ["stages.3.options.beta=[500]"], "stages.3.options.beta"),
        (["stages.3.options.beta=100"], ["stages.crpo.options=[{}, {beta: 3}]"], "stages.3.options.beta"),
        (["stages.3.name=last"], ["stages.3.tickets=[8]", "stages.last.tickets=[9]"], "stages.3.tickets"),
    ],
)
def test_a_value_that_another_spelling_would_overwrite_is_refused(overrides, overs, both, tmp_path):
    with pytest.raises(ValueError, match=f"both set {both} of paper_mini; set it once") as caught:
        plan_trials("paper_mini", overrides, [parse_axis(text) for text in overs], [0], tmp_path)
    assert "\n" not in str(caught.value)


def test_different_keys_of_one_section_are_swept_together(tmp_path):
    axes = [Axis("stages.3.options", ({"lambda_fm": 0.5}, {})), Axis("stages.crpo.options.beta", (500, 2000))]
    trials = plan_trials("paper_mini", ["stages.sft.batch=4", "stages.1.batch=4"], axes, [0], tmp_path)
    assert [trial.name for trial in trials][0] == "options={lambda_fm: 0.5}, beta=500, seed 0" and len(trials) == 4


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("loop.max_stalenes=[0,1]", "unknown key 'loop.max_stalenes'; did you mean 'max_staleness'"),
        (f"{RATE}=[1e-4,-1]", "learning_rate=-1: "),
        ("stages.crpo.options.beta=[1,2]", "'crpo' is no position 0..0 and no name"),
        ("stages.0.algorithm=[expert_iteration,nonsense]", "algorithm=nonsense: "),
        ("trainer.num_cpus=[0.5,9999]", "num_cpus=9999: the roles take"),
    ],
)
def test_a_setting_that_cannot_run_is_one_line_and_nothing_is_written(over, message, tmp_path):
    done = CliRunner().invoke(app, ["sweep", "mini", "--over", over, "--out", str(tmp_path / "out")])
    assert done.exit_code == 2 and message in done.output and done.output.count("\n") == 1, done.output
    assert not (tmp_path / "out").exists()


def test_a_dry_run_names_trials_and_cost_and_writes_nothing(tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(
        app, ["sweep", "mini", "--over", "loop.max_staleness=[0,1]", "--seeds", "2", "--out", str(out), "--dry-run"]
    )
    assert done.exit_code == 0, done.output
    assert "4 trials, 2 settings x 2 seeds" in done.output and "max_staleness=1, seed 1: waiting" in done.output
    # mini: 3 generations of 75 x 4 clips and 40 updates; version 0 and the last evaluated on 20 x 3 pairs
    assert "to do: 4 trials, 3600 clips, 480 updates, 480 evaluation clips" in done.output
    assert not out.exists()


def trial_on_disk(tmp_path, **summary):
    """A trial whose run directory holds a configuration, and a summary where one is given."""
    trial = plan_trials("mini", [], [], [1], tmp_path)[0]
    config = load("mini", list(trial.overrides))
    trial.run_dir.mkdir(parents=True, exist_ok=True)
    (trial.run_dir / "config.json").write_text(config.model_dump_json())
    if summary:
        (trial.run_dir / "summary.json").write_text(json.dumps(summary))
    return trial, config


def test_how_a_trial_stands_is_read_from_its_folder(tmp_path):
    trial = plan_trials("mini", [], [], [1], tmp_path)[0]
    assert stored_outcome(trial, load("mini", ["seed=1"])).state == "waiting"
    found = stored_outcome(*trial_on_disk(tmp_path))
    assert (found.state, found.is_final) == ("stopped", False)
    found = stored_outcome(*trial_on_disk(tmp_path, status="stopped", reason="SIGTERM received"))
    assert (found.state, found.reason, found.is_final) == ("stopped", "SIGTERM received", False)
    found = stored_outcome(*trial_on_disk(tmp_path, status="finished", reason=""))
    assert found.is_final and found.summary == {"status": "finished", "reason": ""}


def test_a_run_that_its_alarm_ended_goes_on_once_the_alarm_only_warns(tmp_path):
    trial, config = trial_on_disk(tmp_path, status="stopped", reason="alarm: judge fell")
    for action, is_final in (("stop", True), ("rollback", True), ("warn", False)):
        alarm = config.evaluation.alarm.model_copy(update={"action": action})
        now = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"alarm": alarm})})
        found = stored_outcome(trial, now)
        assert (found.state, found.was_ended_by_alarm, found.is_final) == ("stopped", True, is_final), action


def test_a_folder_of_another_configuration_is_refused(tmp_path):
    trial, _ = trial_on_disk(tmp_path, status="finished", reason="")
    with pytest.raises(ValueError, match="other settings than as given, seed 1; choose another --out"):
        stored_outcome(trial, load("mini", ["seed=1", "sampling.num_steps=4"]))


def test_a_failure_has_its_reason_from_a_new_summary_or_from_the_log(tmp_path):
    trial, _ = trial_on_disk(tmp_path, status="failed", reason="no clip left")
    assert ended_outcome(trial, 1, began=0.0).reason == "no clip left"
    trial.log.write_text("starting\nrlloop: the disk is full\n\n")
    later = (trial.run_dir / "summary.json").stat().st_mtime + 1
    assert ended_outcome(trial, 1, later).reason == f"the disk is full (exit status 1, see {trial.log})"
    assert "ended by SIGKILL" in ended_outcome(trial, -9, later).reason
    assert ended_outcome(trial, 0, later).state == "failed"  # an end without a summary is none
    assert last_line(tmp_path / "absent.log") == ""
