"""What a run that hangs leaves behind: stacks of processes, who waits for whom, and deadlines that end a process."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.deadline import hard_deadline
from actors.jobs.pool import each_within
from actors.outcome import stalled
from actors.watchdog import ring, within
from rlloop.commands.stacks import run as stacks_command
from rlloop.config import build
from rlloop.loop import records as r
from rlloop.loop import stacks
from rlloop.loop.ledger import Ledger
from rlloop.loop.plan import Plan
from rlloop.loop.waits import who_waits
from tests.ray.runs import REPOSITORY

BUSY = """
import sys, threading
from pathlib import Path
from rlloop.loop import stacks
stacks.register(Path(sys.argv[1]), "sampler")

def hang_in_c():
    print("up", flush=True)
    sum(range(10**12))  # one call in C that gives the interpreter's lock to nobody

hang_in_c()
"""


def process(code: str, *args: object) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_process_that_holds_the_lock_shows_its_stack_and_goes_on(tmp_path, capsys):
    hanging = process(BUSY, tmp_path)
    try:
        assert hanging.stdout.readline() == "up\n"
        for _ in range(2):
            ((name, text),) = stacks.dump_here(tmp_path)
            assert name.startswith("sampler-") and text.count("in hang_in_c") == 1, text
        (tmp_path / "config.json").touch()
        stacks_command(tmp_path)
        assert "in hang_in_c" in capsys.readouterr().out
        assert hanging.poll() is None
    finally:
        hanging.kill()
        hanging.wait()
    assert stacks.dump_here(tmp_path) == []
    stacks.remove_ended(tmp_path)
    assert stacks.registered(tmp_path) == []


MAIN = """
import sys, threading, time
from pathlib import Path
from rlloop.loop import stacks

def works():
    threading.Event().wait()

for n in range(3):
    threading.Thread(target=works, name=f"worker {n}", daemon=True).start()
stacks.register_main(Path(sys.argv[1]), "driver")

def waits():
    print("up", flush=True)
    threading.Event().wait()

waits()
"""


def test_the_driver_shows_every_thread_from_within_and_goes_on(tmp_path):
    driver = process(MAIN, tmp_path)
    try:
        assert driver.stdout.readline() == "up\n"
        for _ in range(3):
            ((name, text),) = stacks.dump_here(tmp_path)
            assert name.startswith("driver-") and "in waits" in text and text.count("in works") == 3, text
            assert {f"Thread worker {n} " in text for n in range(3)} == {True}
        assert driver.poll() is None
    finally:
        driver.kill()
        driver.wait()


ENDING = """
import sys, threading
from types import SimpleNamespace
from actors import ending
from actors.copier import Copier
from actors.fit import TrainerThread

class Slow:
    uri = "s3://b/x"
    def update(self, *_):
        threading.Event().wait()

class Trainer(TrainerThread):
    def run(self):
        threading.Event().wait()

if sys.argv[1] == "inside":
    Trainer(None).start()
if sys.argv[1] == "store":
    loop = SimpleNamespace(copy_every_s=60, wait_timeout_s=1)
    config = SimpleNamespace(loop=loop, digest=str)
    print(Copier(SimpleNamespace(path="", epoch=1, config=config), Slow()).finish()[:32], end=" ")
try:
    print("said", end="")
    if ending.is_inside_library():
        ending.end_at_once(7)
finally:
    print(" more", end="")
"""


@pytest.mark.parametrize(
    "where, status, said",
    [("inside", 7, "said"), ("store", 7, "the copy lacks the end of the ru said"), ("outside", 0, "said more")],
)
def test_a_process_with_a_thread_inside_ray_or_a_store_ends_at_once_with_its_status(where, status, said):
    done = subprocess.run(
        [sys.executable, "-c", ENDING, where], cwd=REPOSITORY, capture_output=True, text=True, timeout=50
    )
    assert (done.returncode, done.stdout) == (status, said), done.stderr


RAISING = """
import sys, threading
from actors import driver
from actors.fit import TrainerThread

class Slow:
    uri = "s3://b/x"
    def update(self, *_):
        threading.Event().wait()

class Trainer(TrainerThread):
    def run(self):
        threading.Event().wait()

def _run(config, path, copy):
    Trainer(None).start()
    raise ValueError("points.json: is no JSON")

