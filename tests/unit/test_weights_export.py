"""What is trained here, written in the published layout: round trips, names of the original, and refusals."""

import json

import pytest
import torch
from typer.testing import CliRunner

from rlloop.commands.main import app
from rlloop.config import Config
from rlloop.loop import checkpoints
from rlloop.models.fluxaudio import FluxAudio, FluxAudioSpec
from rlloop.models.policy import MINI
from rlloop.recipes.export_weights import export
from rlloop.recipes.sampler import network_arrays
from rlloop.weights import read_checkpoint
from tests.golden.cases import fill

SPEC = FluxAudioSpec(
    num_heads=2, head_dim=8, depth=3, fused_depth=1, latent_dim=20, latent_seq_len=312, text_dim=6, text_c_dim=5,
    text_seq_len=7, io_kernel=3, score_variant="v2", score_null="zeros",
)  # fmt: skip
THEIRS = {
    f"score_embed.mlp.{layer}.{kind}": f"score_proj.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
}


def write_run(run, network, config: Config | None = None, version: int = 3):
    """A run with one marked checkpoint."""
    arrays, folder = network_arrays(network), checkpoints.folder(run, version)
    checkpoints.write_arrays(folder / checkpoints.WEIGHTS, arrays)
    checkpoints.write_marker(
        folder, version=version, step=0, stage=0, digest="abc", world_size=1,
        weights_checksum=checkpoints.arrays_checksum(arrays),
    )  # fmt: skip
    if config:
        (run / "config.json").write_text(config.model_dump_json())
    return folder


@pytest.fixture(scope="module")
def network() -> FluxAudio:
    return fill(FluxAudio(SPEC))


def test_a_checkpoint_keeps_every_bit(network, tmp_path):
    folder = write_run(tmp_path / "run", network)
    lines = export(folder, tmp_path / "out" / "trained.pt")
    found, state = read_checkpoint(tmp_path / "out" / "trained.pt"), network.state_dict()
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)
    assert lines[0].startswith(f"{tmp_path / 'out' / 'trained.pt'}: {len(state)} tensors")
    details = json.loads((tmp_path / "out" / "trained.json").read_text())
    assert details["version"] == 3 and details["config_digest"] == "abc" and details["network"]["num_heads"] == 2
    assert details["num_values"] == sum(value.numel() for value in state.values())


def test_the_original_lends_names_and_shapes(network, tmp_path):
    state = {THEIRS.get(key, key): value.clone() for key, value in network.state_dict().items()}
    state["empty_string_feat"] = state["empty_string_feat"][None]
    torch.save(state, tmp_path / "original.pt")
    with torch.no_grad():
        network.final_layer.conv.bias.add_(1.0)
    folder = write_run(tmp_path / "run", network)
    export(folder, tmp_path / "trained.pt", like=str(tmp_path / "original.pt"))
    found = read_checkpoint(tmp_path / "trained.pt")
    assert found.keys() == state.keys() and found["empty_string_feat"].shape == (1, 7, 6)
    assert torch.equal(found["final_layer.conv.bias"], state["final_layer.conv.bias"] + 1.0)
    assert torch.equal(found["score_proj.0.weight"], state["score_proj.0.weight"])


def test_the_run_says_what_it_began_with(network, tmp_path):
    torch.save({THEIRS.get(k, k): v for k, v in network.state_dict().items()}, tmp_path / "original.pt")
    options = {"network": str(tmp_path / "original.pt"), "variant": "v1"}
    config = Config(generator={"target": "fluxaudio", "options": options})
    write_run(tmp_path / "run", network, config)
    write_run(tmp_path / "run", network, version=2)
    export(tmp_path / "run", tmp_path / "trained.pt")
    details = json.loads((tmp_path / "trained.json").read_text())
    assert details["version"] == 3 and details["network"]["score_variant"] == "v1"
    assert details["names_of"] == str(tmp_path / "original.pt") and details["sampling"]["num_steps"] == 12
    assert "score_proj.0.weight" in read_checkpoint(tmp_path / "trained.pt")
    (tmp_path / "original.pt").unlink()
    with pytest.raises(ValueError, match="original.pt is neither an existing path .*; or --like PATH, or --like ours"):
        export(tmp_path / "run", tmp_path / "again.pt")


def test_a_run_is_exported_at_its_result(network, tmp_path):
    run = tmp_path / "run"
    for version in (1, 2, 3):
        write_run(run, network, version=version)

    def exported(name: str, **summary) -> int:
        (run / "summary.json").write_text(json.dumps(summary))
        lines = export(run, tmp_path / f"{name}.pt")
        version = json.loads((tmp_path / f"{name}.json").read_text())["version"]
        assert f"v{version:06d}-s000000" in lines[-1]
        return version

    assert exported("rolled_back", policy_versions=3, result_version=1) == 1
    assert exported("ended", policy_versions=3, result_version=3) == 3
    assert exported("went_on_since", policy_versions=2, result_version=1) == 3
    export(checkpoints.folder(run, 2), tmp_path / "given.pt")
    assert json.loads((tmp_path / "given.json").read_text())["version"] == 2
    for found, message in (
        ({"policy_versions": 3, "result_version": 0}, r"the result is version 0, its checkpoint is gone; .*1, 2, 3"),
        ({}, r"is no readable summary \(KeyError: 'policy_versions'\); name one of its checkpoints"),
    ):
        (run / "summary.json").write_text(json.dumps(found))
        with pytest.raises(ValueError, match=message):
            export(run, tmp_path / "none.pt")


def test_the_mini_network_is_exported_too(tmp_path):
    write_run(tmp_path / "run", fill(FluxAudio(MINI.network)), Config())
    done = CliRunner().invoke(app, ["weights", "export", str(tmp_path / "run"), str(tmp_path / "mini.pt")])
    assert done.exit_code == 0, done.output
    assert "named as in ours" in done.output and len(read_checkpoint(tmp_path / "mini.pt")) > 100


def test_what_cannot_be_exported(network, tmp_path):
    folder = write_run(tmp_path / "run", network)
    (tmp_path / "there.pt").write_text("")
    with pytest.raises(ValueError, match="there.pt is there already"):
        export(folder, tmp_path / "there.pt")
    with pytest.raises(ValueError, match="nothing is neither an existing path nor a known name"):
        export(tmp_path / "nothing", tmp_path / "out.pt")
    other = FluxAudio(FluxAudioSpec(**{**SPEC.__dict__, "num_heads": 3}))
    torch.save(fill(other).state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match="other.pt has num_heads 3, the checkpoint 2; give --like the one"):
        export(folder, tmp_path / "out.pt", like=str(tmp_path / "other.pt"))
    (folder / checkpoints.MARKER).unlink()
    with pytest.raises(ValueError, match="has no marker.json: it was never completed"):
        export(folder, tmp_path / "out.pt")
    with pytest.raises(ValueError, match="holds no complete checkpoint of a version"):
        export(tmp_path / "run", tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()
