"""A run's copy: whole at every moment, taken only where it is newer, and nothing of it is believed unchecked."""

import json
import shutil

import pytest

from rlloop.loop import records as r
from rlloop.loop.journal import Journal, take_cut
from rlloop.preflight import working_dir
from rlloop.recipes import run_copy
from rlloop.recipes.fetch_run import fetch_run, local_run
from rlloop.recipes.run_copy import RunCopy, Superseded
from tests.object_store import object_store

DIGEST = "d" * 64


@pytest.fixture
def run(tmp_path):
    """A run's files, among them what must not be copied."""
    folder = tmp_path / "here" / "run"
    for name in ("epochs/000001", "rollouts/00000/00000000.parquet", "checkpoints/v000000-s000000/weights",
                 "checkpoints/v000000-s000000/marker.json", "checkpoints/v000001-s000000/weights", "driver.lock",
                 "ray_train/x", "stacks/buffer", "tensorboard/events", "config.json.tmp",
                 "ema/stage/.tmpA0HrDj"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}'s bytes")
    (folder / "config.json").write_text("{}")
    journal = Journal(folder / "journal" / "journal.log")
    for record in (r.EpochBegan(1), r.SegmentBegan(1), r.Leased(0, 0, 1, 0)):
        journal.append(record)
    return folder


@pytest.fixture
def uri(tmp_path):
    return f"file://{tmp_path}/there/run"


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in run_copy.files_of(folder)}


def test_a_copy_comes_back_as_the_run_without_what_was_of_its_machine(run, uri, tmp_path):
    RunCopy(uri).update(run, 1, DIGEST)
    seen = []
    assert RunCopy(uri).restore(tmp_path / "back", lambda done, total: seen.append((done, total)))
    left_out = {"driver.lock", "ray_train/x", "stacks/buffer", "config.json.tmp", "checkpoints/v000001-s000000/weights"}
    left_out |= {"ema/stage/.tmpA0HrDj"}  # of safetensors, in a process that was killed
    assert tree(tmp_path / "back") == {name: data for name, data in tree(run).items() if name not in left_out}
    assert seen[-1][0] == seen[-1][1] == sum(map(len, tree(tmp_path / "back").values()))


def test_only_what_is_new_is_put_and_what_is_gone_goes(run, uri, tmp_path):
    copy = RunCopy(uri)
    first = copy.update(run, 1, DIGEST)
    assert first > 0 and copy.update(run, 1, DIGEST) == 0
    (run / "rollouts/00000/00000000.parquet").unlink()
    with (run / "tensorboard/events").open("a") as file:
        file.write(", more")
    Journal(run / "journal" / "journal.log").append(r.Published(1))
    size = len(tree(run)["tensorboard/events"]) + len(tree(run)["journal/journal.log"])
    assert RunCopy(uri).update(run, 1, DIGEST) == size  # also by a process that has put nothing yet
    assert len(tree(tmp_path / "there" / "run" / "files")) == len(RunCopy(uri).manifest().files)
    RunCopy(uri).restore(tmp_path / "back", lambda *_: None)
    assert tree(tmp_path / "back")["tensorboard/events"].endswith(b", more")


def test_an_update_that_is_cut_off_leaves_the_state_before(run, uri, tmp_path):
    RunCopy(uri).update(run, 1, DIGEST)
    before = tree(run)
    Journal(run / "journal" / "journal.log").append(r.Published(1))
    (run / "config.json").write_text('{"seed": 2}')

    class Dies(RunCopy):
        def _put(self, path, data):
            if path.endswith("manifest.json"):
                raise OSError("no answer")
            return super()._put(path, data)

    with pytest.raises(OSError, match="no answer"):
        Dies(uri).update(run, 1, DIGEST)
    RunCopy(uri).restore(tmp_path / "back", lambda *_: None)
    found = tree(tmp_path / "back")
    assert all(before[name] == data for name, data in found.items())


def test_files_that_go_while_they_are_copied_make_it_begin_anew(run, uri, tmp_path):
    """A version is published, and its rollouts go: the journal that is copied must know of it."""
    journal = Journal(run / "journal" / "journal.log")
    list(journal.replay())

    class Slow(RunCopy):
        is_first = True

        def _put_file(self, path, name, entry):
            size = super()._put_file(path, name, entry)
            if self.is_first:
                self.is_first = False
                journal.append(r.Published(1))
                (run / "rollouts/00000/00000000.parquet").unlink()
            return size

    Slow(uri).update(run, 1, DIGEST)
    found = RunCopy(uri).manifest().files
    assert "rollouts/00000/00000000.parquet" not in found
    RunCopy(uri).restore(tmp_path / "back", lambda *_: None)
    assert take_cut(tmp_path / "back" / "journal" / "journal.log").state == (1, 1)

    class Restless(RunCopy):
        def _put_all(self, folder, cut, known):
            journal.append(r.Published(1))
            return super()._put_all(folder, cut, known)

    with pytest.raises(TimeoutError, match="faster than they are copied"):
        Restless(uri).update(run, 1, DIGEST)


def test_a_cohort_that_is_selected_meanwhile_makes_it_begin_anew(run, uri):
    """A checkpoint that is copied later may already rest on it; without its record the tickets would be drawn again."""
    journal = Journal(run / "journal" / "journal.log")
    list(journal.replay())
    before = take_cut(journal.path).state
    journal.append(r.Selected(0, ((0, 0, ""),)))
    assert take_cut(journal.path).state != before


