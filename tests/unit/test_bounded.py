"""A long run in the buffer: memory, files and restarts follow what is at work, not what was done. No Ray is started."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from actors import startup
from actors.buffer import Buffer
from actors.outcome import Signals, decide
from actors.session import Session
from rlloop.commands.ledger import lines
from rlloop.config import load
from rlloop.data.rollouts import ScoredTicket, rollout_path
from rlloop.loop import gate
from rlloop.loop.journal import Journal
from rlloop.loop.ledger import FINAL, Ledger
from rlloop.loop.plan import Plan
from rlloop.loop.snapshot import Storage
from rlloop.recipes.disk import checkpoint_bytes
from rlloop.recipes.run_state import RunState, first_read_cohort
from tests.ray.runs import FAKE, REPOSITORY

SMALL = ("loop.max_staleness=0", "stages.0.tickets=2", "trainer.keep_checkpoints=2", "limits.journal_tail=4KiB")


def begin(run_dir, *overrides):
    run_dir.mkdir(exist_ok=True)
    startup.store_config(run_dir, load(FAKE, [*SMALL, *overrides]))
    return Buffer(Session(str(run_dir), startup.take_epoch(run_dir)))


def restart(buffer):
    buffer._lock.close()
    return Buffer(buffer.session)


def scored(ticket, version):
    scores = [{"Loudness": ticket + c / 10} for c in range(4)]
    return ScoredTicket(ticket, version, "a prompt", list(range(4)), np.zeros((4, 8, 4), np.float16), scores, [{}] * 4)


def generation(buffer, segment):
    """Leases, commits and publishes one generation; of its two tickets the second is selected, the first dropped."""
    k = buffer.ledger.version
    for slot in buffer.ledger.plan.generations[k].tickets:
        granted = buffer.next_tickets(segment, slot)
        assert isinstance(granted, gate.Grant), granted
        assert buffer.started([granted.tickets[0]], "sampler-1")[0] == ["go"]
        assert buffer.commit(scored(granted.tickets[0], granted.version))
    assert buffer.selection(k)[0] == "rows"
    buffer.published(k + 1)


def on_disk(buffer):
    return sorted(int(path.stem) for path in (buffer.session.path / "rollouts").glob("*/*.parquet"))


def test_memory_and_files_of_a_long_run_are_those_of_its_last_generations(tmp_path):
    buffer = begin(tmp_path / "run", "stages.0.generations=40")
    segment, sizes = buffer.begin_segment(), []
    for _ in range(40):
        generation(buffer, segment)
        ledger = buffer.ledger
        sizes.append((len(ledger.tickets.known), len(ledger.selections), len(on_disk(buffer)), len(ledger.held)))
    assert len(set(sizes[5:])) == 1, sizes
    # The newest cohort whole (two tickets), and the selected one of each of the two generations that a restart reads
    # before it: version 40 falls back to 38, whose phases read no earlier selection but perhaps that of 37.
    assert on_disk(buffer) == [75, 77, 78, 79]
    assert buffer.files.num_bytes == sum(rollout_path(buffer.session.path, n).stat().st_size for n in on_disk(buffer))
    assert buffer.report(0)["rollout_bytes"] == buffer.files.num_bytes
    assert all(ticket.state in FINAL for ticket in buffer.ledger.tickets)


def test_a_restart_reads_one_part_and_knows_the_same(tmp_path):
    buffer = begin(tmp_path / "run", "stages.0.generations=30")
    segment = buffer.begin_segment()
    for _ in range(30):
        generation(buffer, segment)
    again = restart(buffer)
    parts = list((tmp_path / "run" / "journal" / "archive").iterdir())
    assert len(parts) >= 3 and again.journal.num_bytes < 3 * 4096
    assert again.ledger.lowest_open() == buffer.ledger.lowest_open() == []  # it moves a cursor
    assert again.state.dump() == buffer.state.dump()
    assert on_disk(again) == on_disk(buffer) and again.files.num_bytes == buffer.files.num_bytes
    full = Ledger(buffer.session.plan)  # the archive has everything
    for record, when in Journal(buffer.journal.path).read():
        full.apply(record, when)
    assert [t.state for t in full.tickets] == [t.state for t in again.ledger.tickets]
    assert all(len(ticket.rollouts) == 4 and ticket.times["buffered"] for ticket in full.tickets)
    printed = [json.loads(line) for line in lines(tmp_path / "run")]
    assert len(printed) == 60 and all({"leased", "buffered"} < ticket["times"].keys() for ticket in printed)
    shown = again.report(0)["cohorts"]
    assert [c.generation for c in shown] == list(range(30)) and shown == buffer.report(0)["cohorts"]


def work_and_tell(session, pipe):
    """A process of its own: generation after generation, telling each one that was acknowledged, until it is killed."""
    buffer = Buffer(session)
    segment, slots = buffer.begin_segment(), count()
    while True:
        k = buffer.ledger.version
        while buffer.selection(k)[0] == "wait":  # the killed one may have left the generation half done
            granted = buffer.next_tickets(segment, next(slots))
            assert buffer.commit(scored(granted.tickets[0], granted.version))
        buffer.published(k + 1)
        os.write(pipe, f"{k + 1}\n".encode())


def test_a_kill_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path):
    """With a snapshot every few generations, so that many kills fall between the steps of a compaction."""
    buffer = begin(tmp_path / "run", "stages.0.generations=5000", "limits.journal_tail=2KiB")
    session, moments, told = buffer.session, random.Random(0), 0
    buffer._lock.close()
    for _ in range(8):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                work_and_tell(session, writing)
            finally:
                os._exit(1)
        os.close(writing)
        lines_told = b""
        for _ in range(moments.randint(2, 8)):
            lines_told += os.read(reading, 4096)
        time.sleep(moments.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(reading, 4096):
            lines_told += more
        os.close(reading)
        told = int(lines_told.split(b"\n")[-2])
        again = Buffer(session)  # which also makes a selection that the kill left out
        again._lock.close()
        full = Ledger(session.plan)
        for record, when in Journal(session.path / "journal" / "journal.log").read():
            full.apply(record, when)  # asserts what a ledger forbids
        assert full.version >= told
        assert again.ledger.version == full.version and again.ledger.counts == full.counts
        assert [t.state for t in again.ledger.tickets] == [t.state for t in full.tickets]
    assert len(list((session.path / "journal" / "archive").iterdir())) > 2


def test_figures_are_kept_of_the_first_cohort_and_of_the_newest(tmp_path, monkeypatch):
    monkeypatch.setattr("rlloop.recipes.run_state.KEPT_COHORTS", 4)
    buffer = begin(tmp_path / "run", "stages.0.generations=7")
    segment = buffer.begin_segment()
    for _ in range(7):
        generation(buffer, segment)
    assert [c.generation for c in buffer.report(0)["cohorts"]] == [0, 4, 5, 6]


def test_files_that_a_later_stage_reads_stay_and_go_when_it_is_done(tmp_path):
    """Stage b trains on the last selection of a; afterwards c does not."""
    stage = "{name: NAME, tickets: 2, generations: COUNT, label_score: Loudness, phases: [{sources: {SOURCE: 1.0}}],"
    stage += " selection: {top_fraction: 0.25, min_examples: 2, rank_by: {Loudness: 1.0}}}"
    named = (("a", "2", "current"), ("b", "5", "stage:a"), ("c", "5", "current"))
    stages = [stage.replace("NAME", n).replace("COUNT", c).replace("SOURCE", s) for n, c, s in named]
    buffer = begin(tmp_path / "run", f"stages=[{', '.join(stages)}]")
    segment = buffer.begin_segment()
    for _ in range(6):
        generation(buffer, segment)
    assert 3 in on_disk(buffer) and 1 in buffer.ledger.selections and buffer.selection(1)[0] == "rows"
    assert 1 not in on_disk(buffer)
    for _ in range(4):
        generation(buffer, segment)
    assert 3 not in on_disk(buffer) and 1 not in buffer.ledger.selections


def test_a_trainer_that_asks_for_a_selection_that_is_gone_ends_the_run_with_a_line(tmp_path):
    buffer = begin(tmp_path / "run", "stages.0.generations=6")
    segment = buffer.begin_segment()
    for _ in range(6):
        generation(buffer, segment)
    assert buffer.selection(4)[0] == "rows"
    kind, why = buffer.selection(1)
    assert kind == "stop" and "the last 2 versions are damaged" in why and buffer.report(0)["fatal"] == why


def test_scores_that_the_window_of_the_threshold_needs_are_kept():
    config = load(FAKE, [*SMALL, "stages.0.generations=9", "stages.0.selection.window=20"])
    state = RunState(config, Plan.from_config(config))
    from rlloop.loop import records as r

    rollouts = tuple(r.RolloutRecord(c, c, {"Loudness": 1.0}) for c in range(4))
    state.fold(r.SegmentBegan(1), 0.0)
    for k in range(6):
        for ticket in (2 * k, 2 * k + 1):
            state.fold(r.Leased(ticket, k, 1, ticket), 0.0)
            state.fold(r.Buffered(ticket, k, rollouts), 0.0)
        state.fold(r.Selected(k, ((2 * k, 0, ""),)), 0.0)
        state.fold(r.Published(k + 1), 0.0)
    # Generation 6 is next: 20 of the 8 a cohort are the three cohorts before it.
    assert first_read_cohort(state.ledger) == 3 == state.ledger.forgotten
    assert state.ledger.tickets[6].rollouts and not state.ledger.tickets[5].rollouts


def test_a_disk_that_fills_ends_the_run_before_it_is_full_and_the_same_command_goes_on(tmp_path):
    buffer = begin(tmp_path / "run", "limits.min_free_disk=1GiB")
    segment = buffer.begin_segment()
    generation(buffer, segment)
    granted = buffer.next_tickets(segment, 2)
    buffer.free_bytes, buffer._disk_seen = lambda path: 2**29, 0.0
    assert isinstance(buffer.next_tickets(segment, 3), gate.End)
    fatal = buffer.report(0)["fatal"]
    assert "512 MiB are free on its disk, limits.min_free_disk keeps 1.0 GiB" in fatal and "\n" not in fatal
    assert buffer.commit(scored(granted.tickets[0], 1)), "what was sampled already is kept"
    assert buffer.selection(1) == ("stop", fatal)
    again = restart(buffer)
    assert again.ledger.tickets[granted.tickets[0]].state == "buffered"
    assert again.next_tickets(segment, 3).tickets[0] == granted.tickets[0] + 1


def test_rollouts_beyond_their_limit_end_the_run_with_both_numbers(tmp_path):
    buffer = begin(tmp_path / "run", "limits.rollouts=5KiB")
    segment = buffer.begin_segment()
    for slot in range(2):
        buffer.commit(scored(buffer.next_tickets(segment, slot).tickets[0], 0))
    assert "rollouts take" in buffer.report(0)["fatal"] and "limits.rollouts is 5 KiB" in buffer.report(0)["fatal"]


FULL = textwrap.dedent(
    """
    import numpy as np, os, pathlib, shutil
    from rlloop.loop import checkpoints
    from tests.unit.test_bounded import begin, generation, restart, scored
    here = pathlib.Path(os.environ["MOUNT"])
    buffer = begin(here / "run", "stages.0.generations=400", "limits.min_free_disk=0")
    digest, segment, committed = buffer.config.digest(), buffer.begin_segment(), []

    def checkpoint(version):
        path, arrays = checkpoints.folder(here / "run", version), {"w": np.full(20_000, float(version))}
        checkpoints.write_arrays(path / checkpoints.WEIGHTS, arrays)
        checkpoints.write_marker(path, version=version, step=0, stage=0, digest=digest, world_size=1,
                                 weights_checksum=checkpoints.arrays_checksum(arrays))

    checkpoint(0)
    ballast = here / "ballast"
    ballast.write_bytes(bytes(os.statvfs(here).f_bavail * 4096 - 600 * 1024))
    problem = ""
    try:
        for version in range(1, 400):
            generation(buffer, segment)
            checkpoint(version)
    except Exception as error:
        problem = str(error) or type(error).__name__
    print("PROBLEM", problem, "| FATAL", buffer.fatal)
    done = buffer.ledger.version
    newest = checkpoints.newest(here / "run", digest)[1].version
    print("NEWEST", newest, "PUBLISHED", done)
    assert problem and done - newest in (0, 1)
    assert checkpoints.read_weights(checkpoints.folder(here / "run", newest))["w"][0] == newest
    ballast.unlink()
    again = restart(buffer)
    assert again.ledger.version == done and again.state.dump()["ledger"]["tickets"] is not None
    states = [ticket.state for ticket in buffer.ledger.tickets]
    assert [ticket.state for ticket in again.ledger.tickets] == states
    segment = again.begin_segment()
    for slot in range(2):
        granted = again.next_tickets(segment, slot)
        again.commit(scored(granted.tickets[0], granted.version))
    assert not again.fatal
    print("WENT ON")
    """
)


def test_a_really_full_disk_keeps_the_last_checkpoint_and_goes_on_when_there_is_room(tmp_path):
    """A file system of 3 MiB in a mount namespace of its own, where the machine lets one make it."""
    mount = tmp_path / "small"
    mount.mkdir()
    shell = f"mount -t tmpfs -o size=3m tmpfs {mount} && exec {sys.executable} -c '{FULL}'"
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace here")
    env = {**os.environ, "MOUNT": str(mount), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", shell], capture_output=True, text=True, env=env, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "No space left" in done.stdout and "WENT ON" in done.stdout


def test_what_ray_train_kept_of_earlier_starts_goes(tmp_path):
    (tmp_path / "ray_train" / "epoch000001").mkdir(parents=True)
    (tmp_path / "ray_train" / "epoch000001" / "state").write_text("{}")
    startup.remove_earlier_starts(tmp_path)
    startup.remove_earlier_starts(tmp_path)
    assert not list((tmp_path / "ray_train").iterdir())


@pytest.mark.parametrize(
    ("kind", "limit", "said"),
    [
        ("spilled", "spill", "Ray has"),
        ("journal", "journal", "its journal"),
        ("checkpoints", "checkpoints", "averages"),
    ],
)
def test_what_takes_more_than_its_limit_ends_the_run_with_both_numbers(kind, limit, said):
    def decided(taken: int):
        observer = SimpleNamespace(report={"fatal": "else"}, storage=SimpleNamespace(now=Storage(**{kind: taken})))
        session = SimpleNamespace(config=load(FAKE, [f"limits.{limit}=2GiB"]), run_dir="/runs/a")
        return decide(session, Signals(), SimpleNamespace(is_alive=lambda: True), observer)

    outcome = decided(3 * 2**30)
    assert outcome.exit_status == 1 and said in outcome.reason
    assert "3.0 GiB" in outcome.reason and f"limits.{limit} is 2.0 GiB" in outcome.reason
    assert decided(2**30).reason == "else"


def test_stored_averages_are_measured_with_the_checkpoints(tmp_path):
    for name in ("checkpoints/v000000-s000000/weights", "ema/crpo/sigma"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x" * 100)
    assert checkpoint_bytes(tmp_path) == 200
