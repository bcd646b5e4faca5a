"""The thread that keeps a run's copy: what it says of a store that fails, of a later start, and of the last state."""

from __future__ import annotations

import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest
from pyarrow import fs

from actors import ending
from actors.copier import Copier
from rlloop.recipes.run_copy import RunCopy, open_store

DIGEST = "d" * 64
SOON_S, NEVER_S, LONG_S = 0.01, 3600.0, 20.0


class Script(RunCopy):
    """Before each update, the next of the script's errors is raised; then all goes well, and `is_well` is set."""

    def __init__(self, uri: str, *errors: Exception) -> None:
        super().__init__(uri)
        self.errors, self.is_well = list(errors), threading.Event()

    def update(self, folder, epoch, digest):
        if self.errors:
            raise self.errors.pop(0)
        num_bytes = super().update(folder, epoch, digest)
        self.is_well.set()
        return num_bytes


class Hangs(RunCopy):
    """Nothing comes back from the store before `answers` is set, and then an error."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.asked, self.answers = threading.Event(), threading.Event()

    def update(self, folder, epoch, digest):
        self.asked.set()
        self.answers.wait(LONG_S)
        raise OSError("too late")


@pytest.fixture
def uri(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    return f"file://{tmp_path}/there"


def session(tmp_path, copy_every_s=SOON_S, wait_timeout_s=LONG_S):
    """Start 1 of a run; `notes` holds what was said to who watches it."""
    loop, notes = SimpleNamespace(copy_every_s=copy_every_s, wait_timeout_s=wait_timeout_s), []
    config = SimpleNamespace(loop=loop, digest=lambda: DIGEST)
    return SimpleNamespace(path=tmp_path / "run", epoch=1, config=config, notes=notes, note=notes.append)


def test_a_store_that_fails_is_noted_in_one_line_and_tried_again(tmp_path, uri):
    here, copy = session(tmp_path), Script(uri, OSError("no answer\nfrom  b"), ValueError("is no JSON"))
    copier = Copier(here, copy)
    assert copy.is_well.wait(LONG_S)
    assert here.notes == [f"the copy is older than it should be: {why}" for why in ("no answer from b", "is no JSON")]
    assert copier.problem == "" and copier.finish() == "" and copy.manifest().epoch == 1


def test_a_later_start_elsewhere_ends_the_copying_as_a_problem(tmp_path, uri):
    RunCopy(uri).update(tmp_path / "run", 2, DIGEST)
    here = session(tmp_path)
    copier = Copier(here, RunCopy(uri))
    copier._thread.join(LONG_S)
    assert not copier._thread.is_alive()
    assert copier.problem == f"{uri}: start 2 of this run writes it; this is start 1"
    assert copier.finish() == f"the copy lacks the end of the run: {copier.problem}"
    assert here.notes == [] and RunCopy(uri).manifest().epoch == 2


def test_a_later_start_that_is_met_by_the_last_copy_is_said_as_well(tmp_path, uri):
    copier = Copier(session(tmp_path, NEVER_S), RunCopy(uri))
    RunCopy(uri).update(tmp_path / "run", 2, DIGEST)
    assert "start 2 of this run writes it" in copier.finish() and copier.problem


def test_the_end_of_the_run_is_put_without_waiting_for_the_next_turn(tmp_path, uri):
    copier = Copier(session(tmp_path, NEVER_S), RunCopy(uri))
    (tmp_path / "run" / "summary.json").write_text("{}")
    assert copier.finish() == "" and set(RunCopy(uri).manifest().files) == {"config.json", "summary.json"}


def test_a_last_copy_that_fails_is_said_at_the_end_and_not_noted(tmp_path, uri):
    here = session(tmp_path, NEVER_S)
    said = Copier(here, Script(uri, OSError("no answer"))).finish()
    assert said == "the copy lacks the end of the run: no answer; repeat the command to copy it"
    assert here.notes == []


@pytest.mark.parametrize("copy_every_s", [SOON_S, NEVER_S])  # the thread hangs, or the last copy itself
def test_a_last_copy_that_takes_too_long_is_said_and_not_waited_for(tmp_path, uri, copy_every_s):
    copy, here = Hangs(uri), session(tmp_path, copy_every_s, wait_timeout_s=0.2)
    copier = Copier(here, copy)
    if copy_every_s == SOON_S:
        assert copy.asked.wait(LONG_S)
    said = copier.finish()
    assert copy.asked.wait(LONG_S)
    assert ending.is_inside_library()  # as would be the end of the process: the driver cuts it off
    copy.answers.set()
    copier._thread.join(LONG_S)
    why = f"the driver waits for {uri} since 0 s"
    assert said == f"the copy lacks the end of the run: {why}; repeat the command to copy it"
    assert here.notes == []  # a note after Ray's end would start Ray


def test_a_run_without_a_copy_has_nothing_to_finish(tmp_path):
    copier = Copier(session(tmp_path), None)
    assert copier.finish() == "" and copier.problem == "" and not copier._thread.is_alive()


def patience(store):
    """For how long Google's client asks; pyarrow shows it in what it pickles."""
    return store.__reduce__()[1][0]["retry_time_limit"]


@pytest.mark.parametrize("uri", ["gs://b/x", "gs://b/x?scheme=https", "gcs://b/x"])
def test_a_bucket_of_google_s_is_opened_without_a_word_to_it(uri):
    store, root = open_store(uri)
    assert isinstance(store, fs.GcsFileSystem) and root == "b/x"
    assert patience(store) == timedelta(seconds=60)  # by default 15 minutes, in which nothing is said


def test_how_long_google_is_asked_is_the_user_s_to_say():
    assert patience(open_store("gs://b/x?retry_limit_seconds=7")[0]) == timedelta(seconds=7)
