"""`rlloop weights` as it is typed; and the Hub, played by a server on this machine, in a process of its own."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from rlloop.commands.main import app
from rlloop.weights.catalogue import catalogue
from tests.unit.web import in_turn, ranged, serving

TOKEN = "hf_secretsecret"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RLLOOP_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def run(*words: str):
    return CliRunner().invoke(app, ["weights", *words])


def test_every_verb_has_help_with_an_example():
    listed = run("--help").output
    for verb in ("list", "fetch", "verify", "import", "export"):
        assert verb in listed
        shown = run(verb, "--help")
        assert shown.exit_code == 0 and f"Example: rlloop weights {verb}" in shown.output


def test_list_names_everything_with_licence_and_state(home):
    (home / "vae_44k").mkdir(parents=True)
    (home / "vae_44k" / "v1-44.pth").write_bytes(b"x")
    lines = run("list").output.splitlines()
    for name, entry in catalogue().items():
        line = next(line for line in lines if name in line)
        assert entry.licence in line and ("present" if name == "vae_44k" else "absent") in line
    assert "(gated)" in next(line for line in lines if "mert" in line)


def test_list_as_json(home):
    shown = {entry["name"]: entry for entry in json.loads(run("list", "--json").output)}
    assert shown.keys() == catalogue().keys()
    assert shown["vae_44k"]["path"] == str(home / "vae_44k" / "v1-44.pth") and shown["mert_v1_330m"]["gated"]
    file = shown["vae_44k"]["files"][0]
    assert file["state"] == "absent" and file["bytes"] == 1_221_942_998
    assert file["sources"][1] == "https://github.com/hkchengrex/MMAudio/releases/download/v0.1/v1-44.pth"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fetch", "nonsense"], "weights 'nonsense' are not known; known are fluxaudio_s_44k_gclef"),
        (["verify", "tunejury"], "1 files are not as published: tunejury/tunejury.pt"),
        (["import", "/nowhere"], "/nowhere is no folder"),
        (["import", "/nowhere", "--as", "tunejury"], "/nowhere is missing"),
    ],
)
def test_mistakes_cost_one_line(words, message):
    done = run(*words)
    assert done.exit_code == 2 and f"rlloop: {message}" in done.output and "Traceback" not in done.output


def test_verify_without_names_reads_what_is_here(home):
    assert run("verify").output.startswith("nothing is here")
    (home / "tunejury").mkdir(parents=True)
    torch.save({"net.0.weight": torch.zeros(1024, 2048)}, home / "tunejury" / "tunejury.pt")
    done = run("verify")
    assert done.exit_code == 2 and "tunejury/tunejury.pt: net.16.weight is missing" in done.output


def test_import_prints_what_it_did(tmp_path):
    mert = tmp_path / "disk" / "MERT-v1-330M"
    mert.mkdir(parents=True)
    (mert / "config.json").write_text("{}")
    (mert / "readme").write_text("")
    (tmp_path / "disk" / "v1-44.pth").write_bytes(b"not it")
    done = run("import", str(tmp_path / "disk"))
    assert done.exit_code == 2 and done.output.splitlines() == [
        f"took mert_v1_330m/config.json <- {mert / 'config.json'}",
        f"refused {tmp_path / 'disk' / 'v1-44.pth'}: is not the file of vae_44k: begins with b'not it'; expected a "
        "safetensors or torch file",
        f"left {mert / 'readme'}",
        "rlloop: 1 files were refused",
    ]


def hub_file(content: bytes, *, is_large: bool, answer=None):
    """What the Hub answers for a file: HEAD with the content's name, GET with the content."""
    name = hashlib.sha256(content).hexdigest() if is_large else ""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def reply(request):
        if request.command == "HEAD":
            linked = {"X_Linked_Etag": f'"{name}"', "X_Linked_Size": str(len(content))} if is_large else {}
            request.reply(200, X_Repo_Commit="c" * 40, ETag=f'"{git}"', Content_Length=str(len(content)), **linked)
        else:
            (answer or ranged(content))(request)

    return reply


def test_the_hub(home, tmp_path):
    """In one process: a file that is cut and resumed, small ones, a gated repository, a missing file, a changed one."""
    weights = os.urandom(300_000)
    files = {f.name: f.sources[0] for e in ("mert_v1_330m", "tunejury") for f in catalogue()[e].files}
    path = {name: f"/{source.repo}/resolve/{source.revision}/{name}" for name, source in files.items()}
    roberta, clap = catalogue()["roberta_base"].files[0].sources[0], catalogue()["clap_scoring"].files[0].sources[0]
    gated = f"/{roberta.repo}/resolve/{roberta.revision}/{roberta.path}"
    with serving() as web:
        cut = in_turn(ranged(weights, cut=200_000), ranged(weights))
        web.answers = {
            path["pytorch_model.bin"]: hub_file(weights, is_large=True, answer=cut),
            path["config.json"]: hub_file(b"{}", is_large=False),
            path["preprocessor_config.json"]: hub_file(b'{"do_normalize": true}', is_large=False),
            gated: lambda request: request.reply(403, X_Error_Code="GatedRepo", X_Error_Message="no"),
            path["tunejury.pt"]: lambda request: request.reply(404, X_Error_Code="EntryNotFound"),
            f"/{clap.repo}/resolve/{clap.revision}/{clap.path}": hub_file(weights, is_large=True),
        }
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))},
            "HF_ENDPOINT": web.address, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path), "RLLOOP_WEIGHTS": str(home),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "rlloop.commands.main", "weights", "fetch"]
            + ["mert_v1_330m", "roberta_base", "tunejury", "clap_scoring"],
            env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stdout == f"mert_v1_330m: 3 files fetched: {home / 'mert_v1_330m'}\n"
    lines = done.stderr.splitlines()
    assert len(lines) == 4 and "roberta-base" in lines[0] and "is gated, and your token has no access" in lines[0]
    assert "tunejury.pt: there is no such file (404 Not Found)" in lines[1]
    assert "the Hub states sha256:" in lines[2] and "it was changed since" in lines[2]
    assert lines[3] == "rlloop: 3 of 4 were not fetched: roberta_base, tunejury, clap_scoring"
    assert (home / "mert_v1_330m" / "pytorch_model.bin").read_bytes() == weights
    start = 200_000 // 65_536 * 65_536
    assert f"GET {path['pytorch_model.bin']} bytes={start}-" in web.requests
    record = json.loads((home / "mert_v1_330m" / "lock.json").read_text())["files"]
    assert record["pytorch_model.bin"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert {value["checked"] for value in record.values()} == {"server"}
    everything = "".join(file.read_text() for file in home.rglob("*.json")) + done.stdout + done.stderr
    assert f"Bearer {TOKEN}" in web.tokens and TOKEN not in everything
