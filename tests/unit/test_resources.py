"""The resource table and the checks before a start."""

from pathlib import Path

import pytest

from rlloop.config import PRESETS, build, load
from rlloop.preflight import (
    buffer_bytes,
    check_buffer,
    check_evaluated_scores,
    check_limits,
    check_platform,
    check_prompts,
    choose_run_dir,
    disk_bytes,
    kept_bytes,
    num_checkpoints,
    num_parameters,
    num_snapshots,
    prepare_run_dir,
)
from rlloop.resources import (
    NODE_SHARE,
    Nodes,
    check_fits,
    check_nodes,
    node_request,
    node_types,
    resources,
    show_bytes,
    sizes,
)

REPOSITORY = Path(__file__).parents[2]
SMALL = {"sampler": {"num_actors": 2, "num_cpus": 0.4}, "scorer": {"num_cpus": 0.2}, "evaluation": {"num_cpus": 0.2}}


def test_rows_sum_up():
    rows = {row.role: row for row in resources(build(SMALL))}
    assert list(rows) == ["sampler", "scorer", "trainer", "evaluator", "control"]
    assert rows["sampler"].cpus == 0.8 and rows["control"].cpus == 0
    assert sum(row.cpus for row in rows.values()) == pytest.approx(0.8 + 0.2 + 0.5 + 0.2)


def test_a_refusal_has_both_numbers():
    rows = resources(build(SMALL))
    assert check_fits(rows, cpus=2, gpus=0) is None
    assert check_fits(rows, cpus=1, gpus=0).startswith("the roles take 1.7 CPUs (sampler 0.8 + scorer 0.2")
    assert "there are 1;" in check_fits(rows, cpus=1, gpus=0)
    with_gpus = resources(build({"trainer": {"num_workers": 4, "num_gpus": 1}}))
    assert "take 4 GPUs (trainer 4), there are 2" in check_fits(with_gpus, cpus=64, gpus=2)


def test_tenths_that_sum_to_the_machine_fit():
    rows = resources(build({"sampler": {"num_actors": 3, "num_cpus": 0.3}, "scorer": {"num_cpus": 0.1}}))
    assert check_fits(rows, cpus=0.9 + 0.1 + 0.5 + 0.25, gpus=0) is None


PLACED = {
    "sampler": {"num_actors": 4, "num_cpus": 1, "num_gpus": 1, "node": "sampler"},
    "scorer": {"num_gpus": 0.5, "node": "reward"},
    "trainer": {"num_gpus": 1, "node": "trainer"},
}
HEAD, REWARD, TRAINER = (
    Nodes(1, 8, gpus, frozenset({name})) for name, gpus in (("head", 0), ("reward", 1), ("trainer", 1))
)


def test_node_types_fit_with_both_numbers():
    rows = resources(build(PLACED))
    two = [HEAD, REWARD, TRAINER, Nodes(2, 8, 1, frozenset({"sampler"}))]
    problem = check_nodes(rows, two)
    assert problem.startswith("on nodes of type 'sampler', the roles take 4 GPUs (sampler 4), there are 2;")
    assert problem.endswith("or add nodes of that type")
    assert check_nodes(rows, [*two, Nodes(2, 8, 1, frozenset({"sampler"}))]) is None
    missing = check_nodes(rows, [HEAD, Nodes(9, 8, 1, frozenset({"sampler"}))])
    assert (
        "scorer wants nodes of type 'reward', no node is" in missing and "(types there are: head, sampler)" in missing
    )
    assert check_nodes(resources(build({})), [Nodes(1, 1, 0)]).startswith("the roles take 1.25 CPUs")


def test_what_an_autoscaler_may_start_counts():
    rows = resources(build(PLACED))
    alive = [HEAD]
    groups = [Nodes(4, 8, 1, frozenset({"sampler"})), REWARD, TRAINER]
    assert check_nodes(rows, alive, groups) is None
    few = check_nodes(
        rows,
        [*alive, REWARD, TRAINER, Nodes(1, 8, 1, frozenset({"sampler"}))],
        [Nodes(3, 8, 1, frozenset({"sampler"}))],
    )
    assert "sampler 4), there are 3" in few


def test_a_pool_that_scales_is_counted_at_its_most():
    rows = resources(build({"sampler": {"num_actors": 1, "num_cpus": 0.5, "autoscale": {"max": 4}}}))
    assert rows[0].num_actors == 4 and rows[0].cpus == 2


