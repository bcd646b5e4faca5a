"""Fetching an entry: checked before it has its name, recorded, locked; and what `resolve` and `verify` make of it."""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest
import torch

from rlloop.weights.catalogue import Entry, File, Hub, Url, catalogue, resolve
from rlloop.weights.download import Network
from rlloop.weights.fetching import expected_checksums, fetch, require_space
from rlloop.weights.hub import gated, stated
from rlloop.weights.records import digests, only_one, partial, read_records, state
from rlloop.weights.verifying import verify
from tests.unit.web import AMPLE_S, in_turn, ranged, serving

CONTENT = b"weights, say" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ONCE = Network(connect_s=AMPLE_S, read_s=AMPLE_S, tries=1, backoff_s=0.0)


@pytest.fixture
def web():
    with serving() as web:
        web.answers["/w.pth"] = ranged(CONTENT)
        yield web


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RLLOOP_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def entry_of(web, *checksums, paths=("/w.pth",), **more) -> Entry:
    file = File("w.pth", tuple(Url(web.address + path) for path in paths), checksums=checksums, **more)
    return Entry("toy", "a test", "none", (file,), main="w.pth")


def test_a_checked_file_is_in_place_with_its_record(web, home):
    entry = entry_of(web, f"sha256:{SHA256}", f"md5:{hashlib.md5(CONTENT).hexdigest()}")
    assert fetch(entry, ONCE) == 1 and (home / "toy" / "w.pth").read_bytes() == CONTENT
    record = read_records(entry)["w.pth"]
    assert (record.sha256, record.checked, record.etag) == (SHA256, "catalogue", '"one"')
    assert record.source == f"{web.address}/w.pth" and state(entry, entry.files[0], read_records(entry)) == "verified"
    assert fetch(entry, ONCE) == 0 and len(web.requests) == 1
    assert list((home / "toy" / ".partial").iterdir()) == []


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_checksum_never_gets_the_name(web, home, kind):
    entry = entry_of(web, f"{kind}:{'0' * 64}")
    found = digests_of(kind)
    with pytest.raises(ValueError, match=f"{kind} is {found}, expected 0000.*removed; fetch again, and if") as error:
        fetch(entry, ONCE)
    assert "\n" not in str(error.value) and state(entry, entry.files[0], {}) == "absent"


def digests_of(kind: str) -> str:
    return hashlib.new(kind, CONTENT).hexdigest()


def test_a_cut_download_is_kept_and_goes_on(web, home):
    web.answers["/w.pth"] = in_turn(
        lambda request: request.reply(200, CONTENT[:0], Content_Length=str(len(CONTENT))), ranged(CONTENT)
    )
    entry = entry_of(web, f"sha256:{SHA256}")
    with pytest.raises(ValueError, match="weights toy: .*1 times in a row"):
        fetch(entry, ONCE)
    assert state(entry, entry.files[0], {}) == "partial" and not entry.path.exists()
    fetch(entry, ONCE)
    assert entry.path.read_bytes() == CONTENT


def test_the_next_source_is_asked_where_one_has_not_the_file(web):
    fetch(entry_of(web, f"sha256:{SHA256}", paths=("/gone", "/w.pth")), ONCE)
    with pytest.raises(ValueError, match=r"/gone: .*404.*; then .*/also: there is no such file"):
        fetch(replace(entry_of(web, paths=("/gone", "/also")), name="other"), ONCE)


def test_without_a_known_checksum_the_first_one_is_trusted_and_kept_to(web, home):
    entry = entry_of(web)
    fetch(entry, ONCE)
    assert read_records(entry)["w.pth"].checked == "first use"
    entry.path.unlink()
    web.answers["/w.pth"] = ranged(CONTENT + b"!", '"two"')
    with pytest.raises(ValueError, match=r"sha256 is .*\(by the record\).*remove .*lock.json if you trust"):
        fetch(entry, ONCE)
    (home / "toy" / "lock.json").unlink()
    fetch(entry, ONCE)


def test_a_file_put_there_by_hand_is_checked_not_fetched(web, home):
    entry = entry_of(web, f"sha256:{SHA256}")
    (home / "toy").mkdir(parents=True)
    entry.path.write_bytes(CONTENT)
    assert state(entry, entry.files[0], {}) == "present" and fetch(entry, ONCE) == 0 and web.requests == []
    entry.path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="w.pth is not the published file: sha256 is .*; remove it and fetch again"):
        fetch(entry, ONCE)


def test_offline_says_how_to_do_without(web):
    with pytest.raises(ValueError, match="weights toy: HF_HUB_OFFLINE is set.*`rlloop weights import FOLDER`"):
        fetch(entry_of(web), Network(is_offline=True))
    assert web.requests == []


def test_two_at_once_are_kept_apart(web):
    with only_one(entry_of(web)), pytest.raises(ValueError, match="weights toy: another rlloop is at them"):
        fetch(entry_of(web), ONCE)


def test_a_full_disk_is_seen_before_anything_is_fetched(web, home):
    entry = entry_of(web, about_bytes=10**18)
    with pytest.raises(ValueError, match=r"toy need 1000000000.00 GB more, .* has .* GB free"):
        fetch(entry, ONCE)
    assert web.requests == []
    part = partial(entry, entry.files[0])
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    require_space(entry_of(web, about_bytes=len(CONTENT)), list(entry_of(web, about_bytes=len(CONTENT)).files))


def test_a_folder_that_cannot_be_made(web, home):
    home.write_text("a file where a folder should be")
    with pytest.raises(ValueError, match="RLLOOP_WEIGHTS names another folder"):
        fetch(entry_of(web), ONCE)