driver._run, driver.shutdown = _run, lambda: print("Ray is taken down")
driver.run(None, sys.argv[1])
"""


def test_ray_is_not_taken_down_under_a_thread_inside_it_when_the_driver_raises_either(tmp_path):
    command = [sys.executable, "-c", RAISING, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    assert "rlloop: points.json: is no JSON" in done.stderr.splitlines()


def test_a_process_that_got_the_same_id_later_is_not_signalled(tmp_path):
    other = process("import time; print('up', flush=True); time.sleep(60)")
    try:
        assert other.stdout.readline() == "up\n"
        folder = tmp_path / stacks.FOLDER
        folder.mkdir()
        (folder / f"sampler@{stacks.host_name()}@{other.pid}@1").touch()
        (folder / f"sampler@elsewhere@{other.pid}@{stacks.began(other.pid)}").touch()
        (folder / "sampler@x@y@z").touch()
        assert stacks.dump_here(tmp_path) == []
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def make_ledger() -> Ledger:
    ledger = Ledger(Plan.from_config(build({"stages": [{"name": "s", "generations": 2, "tickets": 2}]})))
    ledger.apply(r.EpochBegan(1), 50.0)
    ledger.apply(r.SegmentBegan(1), 60.0)
    return ledger


def test_who_waits_for_whom_and_since_when():
    ledger = make_ledger()

    def said(now: float) -> str:
        return who_waits(ledger, "starting", now, last_step=100.0)

    assert said(110) == "the gate waits for the pump to ask for ticket 0; trainer: starting, last update 10 s ago"
    ledger.apply(r.Leased(0, 0, 1, 0), 110.0)
    ledger.apply(r.Leased(1, 0, 1, 1), 115.0)
    assert said(120).startswith("the pump waits for a sampler to begin ticket 0 since 10 s")
    ledger.apply(r.Started(0, "sampler-7-a", 0), 121.0)
    assert said(130).startswith("the pump waits for sampler-7-a with ticket 0 since 20 s")
    ledger.apply(r.Started(0, "scorer-8-b", 0), 131.0)
    assert said(140).startswith("the pump waits for scorer-8-b with ticket 0 since 30 s")
    for ticket, time_s in ((0, 141.0), (1, 142.0)):
        ledger.apply(r.Buffered(ticket, 0, (r.RolloutRecord(0, 7, {"x": 1.0}),)), time_s)
    ledger.apply(r.Selected(0, ((0, 0, ""),)), 143.0)
    assert said(150).startswith("the gate waits for the trainer's version 1 since 7 s")


def test_what_hangs_is_left_behind():
    done = []
    began = time.monotonic()
    parts = {"quick": lambda: done.append(1), "hangs": threading.Event().wait, "fails": lambda: 1 / 0}
    assert within(1.0, parts) == ["hangs"] and done == [1]
    assert time.monotonic() - began < 5


class HangingPath(type(Path())):
    """Of a file system that hangs: what creates a folder never comes back."""

    def mkdir(self, *args, **kwargs):
        threading.Event().wait()


def test_a_file_system_that_hangs_costs_the_watchdogs_files_and_not_its_line(tmp_path):
    session = SimpleNamespace(path=HangingPath(tmp_path), plan=None)
    began = time.monotonic()
    line = ring(session, "neither a commit nor a step", {"tickets": {"open": 3}}, 0.0, deadline_s=0.2)
    assert time.monotonic() - began < 30
    assert line.startswith("neither a commit nor a step: tickets: {'open': 3}; ledger and stacks: ")
    assert line.endswith(", without ledger, stacks, nodes, report")


HANGING = """
import sys, time
from pathlib import Path
from actors.heartbeat import Heartbeat

def writes_to_a_disk_that_hangs():
    time.sleep(100)

with Heartbeat(Path(sys.argv[1]), limit_s=3) as heart:
    for _ in range(5):  # for longer than the limit
        heart.step("the terminal")
        time.sleep(1)
    print("alive", flush=True)
    heart.step("the disk with the event files")
    writes_to_a_disk_that_hangs()