def test_placement_decides_no_result():
    plain, placed = (
        build({}),
        build({"sampler": {"node": "sampler", "autoscale": {"max": 4}}, "trainer": {"node": "a"}}),
    )
    assert placed.digest() == plain.digest()
    assert node_types(placed) == ["a", "sampler"] and node_types(plain) == []
    assert node_request("a") == {"a": NODE_SHARE} and node_request(None) == {}
    with pytest.raises(ValueError, match="sampler.node"):
        build({"sampler": {"node": "node:10.0.0.1"}})


def test_the_default_fits_two_logical_cpus():
    assert check_fits(resources(load("mini")), cpus=2, gpus=0) is None
    two_workers = load("mini", ["trainer.num_workers=2", "trainer.num_cpus=0.25"])
    assert check_fits(resources(two_workers), cpus=2, gpus=0) is None


def test_sizes_by_hand():
    stages = [
        {"name": "a", "generations": 3, "tickets": 40, "phases": [{"updates": 60}, {"updates": 10}]},
        {"name": "b", "generations": 1, "tickets": 5, "selection": {"per": "prompt", "top_fraction": 0.5}},
    ]
    counts = sizes(build({"stages": stages, "sampler": {"clips_per_prompt": 4}}))
    assert (counts.versions, counts.tickets, counts.candidates, counts.updates) == (4, 125, 500, 270)
    assert counts.selected_per_generation == {"a": 16, "b": 10}
    assert (counts.clips_per_evaluation, counts.evaluations) == (60, 3)


def test_run_dir_order(tmp_path):
    config = build({"run_dir": str(tmp_path / "own")})
    assert choose_run_dir(config, "mini", {"RLLOOP_RUNS": "/data"}) == str(tmp_path / "own")
    assert choose_run_dir(build({}), "mini", {"RLLOOP_RUNS": "/data", "RAY_JOB_ID": "1"}) == "/data/mini"
    assert choose_run_dir(build({}), "mini", {}).endswith("/runs/mini")
    assert choose_run_dir(build({"run_dir": "s3://bucket/run"}), "mini", {}) == "s3://bucket/run"


@pytest.mark.parametrize("variable", ["RAY_JOB_ID", "RAY_JOB_CONFIG_JSON_ENV_VAR"])
def test_a_job_without_a_lasting_place_is_refused(variable):
    with pytest.raises(ValueError, match="set RLLOOP_RUNS or run_dir=PATH"):
        choose_run_dir(build({}), "mini", {variable: "1"})
    for given, base in (("runs/own", "/data"), (None, "runs")):
        with pytest.raises(ValueError, match="goes away with the Ray job; give an absolute path"):
            choose_run_dir(build({"run_dir": given}), "mini", {variable: "1", "RLLOOP_RUNS": base})
    assert choose_run_dir(build({"run_dir": "/x/own"}), "mini", {variable: "1"}) == "/x/own"


def test_the_buffer_bound_is_checked_with_both_numbers():
    config = build({"loop": {"max_buffer_bytes": 2**20}})
    assert buffer_bytes(config) == 2 * 160 * 64 * 1024
    with pytest.raises(ValueError, match="may hold 20 MiB, 2 cohorts .* is 1 MiB"):
        check_buffer(config)


def test_an_unwritable_run_dir_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to: .*run_dir=PATH"):
        prepare_run_dir(build({}), str(tmp_path / "file" / "run"))


def test_a_full_disk_is_refused_with_both_numbers(tmp_path):
    huge = build({"trainer": {"keep_checkpoints": 10**9}})  # beyond limits.checkpoints, which is checked before
    with pytest.raises(ValueError, match=r"may write [\d.]+ GiB and keeps 64 MiB free .*, [\d.]+ GiB are free"):
        prepare_run_dir(huge, str(tmp_path))
    assert disk_bytes(load("mini")) < 2 * 2**30


def test_checkpoints_are_counted_by_the_specification():
    """FluxAudio-S at 44.1 kHz: the groups of reference.md section 2.2, and 120.6 M with what is stored beside them."""
    official = load("official")
    trained = 12_168_128 + 2_179_520 + 1_950_144 + 316_288 + 42_497_856 + 60_592_128 + 527_784
    assert num_parameters(official) == trained + 77 * 1024 + 512 + 2 * 40
    rollouts = sum(stage.generations * stage.tickets for stage in official.stages) * 4 * 64 * 2**10
    journal = rollouts // (4 * 64 * 2**10) * (400 + 4 * 300)
    checkpoints = num_checkpoints(official) * num_parameters(official) * 16
    assert disk_bytes(official) == checkpoints + rollouts + journal + 200 * 2**20
    assert num_parameters(build({"generator": {"target": "tests.fakes:tiny_generator"}})) == 0
    shipped = REPOSITORY / "rlloop" / "assets" / "mini" / "fluxaudio.safetensors"  # in float16
    assert shipped.stat().st_size == pytest.approx(2 * num_parameters(load("mini")), abs=2**16)


