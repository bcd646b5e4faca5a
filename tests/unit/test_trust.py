"""Secrets stay out of what is stored and shown, the environment of workers is ours alone, code is named openly."""

import re
from pathlib import Path

import pytest

from actors.startup import worker_environment
from rlloop.config import build, load, named_code
from rlloop.loop.joining import prepare
from rlloop.main import start
from tests.ray.runs import FAKE

REPOSITORY = Path(__file__).parents[2]
SECRET = "hf_" + "a1B2" * 8


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (f"generator.options={{hf_token: {SECRET}}}", "generator.options.hf_token: by its name this is a secret"),
        ("generator.options={db: {password: xyzzy}}", "generator.options.db.password: by its name"),
        (f"prompts=/data/{SECRET}.txt", "prompts: holds an access token"),
        ("corpus=s3://AKIA" + "ABCDEFGH" * 2 + "/x", "corpus: holds an access token"),
        ("prompts=https://me:xyzzy@example.org/p.txt", "prompts: holds an address with a password"),
        ("prompts=https://h/x?sig=xyzzy&se=1", "prompts: holds an address with a token"),
        ("prompts=https://h/x?X-Amz-Security-Token=xyzzy", "prompts: holds an address with a token"),
        ("prompts=https://h/x?a=1&token=xyzzy", "prompts: holds an address with a token"),
        ("generator.options={token: 12345678}", "generator.options.token: by its name"),
        ("generator.options={password: [xyzzy]}", "generator.options.password.0: by its name"),
        ("generator.options={credentials: {user: xyzzy}}", "generator.options.credentials.user: by its name"),
        ("generator.options={auth: 'Bearer xyzzy'}", "generator.options.auth: by its name"),
        (
            "generator.options={headers: {A: 'Bearer xyzzyxyzzyxyzzyxyzzy'}}",
            "generator.options.headers.A: holds an acc",
        ),
        *(
            (f"generator.options={{{key}: xyzzy}}", f"generator.options.{key}: by its name")
            for key in (
                "tokens",
                "apiToken",
                "hf_key",
                "private_key",
                "privateKey",
                "API_KEY",
                "x-api-key",
                "hf_tokens",
            )
        ),
    ],
)
def test_a_secret_in_a_configuration_is_refused_without_showing_it(override, said):
    with pytest.raises(ValueError) as raised:
        load(FAKE, [override])
    assert said in str(raised.value) and "HF_TOKEN" in str(raised.value)
    assert SECRET not in str(raised.value) and "xyzzy" not in str(raised.value) and "AKIA" not in str(raised.value)
    assert "12345678" not in str(raised.value)


def test_what_only_looks_like_a_secret_is_taken():
    options = {
        "max_tokens": 64,
        "token": "",
        "num_tokens": 8,
        "n_tokens": 9,
        "pad_token": 0,
        "max_new_tokens": 256,
        "image_token": 32000,
        "eos_token": "</s>",
    }
    options |= {"sort_key": "name", "tokenizer": "t5", "authors": "all", "use_auth": True, "key_dim": 8}
    options |= {"passes": 3, "tokens_per_second": 50.0, "see": "https://h/x?page=2&monkey=3"}
    config = build({"prompts": "https://example.org/token/tokens.txt", "generator": {"options": options}})
    assert config.prompts == "https://example.org/token/tokens.txt" and config.generator.options == options


@pytest.mark.parametrize("preset", sorted(path.stem for path in (REPOSITORY / "configs").glob("*.yaml")))
def test_no_preset_looks_as_if_it_held_a_secret(preset):
    load(preset)


@pytest.mark.parametrize(
    "override",
    [
        f"seed={SECRET}",
        f"seed=[{SECRET}]",
        f"seed={{password: xyzzy, at: 'https://h/x?sig=xyzzy', and: '{SECRET}'}}",
        "generator.options=https://me:xyzzy@example.org",
        SECRET,
        f"seed.{SECRET}=1",
    ],
)
def test_what_is_wrong_for_another_reason_is_shown_without_its_secrets(override):
    with pytest.raises(ValueError) as raised:
        load(FAKE, [override])
    said = str(raised.value)
    assert SECRET not in said and "xyzzy" not in said and "***" in said, said


