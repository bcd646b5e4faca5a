"""Files that came on a disk: which are recognised, which refused, and what is left alone."""

import hashlib

import pytest
from safetensors.torch import save_file
from torch import zeros

from rlloop.weights.catalogue import Entry, File, Hub, Url
from rlloop.weights.importing import import_as, import_folder
from rlloop.weights.records import read_records, state

BIG = bytes(2 << 20)
SMALL = b'{"a": 1}'


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


ONE = Entry("one", "", "", (File("w.pth", (Url("u"),), len(BIG), checksums=(sha256(BIG),)),), main="w.pth")
CONFIG = File("config.json", (Hub("her/Model-X", "config.json"),))
BAG = Entry(
    "bag",
    "",
    "",
    (CONFIG, File("a.th", (Url("u"),), checksums=(sha256(b"a"),)), File("bag.yaml", content="models: [a]\n")),
)
TOLD = Entry("told", "", "", (File("config.json", (Url("u"),), checksums=(sha256(SMALL),)),))
ALL = (ONE, BAG, TOLD)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RLLOOP_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def disk(tmp_path):
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    return tmp_path / "disk"


def test_files_are_found_by_name_size_and_checksum(disk, home):
    (disk / "deep" / "renamed.bin").write_bytes(BIG)
    (disk / "a.th").write_bytes(b"a")
    (disk / "config.json").write_bytes(SMALL)
    (disk / "notes.txt").write_text("hello")
    done = import_folder(disk, ALL)
    assert (home / "one" / "w.pth").read_bytes() == BIG and (home / "told" / "config.json").read_bytes() == SMALL
    assert (home / "bag" / "bag.yaml").read_text() == "models: [a]\n"
    assert done.taken == [
        f"bag/a.th <- {disk / 'a.th'}",
        f"told/config.json <- {disk / 'config.json'}",
        f"one/w.pth <- {disk / 'deep' / 'renamed.bin'}",
    ]
    assert done.left == [disk / "notes.txt"] and not done.refused
    record = read_records(ONE)["w.pth"]
    assert record.source == f"import {disk / 'deep' / 'renamed.bin'}" and record.checked == "catalogue"
    assert state(ONE, ONE.files[0], read_records(ONE)) == "verified"
    again = import_folder(disk, ALL)
    assert again.taken == [] and len(again.had) == 3


@pytest.mark.parametrize("folder", ["bag", "Model-X", "models--her--Model-X/snapshots/0123"])
def test_a_file_without_known_checksum_needs_a_folder_that_names_it(disk, home, folder):
    (disk / "config.json").write_text('{"of": "another"}')
    assert import_folder(disk, [BAG]).taken == []
    (disk / folder).mkdir(parents=True)
    (disk / folder / "config.json").write_text('{"b": 2}')
    assert len(import_folder(disk, [BAG]).taken) == 1
    assert (home / "bag" / "config.json").read_text() == '{"b": 2}'
    assert read_records(BAG)["config.json"].checked == "first use"


def test_a_wrong_checksum_is_refused_and_named(disk, home):
    (disk / "w.pth").write_bytes(BIG[:-1] + b"x")
    done = import_folder(disk, ALL)
    assert done.taken == [] and not (home / "one" / "w.pth").exists()
    assert done.refused[0].startswith(f"{disk / 'w.pth'}: is not the file of one: sha256 is ")
    with pytest.raises(ValueError, match="w.pth is not w.pth of one: sha256 is .*, expected "):
        import_as(ONE, disk / "w.pth")


def test_a_file_is_taken_as_what_it_is_said_to_be(disk, home):
    (disk / "anything").write_bytes(BIG)
    assert import_as(ONE, disk / "anything").taken and (home / "one" / "w.pth").read_bytes() == BIG
    with pytest.raises(ValueError, match="weights bag are a folder of config.json, a.th, bag.yaml"):
        import_as(BAG, disk / "anything")
    (disk / "a.th").write_bytes(b"a")
    (disk / "config.json").write_bytes(SMALL)
    assert len(import_as(BAG, disk).taken) == 2
    with pytest.raises(ValueError, match="deep holds none of config.json, a.th"):
        import_as(BAG, disk / "deep")
    with pytest.raises(ValueError, match="nowhere is missing"):
        import_as(ONE, disk / "nowhere")


def test_links_instead_of_copies(disk, home):
    (disk / "w.pth").write_bytes(BIG)
    import_folder(disk, [ONE], is_linked=True)
    assert (home / "one" / "w.pth").readlink() == disk / "w.pth"
    assert state(ONE, ONE.files[0], read_records(ONE)) == "verified"


def test_what_does_not_open_is_refused(disk, home):
    holds = Entry("h", "", "", (File("h.safetensors", (Hub("x/h", "h"),), holds={"a": (2,)}),), main="h.safetensors")
    (disk / "h").mkdir()
    (disk / "h" / "h.safetensors").write_text("<html>")
    refused = import_folder(disk, [holds]).refused
    assert refused[0].split(": is not the file of h: ")[1].startswith("looks like a web page")
    save_file({"a": zeros(2)}, disk / "h" / "h.safetensors")
    assert import_folder(disk, [holds]).taken


def test_no_folder(disk):
    with pytest.raises(ValueError, match="nowhere is no folder; expected one with published files"):
        import_folder(disk / "nowhere", ALL)