def test_averages_take_disk_in_checkpoints_and_beside_them():
    """Two stages of 3 x 70 and 100 updates, stored at 50, 100, 150, 200, 210 and at 50, 100; one to spare each."""
    stages = [
        {"name": "a", "generations": 3, "phases": [{"updates": 60}, {"updates": 10}]},
        {"name": "b", "tickets": 0, "phases": [], "variant": "v2"},
        {"name": "c", "phases": [{"updates": 100}]},
    ]
    plain, averaged = (
        build({"stages": stages, "trainer": {"ema_sigmas": sigmas, "ema_every": 50}}) for sigmas in ([], [0.05, 0.1])
    )
    assert num_snapshots(averaged) == 6 + 3
    track = 4 * num_parameters(averaged)
    assert disk_bytes(averaged) - disk_bytes(plain) == (num_checkpoints(averaged) + 9) * 2 * track


def test_a_rollback_keeps_every_evaluated_version():
    def counted(generations: int, **evaluation) -> int:
        return num_checkpoints(build({"stages": [{"name": "a", "generations": generations}], "evaluation": evaluation}))

    rollback = {"alarm": {"action": "rollback"}}
    assert counted(9) == counted(9, alarm={"action": "stop"}) == 3 + 6
    assert counted(9, **rollback) == 3 + 10 and counted(2, **rollback) == 3 + 3
    stages = [{"name": name, "generations": 9} for name in "ab"]
    ends = build({"stages": stages, "evaluation": {**rollback, "in_between": False}})
    assert num_checkpoints(ends) == 3 + 8  # only ends of stages are evaluated


@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not exist"), ("", "holds no prompt"), ("\n \n", "holds no prompt")]
)
def test_prompt_files_are_read_before_anything_starts(tmp_path, content, message):
    file = tmp_path / "own.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=message):
        check_prompts(build({"prompts": str(file)}))


def test_own_prompts_go_through_word_vectors(tmp_path):
    (tmp_path / "own.txt").write_text("a slow waltz nobody has written yet\n")
    check_prompts(build({"prompts": str(tmp_path / "own.txt"), "generator": {"text_encoder": "words"}}))


def test_the_reward_has_to_be_evaluated():
    with pytest.raises(ValueError, match="rank by 'tunejury_mini', evaluation.scores are .'judge_mini'."):
        check_evaluated_scores(build({"evaluation": {"scores": ["judge_mini"]}}))


def test_platforms():
    check_platform("Linux", "x86_64")
    with pytest.raises(ValueError, match="this is Darwin arm64"):
        check_platform("Darwin", "arm64")


def test_presets_are_found():
    assert (PRESETS / "mini.yaml").is_file()


def test_what_a_plan_keeps_is_refused_beyond_each_limit_with_both_numbers():
    """Two cohorts at work, two newest, three to fall back to, one before them: eight of 2 x 100 tickets of 4 clips."""
    stage = {"name": "a", "generations": 20, "tickets": 100}
    assert kept_bytes(build({"stages": [stage]}))["rollouts"] == 8 * 100 * 4 * 64 * 2**10
    assert kept_bytes(build({"stages": [{**stage, "generations": 2}]}))["rollouts"] == 2 * 100 * 4 * 64 * 2**10
    reading = {**stage, "name": "b", "phases": [{"sources": {"current": 1.0, "stage:a": 1.0}}]}
    assert kept_bytes(build({"stages": [stage, reading]}))["rollouts"] == 9 * 100 * 4 * 64 * 2**10
    for name, bound, message in (
        ("rollouts", "100MiB", "rollouts may take 200 MiB, limits.rollouts is 100 MiB"),
        ("checkpoints", "1MiB", "checkpoints may take 552 MiB, limits.checkpoints is 1 MiB"),
        ("journal", "1MiB", "journal may take 3 MiB, limits.journal is 1 MiB"),
        ("object_store", "80MiB", "22 versions of the weights take 338 MiB of the object store"),
    ):
        lag = {"max_staleness": 20} if name == "object_store" else {}
        with pytest.raises(ValueError, match=message):
            check_limits(build({"stages": [stage], "limits": {name: bound}, "loop": lag}))
    check_limits(build({"stages": [stage]}))


def test_sizes_are_shown_with_their_unit():
    assert [show_bytes(n) for n in (0, 1023, 2048, 3 * 2**20, 5 * 2**29)] == [
        "0 B",
        "1023 B",
        "2 KiB",
        "3 MiB",
        "2.5 GiB",
    ]