"""


def test_a_driver_whose_main_thread_hangs_ends_and_says_for_what_it_waits(tmp_path):
    command = [sys.executable, "-c", HANGING, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "alive\n"), done.stderr
    assert re.match(r"rlloop: the driver waits for the disk with the event files since \d+ s\n", done.stderr)
    (left,) = tmp_path.glob("watchdog/*/driver.txt")
    for text in (done.stderr, left.read_text()):
        assert "since" in text.splitlines()[0] and "in writes_to_a_disk_that_hangs" in text


def test_a_heartbeat_that_is_left_ends_nothing(tmp_path):
    code = "import sys, time; from pathlib import Path; from actors.heartbeat import Heartbeat\n"
    code += "with Heartbeat(Path(sys.argv[1]), limit_s=1): pass\ntime.sleep(4)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, timeout=60)
    assert done.returncode == 0


def test_a_hard_deadline_ends_the_process_with_one_line():
    code = "from actors.deadline import hard_deadline\nimport time\n"
    code += "with hard_deadline(60, 'never'): pass\n"
    code += "with hard_deadline(0.2, 'driver waits for x'): time.sleep(60)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=50)
    assert done.returncode == 1 and done.stderr == "rlloop: driver waits for x since 0 s\n"


JOINING = """
import socket
from actors.attach import attached
with socket.create_server(("127.0.0.1", 0)) as mute:
    with attached("/runs/a", f"127.0.0.1:{mute.getsockname()[1]}", join_s=2):
        pass
"""


def joining(**environment: str) -> subprocess.CompletedProcess:
    command, ours = [sys.executable, "-c", JOINING], {**os.environ, **environment}
    return subprocess.run(command, cwd=REPOSITORY, env=ours, capture_output=True, text=True, timeout=120)


def test_a_cluster_that_wants_a_token_is_not_joined_without_one(tmp_path):
    done = joining(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="", HOME=str(tmp_path))
    refusal = r"ValueError: cannot join the cluster at 127.0.0.1:\d+: .*; is it up\? RAY_AUTH_MODE is token, no token "
    assert done.returncode == 1 and re.match(refusal, done.stderr.splitlines()[-1]), done.stderr


def test_a_cluster_that_accepts_and_never_answers_is_joined_with_a_deadline():
    done = joining(RAY_AUTH_TOKEN="a token")
    assert done.returncode == 1
    assert re.search(r"^rlloop: the command waits for the cluster at 127.0.0.1:\d+ since 2 s$", done.stderr, re.M)


def test_leaving_in_time_stops_the_deadline():
    before = set(threading.enumerate())
    with hard_deadline(60, "never"):
        (timer,) = set(threading.enumerate()) - before
    timer.join(30)
    assert not timer.is_alive()


def test_rows_come_within_the_deadline_or_name_who_is_waited_for():
    def slow(pause_s):
        yield 1
        time.sleep(pause_s)
        yield 2

    assert list(each_within(slow(0.0), 5.0, "nobody")) == [1, 2]
    with pytest.raises(TimeoutError, match="the driver waits for 2 actors of Doubler since 0 s"):
        list(each_within(slow(30.0), 0.2, "2 actors of Doubler"))

    def failing():
        yield 1
        raise ValueError("its words")

    with pytest.raises(ValueError, match="its words"):
        list(each_within(failing(), 5.0, "nobody"))


def test_the_first_commit_of_a_start_has_a_deadline_of_its_own_as_models_load(tmp_path):
    """Seconds since the start or the last progress, against start_timeout_s or stall_timeout_s."""
    config = build({"loop": {"stall_timeout_s": 100, "start_timeout_s": 1000}, "trainer": {"num_workers": 1}})
    session = SimpleNamespace(config=config, path=tmp_path, plan=Plan.from_config(config))

    def decided(since_start: float, since_progress: float | None, has_worked: bool = True):
        now = time.time()
        observer = SimpleNamespace(
            started_at=now - since_start,
            last_progress=0.0 if since_progress is None else now - since_progress,
            has_worked=has_worked and since_progress is not None,
            last_step_at=now - since_start,
            report={"trainer_state": "starting"},
            silent=lambda: "",
        )
        return stalled(session, observer, "neither a commit nor a step")

    assert decided(900, None) is None and decided(5000, 90) is None
    assert decided(5000, 900, has_worked=False) is None, "version 0 is evaluated, and samplers are on their way still"
    outcome = decided(1100, None)
    assert outcome.exit_status == 1 and "since 1100 s (loop.start_timeout_s is 1000)" in outcome.reason
    assert "since 110 s (loop.stall_timeout_s is 100)" in decided(5000, 110).reason
    assert str(tmp_path / "watchdog") in outcome.reason and "the pump to ask for ticket 0" in outcome.reason
    assert (tmp_path / "watchdog").is_dir()