def test_workers_get_constants_and_a_path_and_no_secret():
    secrets = {"HF_TOKEN": SECRET, "AWS_SECRET_ACCESS_KEY": "x", "AWS_SESSION_TOKEN": "y", "RAY_AUTH_TOKEN": "z"}
    for cluster in ({}, {"RAY_ADDRESS": "10.0.0.1:6379"}):
        found = worker_environment({**secrets, **cluster, "PYTHONPATH": "/mine", "HOME": "/home/me"})
        assert not re.search("TOKEN$|SECRET|AWS|HF_|HOME", " ".join(found)) and found["PYTHONPATH"].endswith(":/mine")
        assert not set(secrets.values()) & set(found.values())


def test_our_own_ray_stays_on_loopback_with_tokens_and_a_cluster_gets_the_token_that_is_here(tmp_path):
    alone = {"HOME": str(tmp_path)}
    prepare(alone)
    assert alone["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0" and alone["RAY_AUTH_MODE"] == "token"
    told = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "RAY_AUTH_MODE": "disabled"}
    prepare(told)
    assert told == {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "RAY_AUTH_MODE": "disabled"}
    joining = {"HOME": str(tmp_path), "RAY_ADDRESS": "10.0.0.1:6379"}
    prepare(joining)
    assert set(joining) == {"HOME", "RAY_ADDRESS"}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("t")
    prepare(joining)
    assert joining["RAY_AUTH_MODE"] == "token" and "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in joining


def test_code_of_ones_own_is_listed_wherever_it_is_named():
    pools = (
        "{p: {rewards: ['my.judges:Judge']}, options: {rewards: [{name: a, target: 'b:c', options: {target: 'd:e'}}]}}"
    )
    overrides = [
        f"scorer.pools={pools}",
        "sampler.target=rlloop.main:start",
        "generator.options={target: 'no.code:here'}",
    ]
    found = dict(named_code(load(FAKE, overrides)))
    assert found == {
        "generator.target": "tests.fakes:tiny_generator",
        "scorer.rewards.0": "tests.fakes:Loudness",
        "scorer.pools.p.rewards.0": "my.judges:Judge",
        "scorer.pools.options.rewards.0.target": "b:c",
        "sampler.target": "rlloop.main:start",
        "evaluation.scores.0": "tests.fakes:Loudness",
        "evaluation.scores.1": "tests.fakes:Softness",
    }
    assert named_code(load("mini")) == []


def test_a_dry_run_says_which_code_is_named_before_it_is_imported(capsys, tmp_path):
    start(str(FAKE), [f"run_dir={tmp_path}"], dry_run=True)
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("rlloop: the configuration names code that is run: generator.target tests.fakes:tiny_gen")
    with pytest.raises(ValueError, match="nowhere"):
        start(str(FAKE), [f"run_dir={tmp_path}", "generator.target=nowhere.at_all:x"], dry_run=True)
    assert "generator.target nowhere.at_all:x" in capsys.readouterr().out


FORBIDDEN = re.compile(
    r"yaml\.(load|unsafe_load|full_load)\(|pickle\.loads?\(|allow_pickle=True|trust_remote_code=True|(?<![.\w])(eval|exec)\("
    r"|weights_only=False|os\.system\(|shell=True"
)


def test_no_file_is_read_in_a_way_that_can_run_code():
    """Un-pickling, unsafe YAML, remote code, shells: nowhere in the package."""
    sources = [path for room in ("rlloop", "actors") for path in (REPOSITORY / room).rglob("*.py")]
    found = [f"{path}: {hit[0]}" for path in sources for hit in FORBIDDEN.finditer(path.read_text(encoding="utf-8"))]
    assert len(sources) > 100 and not found, found