def test_a_later_start_elsewhere_takes_the_copy_over(run, uri):
    RunCopy(uri).update(run, 2, DIGEST)
    with pytest.raises(Superseded, match="start 2 of this run writes it; this is start 1"):
        RunCopy(uri).update(run, 1, DIGEST)


def test_a_fetch_goes_on_where_it_was_broken_off_and_overwrites_nothing(run, uri, tmp_path):
    RunCopy(uri).update(run, 1, DIGEST)
    asked = []

    class Counts(RunCopy):
        def _fetch(self, name, entry, target):
            asked.append(name)
            if len(asked) == 3:
                raise OSError("no answer")
            super()._fetch(name, entry, target)

    with pytest.raises(OSError):
        Counts(uri).restore(tmp_path / "back", lambda *_: None)
    assert not (tmp_path / "back").exists()
    assert Counts(uri).restore(tmp_path / "back", lambda *_: None)
    assert len(asked) == len(RunCopy(uri).manifest().files) + 1
    with pytest.raises(ValueError, match="holds files but no run; remove it"):
        RunCopy(uri).restore(tmp_path / "back", lambda *_: None)
    assert not RunCopy(f"{uri}-none").restore(tmp_path / "none", lambda *_: None)


def test_before_a_run_the_copy_is_taken_or_another_is_refused(run, uri, tmp_path, capsys):
    RunCopy(uri).update(run, 1, DIGEST)
    fetch_run(uri, tmp_path / "new", DIGEST)
    assert (tmp_path / "new" / "config.json").exists() and uri in capsys.readouterr().out
    fetch_run(uri, run, DIGEST)  # it is here, and no older
    with pytest.raises(ValueError, match="holds a run with other settings"):
        fetch_run(uri, tmp_path / "other", "e" * 64)
    RunCopy(uri).update(run, 3, DIGEST)
    with pytest.raises(ValueError, match="at start 1 of this run, its copy at .* at start 3"):
        fetch_run(uri, run, DIGEST)
    assert fetch_run(f"{uri}-none", tmp_path / "empty", DIGEST).manifest() is None


def test_a_copy_is_read_like_a_run(run, uri):
    RunCopy(uri).update(run, 1, DIGEST)
    assert (local_run(uri) / "config.json").read_text() == "{}"
    assert local_run(str(run)) == run
    with pytest.raises(ValueError, match="holds no copy of a run"):
        local_run(f"{uri}-none")


def damage(folder, name):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"].pop("config.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda there: (there / "manifest.json").write_text("{"), "is no JSON"),
        (lambda there: (there / "manifest.json").write_text('{"epoch": "x"}'), "epoch"),
        (lambda there: damage(there, "../outside"), "names '../outside' outside the run"),
        (lambda there: damage(there, "other.json"), "other.json is missing from the copy"),
        (lambda there: next((there / "files").glob("config.json@*")).write_text("{ }"), "config.json fails its"),
        (lambda there: shutil.rmtree(there / "files" / "epochs"), "epochs/000001 is missing"),
    ],
)
def test_a_damaged_copy_is_refused(run, uri, tmp_path, spoil, said):
    RunCopy(uri).update(run, 1, DIGEST)
    spoil(tmp_path / "there" / "run")
    with pytest.raises(ValueError, match=said):
        RunCopy(uri).restore(tmp_path / "back", lambda *_: None)
    assert not (tmp_path / "back").exists() and not (tmp_path / "outside").exists()


@pytest.mark.parametrize(
    "uri, said",
    [
        ("ftp://host/run", "known are s3://, gs:// and file://"),
        ("s3://key:word@bucket/run", "has credentials in it"),
        ("s3://bucket/run?secret_key=word", "has credentials in it"),
    ],
)
def test_what_is_no_place_for_a_copy_is_refused(uri, said):
    with pytest.raises(ValueError, match=said):
        RunCopy(uri)


def test_a_run_works_in_a_folder_of_its_name():
    assert working_dir("s3://bucket/runs/seed3", {"RLLOOP_RUNS": "/mnt/runs"}) == "/mnt/runs/seed3"
    cache = {"XDG_CACHE_HOME": "/cache"}
    assert working_dir("s3://bucket/seed3?region=x", {**cache, "RLLOOP_RUNS": "s3://b"}) == "/cache/rlloop/runs/seed3"
    assert working_dir("gs://bucket", cache) == "/cache/rlloop/runs/bucket"


def test_a_copy_in_an_object_store(run, tmp_path, monkeypatch):
    """Over the protocol, with objects larger than a part; nothing is renamed, and no credentials are in the URI."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (run / "rollouts" / "large").write_bytes(bytes(range(256)) * 60_000)  # 15 MB
    with object_store() as (objects, options):
        uri = f"s3://bucket/runs/seed3{options}"
        assert RunCopy(uri).manifest() is None
        RunCopy(uri).update(run, 1, DIGEST)
        assert "bucket/runs/seed3/manifest.json" in objects
        (run / "rollouts" / "large").unlink()
        Journal(run / "journal" / "journal.log").append(r.Published(1))
        RunCopy(uri).update(run, 1, DIGEST)
        assert not any("large" in name for name in objects)
        fetch_run(uri, tmp_path / "back", DIGEST)
    assert tree(tmp_path / "back")["journal/journal.log"] == tree(run)["journal/journal.log"]
    assert tree(tmp_path / "back")["rollouts/00000/00000000.parquet"] == b"rollouts/00000/00000000.parquet's bytes"
