"""Configuration: overrides, messages with both numbers, presets; and that the entry point answers at once."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlloop.config import PRESETS, build, load

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_parses_and_survives_a_round_trip(preset):
    config = load(preset)
    assert build(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config


def test_overrides_reach_sections_and_named_stages():
    config = load("mini", ["sampler.num_actors=3", "stages.expert_iteration.tickets=20", "stages.0.phases.0.updates=7"])
    assert config.sampler.num_actors == 3
    assert config.stages[0].tickets == 20 and config.stages[0].phases[0].updates == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampler.num_actrs=2", "unknown key 'sampler.num_actrs'; did you mean 'num_actors'"),
        ("trainr.num_workers=2", "did you mean 'trainer'"),
        ("sampler.num_actors", "has no '='"),
        ("sampler.num_actors=0", "sampler.num_actors"),
        ("seed.deep=1", "is a value, not a section"),
        ("stages.other.tickets=1", "no name in that list"),
        ("trainer.num_workers=3", "batch_size 16 is not a multiple of trainer.num_workers 3"),
        ("stages.0.selection.rank_by={clap: 1.0}", "score 'clap' is not among scorer.rewards"),
        ("stages.0.phases.0.sources={other: 1.0}", "source 'other' is none of"),
        ("trainer.ema_sigmas=[0.05]", "ema_sigmas is [0.05]; expected two or more different widths"),
        ("trainer.ema_sigmas=[0.05, 0.1, 0.05]", "ema_sigmas is [0.05, 0.1, 0.05]; expected two or more different"),
    ],
)
def test_a_mistake_gets_one_line(override, message):
    with pytest.raises(ValueError) as caught:
        load("mini", [override])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_or_foreign_file(tmp_path):
    with pytest.raises(ValueError, match="presets: .*mini"):
        load("nowhere")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="expected a mapping"):
        load(tmp_path / "list.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not readable"):
        load(tmp_path / "bytes.yaml")


def run_main(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rlloop.main", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


def cpu_seconds(*arguments: str) -> float:
    """The best of three: other processes share the cores, and byte code is compiled once."""
    best = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=True, timeout=120)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def test_help_is_quick():
    done = run_main("--help")
    assert done.returncode == 0 and "Examples" in done.stdout
    least = cpu_seconds("-c", "import typer, pydantic, yaml, rich.console")  # 0.3 s, where the help takes 0.55 s
    assert cpu_seconds("-m", "rlloop.main", "--help") < min(1.5, 3 * least)


@pytest.mark.parametrize("module", ["rlloop.main", "rlloop.commands.main"])
def test_entry_points_import_nothing_heavy(module):
    heavy = "{'torch', 'ray', 'transformers', 'deepspeed'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_mistake_on_the_command_line_is_one_line_and_status_2():
    done = run_main("sampler.num_actrs=2")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("rlloop: ")


def test_dry_run_prints_what_it_would_take(tmp_path):
    done = run_main("--dry-run", "sampler.clips_per_prompt=7", f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "clips_per_prompt: 7" in done.stdout and "what each role takes" in done.stdout
    assert not (tmp_path / "run").exists()
    refused = run_main("--dry-run", "sampler.num_actors=9999")
    assert refused.returncode == 2 and "the roles take" in refused.stderr


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"stages": [{"name": "a", "phases": [{"sources": {"previous": 1.0}}]}]}, "exists at generation 0"),
        ({"stages": [{"name": "a", "phases": [{"sources": {"generation:3": 1.0}}]}]}, "exists at generation 0"),
        ({"scorer": {"rewards": ["tunejury_mini", "my.own:tunejury_mini"]}}, "two are named 'tunejury_mini'"),
    ],
)
def test_sources_that_never_exist_and_equal_names_are_refused(raw, said):
    with pytest.raises(ValueError, match=said):
        build({"stages": [{"name": "a"}], **raw})


def test_learning_rate_of_a_phase_is_hand_computed():
    raw = {"updates": 10, "learning_rate": 1.0, "final_learning_rate": 0.0, "warmup": 1}
    phase = build({"stages": [{"name": "a", "phases": [raw]}]}).stages[0].phases[0]
    assert [phase.rate(n) for n in (0, 1, 5, 9)] == pytest.approx([0.5, 0.9, 0.5, 0.1])
    assert phase.model_copy(update={"final_learning_rate": None}).rate(7) == 1.0


def test_no_average_or_two_and_more():
    assert load("mini", ["trainer.ema_sigmas=[]"]).trainer.ema_sigmas == []
    assert load("mini", ["trainer.ema_sigmas=[0.1, 0.05]"]).trainer.ema_sigmas == [0.1, 0.05]


def test_deadlines_and_places_may_change_on_resume_but_not_what_decides_the_results():
    digest = build({"stages": [{"name": "a"}]}).digest()
    for raw in (
        {"loop": {"stall_timeout_s": 5000}},
        {"trainer": {"num_cpus": 0.1, "num_workers": 2}},
        {"run_dir": "x"},
    ):
        assert build({"stages": [{"name": "a"}], **raw}).digest() == digest
    assert build({"stages": [{"name": "a"}], "seed": 1}).digest() != digest


POOLS = {"rewards": ["tunejury_mini"], "pools": {"text": {"rewards": ["alignment_mini"], "num_actors": 3}}}


def test_a_reward_may_have_a_pool_of_its_own():
    config = build({"scorer": POOLS})
    assert list(config.scorer.all_pools) == ["scorer", "scorer_text"]
    assert [reward.name for reward in config.scorer.all_rewards] == ["tunejury_mini", "alignment_mini"]
    more = {"pools": {"text": {**POOLS["pools"]["text"], "num_actors": 1}}}
    assert build({"scorer": {**POOLS, **more}}).digest() == config.digest()
    with pytest.raises(ValueError, match="two are named 'tunejury_mini'"):
        build({"scorer": {"pools": {"again": {"rewards": ["tunejury_mini"]}}}})
    with pytest.raises(ValueError, match="my-pool"):
        build({"scorer": {"pools": {"my-pool": {"rewards": ["judge_mini"]}}}})


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
@pytest.mark.parametrize(
    "key",
    [
        "sampling.score",
        "sampling.guidance",
        "sampling.guidance_interval.0",
        "stages.0.sampling_score",
        "stages.0.phases.0.learning_rate",
        "stages.0.phases.0.sources.current",
        "trainer.clip_grad_norm",
        "loop.stall_timeout_s",
    ],
)
def test_a_number_that_is_not_finite_is_refused(key, value):
    given = ["sampling.guidance_interval=[0.1, 0.9]", "stages=[{name: a, phases: [{sources: {current: 1.0}}]}]"]
    load("mini", given)
    with pytest.raises(ValueError) as error:
        load("mini", [*given, f"{key}={value}"])
    assert f" {key}: Input should be a finite number (found " in str(error.value)
