"""Files of strangers: what is read, what is refused and in which words. Nothing of a pickle ever runs."""

import argparse
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rlloop.models.text import PromptFeatures, read_table
from rlloop.rewards.mini import load_alignment, mini_rewards
from rlloop.weights import check_tensors, read_checkpoint
from rlloop.weights.reading import read_metadata

STATE = {"a": torch.arange(3.0), "nested": {"b": torch.ones(2, dtype=torch.float16), "step": 7}}


class Evil:
    """A pickle that would touch a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("is_zip", [True, False])
def test_torch_files_new_and_old(tmp_path, is_zip):
    torch.save(STATE, tmp_path / "w.pt", _use_new_zipfile_serialization=is_zip)
    found = read_checkpoint(tmp_path / "w.pt")
    assert torch.equal(found["a"], STATE["a"]) and found["nested"]["step"] == 7
    assert found["nested"]["b"].dtype == torch.float16 and found["a"].device.type == "cpu"


def test_safetensors_whatever_it_is_called(tmp_path):
    save_file({"a": STATE["a"]}, tmp_path / "w.pt", metadata={"made": "here"})
    assert torch.equal(read_checkpoint(tmp_path / "w.pt")["a"], STATE["a"])
    assert read_metadata(tmp_path / "w.pt") == {"made": "here"}


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_that_wants_more_is_refused_by_name_and_does_not_run(tmp_path, is_zip):
    torch.save({"a": Evil(tmp_path / "touched")}, tmp_path / "w.pt", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match="w.pt is refused: its pickle wants (io|_io).open, and only tensors") as error:
        read_checkpoint(tmp_path / "w.pt")
    assert not (tmp_path / "touched").exists() and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (argparse.Namespace(lr=1.0), "argparse.Namespace"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (np.arange(3), r"numpy.*_reconstruct"),
    ],
)
def test_objects_are_refused_by_name(tmp_path, value, wanted):
    torch.save({"a": value}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=f"wants {wanted}, and only tensors"):
        read_checkpoint(tmp_path / "w.pt")


def test_numpy_numbers_are_data(tmp_path):
    values = {"lr": np.float64(1e-4), "step": np.int64(5), "half": np.float32(0.5), "done": np.bool_(True)}
    torch.save(values, tmp_path / "w.pt")
    assert read_checkpoint(tmp_path / "w.pt") == {"lr": 1e-4, "step": 5, "half": 0.5, "done": True}
    torch.save({"a": np.array("text")[()]}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="a numpy number of type 'U4' is not read"):
        read_checkpoint(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n <!DOCTYPE html><html>", "looks like a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "is a git-lfs pointer"),
        (bytes(600), "begins with zeros"),
        (b"RIFF....WAVE", "begins with b'RIFF....'"),
        (pickle.dumps({"a": 1}, protocol=4), "begins with"),
        (b"PK\x03\x04 and nothing else", "is truncated or not a torch file"),
    ],
)
def test_what_is_no_checkpoint(tmp_path, content, words):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ValueError, match=f"w.pt {words}") as error:
        read_checkpoint(tmp_path / "w.pt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [100, -64])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files(tmp_path, keep, kind):
    path = tmp_path / "w"
    if kind == "safetensors":
        save_file({"a": torch.zeros(100), "b": torch.zeros(100)}, path)
    else:
        torch.save({"a": torch.zeros(200)}, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="is truncated or not a torch file|not a readable safetensors") as error:
        read_checkpoint(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_missing_and_other_containers(tmp_path):
    with pytest.raises(ValueError, match="none.pt is missing"):
        read_checkpoint(tmp_path / "none.pt")
    torch.save([torch.zeros(1)], tmp_path / "w.pt")
    with pytest.raises(ValueError, match="holds a list, expected a dict"):
        read_checkpoint(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"a": torch.zeros(2)}, "b is missing, shape .4,. is expected"),
        ({"a": torch.zeros(3), "b": torch.zeros(4)}, r"a has shape \(3,\), expected \(2,\)"),
        ({"a": torch.zeros(2), "b": torch.zeros(4), "c": torch.zeros(1)}, "c of shape .1,. is not a tensor of"),
        ({"a": torch.zeros(2), "b": torch.tensor([0, torch.inf, 0, 0])}, "b holds values that are not finite"),
        ({"a": torch.zeros(2), "b": 4}, "b is a int, expected a tensor"),
    ],
)
def test_check_tensors_names_file_and_first_key(tmp_path, found, message):
    with pytest.raises(ValueError, match=f"w.pt: {message}"):
        check_tensors(tmp_path / "w.pt", found, {"a": (2,), "b": torch.zeros(4)})


def test_the_mini_stack_says_the_same(tmp_path):
    with pytest.raises(ValueError, match="text.safetensors is missing"):
        PromptFeatures(assets=tmp_path)
    save_file({"text": torch.zeros(1)}, tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match="text.safetensors: text_c is missing"):
        read_table(tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match="musicnn_mtt.safetensors is missing"):
        mini_rewards(["tunejury_mini"], lambda prompts: {}, tmp_path)
    save_file({"audio": torch.zeros(1, 2, 3), "text": torch.zeros(1, 2, 3)}, tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match="head.safetensors: audio_bias is missing"):
        load_alignment(tmp_path / "head.safetensors")
    save_file({"audio": torch.zeros(1)}, tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match="head.safetensors is no alignment head"):
        load_alignment(tmp_path / "head.safetensors")