def test_a_damaged_record_is_named(web, home):
    (home / "toy").mkdir(parents=True)
    (home / "toy" / "lock.json").write_text('{"files": {"w.pth": {"sha256": 1}}}')
    with pytest.raises(ValueError, match="lock.json is damaged .*; remove it"):
        fetch(entry_of(web), ONCE)


def test_resolve(web, home, tmp_path):
    assert resolve(str(tmp_path)) == tmp_path
    with pytest.raises(ValueError, match="nowhere is neither an existing path nor a known name; known are flux"):
        resolve("nowhere")
    with pytest.raises(ValueError, match="v1-44.pth is missing; `rlloop weights fetch vae_44k`, or .* import FOLDER`"):
        resolve("vae_44k")
    for name, file in (("vae_44k", "v1-44.pth"), ("roberta_base", "tokenizer.json"), ("roberta_base", "vocab.json")):
        (home / name).mkdir(parents=True, exist_ok=True)
        (home / name / file).write_bytes(b"x")
    assert resolve("vae_44k") == home / "vae_44k" / "v1-44.pth"
    with pytest.raises(ValueError, match="merges.txt is missing"):
        resolve("roberta_base")
    (home / "roberta_base" / "merges.txt").write_bytes(b"x")
    assert resolve("roberta_base") == home / "roberta_base"


def test_the_catalogue_is_well_formed():
    for name, entry in catalogue().items():
        names = [file.name for file in entry.files]
        assert entry.licence and entry.purpose and len(set(names)) == len(names), name
        assert entry.main in ["", *names] and (entry.main or len(entry.files) > 1), name
        for file in entry.files:
            assert bool(file.content) != bool(file.sources) and (file.size or file.content), file
            lengths = {"sha256": 64, "md5": 32}
            assert all(len(c.split(":")[1]) == lengths[c.split(":")[0]] for c in file.checksums), file
            assert all(len(s.revision) == 40 or s.revision == "main" for s in file.sources if isinstance(s, Hub)), file
    published = {f.name: f for e in catalogue().values() for f in e.files}
    assert published["gclef_crpoA_fluxaudio_s.pt"].checksums[0].endswith("7461e5e15f2")
    assert "md5:fab020275fa44c6589820ce025191600" in published["v1-44.pth"].checksums
    assert "md5:0524e60900e5ee3c4046e599f613b466" in published["tunejury.pt"].checksums


def test_the_names_of_demucs_files_carry_their_checksums():
    for file in catalogue()["demucs_mdx_extra"].files[:4]:
        assert file.checksums[0].removeprefix("sha256:").startswith(file.name[9:17])


def test_git_checksum_is_that_of_git(tmp_path):
    (tmp_path / "f").write_bytes(b"hello\n")
    assert digests(tmp_path / "f", {"git"}) == {"git": "git:ce013625030ba8dba906f756967f9e9ca394464a"}
    assert stated("ce013625030ba8dba906f756967f9e9ca394464a").startswith("git:")
    assert stated(SHA256) == f"sha256:{SHA256}" and stated("5-multipart") == ""


def test_who_says_what_a_file_must_be(web):
    entry, known = entry_of(web), entry_of(web, "md5:aa")
    assert expected_checksums(known, known.files[0], "sha256:bb") == (("md5:aa",), "catalogue")
    assert expected_checksums(entry, entry.files[0], "sha256:bb") == (("sha256:bb",), "server")
    assert expected_checksums(entry, entry.files[0], "") == ((), "first use")


def test_gated_repositories_say_what_to_do():
    source = Hub("some/one", "f")
    assert "accept the conditions at https://huggingface.co/some/one, then set HF_TOKEN" in gated(source, False)
    assert "your token has no access" in gated(source, True)


def test_verify_reads_the_checksum_and_looks_inside(web, home, tmp_path):
    torch.save({"state_dict": {"module.a": torch.zeros(2, 3)}, "epoch": 1}, tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    web.answers["/w.pth"] = ranged(content)
    more = {"inside": "state_dict", "holds": {"module.a|a": (2, 3)}}
    entry = entry_of(web, f"sha256:{hashlib.sha256(content).hexdigest()}", **more)
    assert verify(entry) == {"w.pth": "not here"}
    fetch(entry, ONCE)
    assert verify(entry) == {"w.pth": "ok"}
    assert verify(entry_of(web, "sha256:00", **more))["w.pth"].startswith("sha256 is ")
    other = entry_of(web, **{**more, "holds": {"module.a|a": (3, 3)}})
    assert verify(other) == {"w.pth": "module.a has shape (2, 3), expected (3, 3)"}
    other = entry_of(web, **{**more, "holds": {"b": (3,)}})
    assert verify(other) == {"w.pth": "b is missing; it holds module.a ..."}
    entry.path.write_bytes(content[:-100])
    assert verify(entry)["w.pth"].startswith("is truncated or not a torch file")
    entry.path.write_text("<!DOCTYPE html><title>Sign in</title>")
    assert verify(entry)["w.pth"].startswith("looks like a web page")


def test_verify_records_what_it_found(web, home):
    entry = entry_of(web)
    fetch(entry, ONCE)
    shutil.copy(entry.path, home / "copy")
    (home / "copy").replace(entry.path)  # another time of change
    assert state(entry, entry.files[0], read_records(entry)) == "present"
    assert verify(entry) == {"w.pth": "ok"} and state(entry, entry.files[0], read_records(entry)) == "verified"
    assert json.loads((home / "toy" / "lock.json").read_text())["files"]["w.pth"]["source"] == f"{web.address}/w.pth"
