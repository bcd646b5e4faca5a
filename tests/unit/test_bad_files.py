"""Files that a run reads back, damaged or foreign: each is refused with one line, and docs/bad_files.md lists them.

A row is a file, a damage, and what is seen then. The document is made from the same rows:
    python -m tests.unit.test_bad_files > docs/bad_files.md
"""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from actors import startup
from actors.journaled import newer_epoch
from actors.observer import Observer
from rlloop.config import load
from rlloop.data.rollouts import ScoredTicket, read_rows, rollout_path, write_rollouts
from rlloop.loop import checkpoints
from rlloop.loop import records as r
from rlloop.loop.journal import Journal, encode
from rlloop.loop.snapshot import EvaluationResult
from rlloop.recipes.averages import average, snapshot_path
from rlloop.recipes.cohort import cohort_candidates
from rlloop.recipes.damaged import REFUSED, set_aside_results
from rlloop.recipes.evaluations import stored_results, write_result
from rlloop.recipes.judges import read_embeddings, write_embeddings
from rlloop.recipes.kept_files import KeptFiles, read_kept
from rlloop.recipes.moment import read_moment
from rlloop.recipes.run_clips import cohort_clips
from rlloop.recipes.run_record import read_run
from rlloop.views.event_log import EventLog
from rlloop.views.terminal import LiveView
from tests.ray.runs import FAKE
from tests.unit.run_directory import make_run
from tests.unit.snapshots import snapshot

DOCUMENT = Path(__file__).parents[2] / "docs" / "bad_files.md"
DEEP = "[" * 200_000
RAN = "ran"


class Payload:
    """Un-pickled, it leaves a file beside: nothing here may ever do so."""

    def __reduce__(self):
        return os.mkdir, (RAN,)


@dataclass(frozen=True)
class Case:
    """`damage` changes a good file; `said` is in the line that names it, or in what is returned without one."""

    file: str
    what: str
    damage: Callable[[Path], object]
    said: str

    @property
    def name(self) -> str:
        return f"{self.file}: {self.what}"


# ---- damages


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def to_link(path: Path) -> None:
    aside = path.parent.parent.parent / "aside"
    aside.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(aside)


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload()))


def text(written: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(written)


def fields(**changed) -> Callable[[Path], object]:
    """Sets fields of a JSON object."""
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def marked(change: Callable[[Path], object]) -> Callable[[Path], object]:
    """Changes a part and then makes the marker agree with it: the checksums vouch for the wrong file."""

    def damage(part: Path) -> None:
        change(part)
        marker = checkpoints.parse_marker(part.parent)
        (part.parent / checkpoints.MARKER).unlink()
        own = {k: v for k, v in asdict(marker).items() if k not in ("files", "config_digest")}
        if part.name == checkpoints.WEIGHTS and change is not to_pickle:
            own["weights_checksum"] = checkpoints.arrays_checksum(checkpoints.read_weights(part.parent))
        checkpoints.write_marker(part.parent, digest=marker.config_digest, **own)

    return damage


def arrays(**tensors) -> Callable[[Path], object]:
    return lambda path: save_file(tensors, str(path))


def listed(name: str) -> Callable[[Path], object]:
    """The marker lists a file under a name of its own."""

    def damage(path: Path) -> None:
        found = json.loads(path.read_text())
        path.write_text(json.dumps({**found, "files": {**found["files"], name: [1, 1]}}))

    return damage


def sized(path: Path) -> None:
    found = json.loads(path.read_text())
    found["files"][checkpoints.WEIGHTS][0] = 10**18
    path.write_text(json.dumps(found))


def moved(path: Path) -> None:
    """The marker of another version."""
    path.write_text((path.parent.parent / "v000000-s000000" / checkpoints.MARKER).read_text())


# ---- checkpoints: version 1 is damaged, version 0 is used

CONFIG = load(FAKE)
POINT = {"step": 1, "generation": 0, "loss": "low", "learning_rate": 1, "grad_norm": 1, "seconds": 1, "time": 1}
PARTS = (checkpoints.WEIGHTS, "rank0.safetensors", "points.json", "ema.safetensors", checkpoints.MARKER)
CHECKPOINT = [
    *(Case(f"checkpoints/*/{part}", "cut by a byte", cut, part) for part in PARTS),
    *(Case(f"checkpoints/*/{part}", "half of it", halve, part) for part in PARTS),
    *(Case(f"checkpoints/*/{part}", "a bit flipped", flip, part) for part in PARTS),
    *(Case(f"checkpoints/*/{part}", "empty", empty, part) for part in PARTS),
    *(Case(f"checkpoints/*/{part}", "missing", Path.unlink, part) for part in PARTS),
    *(Case(f"checkpoints/*/{part}", "a link to a file outside", to_link, "is a link") for part in PARTS),
    *(Case(f"checkpoints/*/{part}", "a pipe", to_pipe, "no regular file") for part in PARTS),
    Case("checkpoints/*/weights.safetensors", "a renamed pickle, marked", marked(to_pickle), "safetensors"),
    Case("checkpoints/*/rank0.safetensors", "a renamed pickle, marked", marked(to_pickle), "safetensors"),
    Case("checkpoints/*/ema.safetensors", "a renamed pickle, marked", marked(to_pickle), "safetensors"),
    Case("checkpoints/*/points.json", "nested 200,000 deep, marked", marked(text(DEEP)), "nested too deeply"),
    Case("checkpoints/*/points.json", "an object, marked", marked(text('{"a": 1}')), "should be a valid list"),
    Case("checkpoints/*/points.json", "a loss is a text, marked", marked(text(json.dumps([POINT]))), "0.loss"),
    Case("checkpoints/*/weights.safetensors", "other tensors, marked", marked(arrays(other=np.zeros(3))), "'other'"),
    Case("checkpoints/*/weights.safetensors", "another shape, marked", marked(arrays(w=np.zeros((3, 2)))), "(3, 2)"),
    Case("checkpoints/*/weights.safetensors", "NaN, marked", marked(arrays(w=np.full(3, np.nan))), "not finite"),
    Case("checkpoints/*/marker.json", "of another configuration", fields(config_digest="e" * 64), "configuration"),
    Case("checkpoints/*/marker.json", "of another version", moved, "does not belong here"),
    Case("checkpoints/*/marker.json", "of another project", text('{"epoch": 3, "model": "x"}'), "of this project"),
    Case("checkpoints/*/marker.json", "lists ../x", listed("../x"), "no file of its folder"),
    Case("checkpoints/*/marker.json", "lists /etc/passwd", listed("/etc/passwd"), "no file of its folder"),
    Case("checkpoints/*/marker.json", "lists a name with a null byte", listed("a\0b"), "no file of its folder"),
    Case("checkpoints/*/marker.json", "declares 10^18 bytes", sized, "its marker says"),
    Case("checkpoints/*/marker.json", "nested 200,000 deep", text(DEEP), "nested too deeply"),
    Case("checkpoints/*/marker.json", "a list", text("[]"), "of this project"),
    Case("checkpoints/*/marker.json", "the version is a text", fields(version="one"), "version"),
    Case("checkpoints/*/marker.json", "the files are a number", fields(files=3), "files"),
    Case("checkpoints/*/marker.json", "a checksum is a text", fields(files={"weights.safetensors": [1, "x"]}), "files"),
    Case("checkpoints/*/marker.json", "2 MiB of blanks", text(" " * 2**21), "at most"),
    Case("checkpoints/*/marker.json", "not UTF-8", lambda path: path.write_bytes(b"\xff\xfe{}"), "is no JSON"),
]


def write_checkpoint(run_dir: Path, version: int) -> Path:
    path, weights = checkpoints.folder(run_dir, version), {"w": np.full(3, float(version))}
    checkpoints.write_arrays(path / checkpoints.WEIGHTS, weights)
    checkpoints.write_arrays(path / "rank0.safetensors", {"0.master": np.zeros(2)})
    checkpoints.write_arrays(path / "ema.safetensors", {"stage": np.zeros(2, np.uint8)})
    (path / "points.json").write_text("[]")
    checkpoints.write_marker(
        path, version=version, step=0, stage=0, digest="d" * 64, world_size=1,
        weights_checksum=checkpoints.arrays_checksum(weights),
    )  # fmt: skip
    return path


@pytest.mark.parametrize("case", CHECKPOINT, ids=lambda case: case.name)
def test_a_bad_checkpoint_is_refused_and_the_one_before_is_used(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = use_checkpoint(case, tmp_path)
    assert len(lines) == 1 and "\n" not in lines[0] and len(lines[0]) < 500
    assert lines[0].startswith("checkpoint refused, using the one before: ") and case.said in lines[0], lines[0]
    assert not Path(RAN).exists()


def use_checkpoint(case: Case, run_dir: Path) -> list[str]:
    write_checkpoint(run_dir, 0)
    case.damage(write_checkpoint(run_dir, 1) / Path(case.file).name)
    lines: list[str] = []
    found = checkpoints.newest(run_dir, "d" * 64, refused=lines.append)
    assert found is not None and found[1].version == 0
    return lines


def test_the_line_is_among_the_run_s_messages_on_the_terminal_once(tmp_path):
    """Refused at the start, and again by the trainer: the driver's notes and the buffer's messages are one list."""
    write_checkpoint(tmp_path, 0)
    flip(write_checkpoint(tmp_path, 1) / checkpoints.WEIGHTS)
    notes: list[str] = []
    checkpoints.newest(tmp_path, "d" * 64, generations_only=True, refused=notes.append)
    observer = Observer.__new__(Observer)  # without its thread
    observer.notes, observer.report = notes, {"messages": [*notes, "another"]}
    observer.results = SimpleNamespace(by_version=[])
    observer.session = SimpleNamespace(path=tmp_path)
    out = io.StringIO()
    with LiveView(CONFIG, Console(file=out, width=60)) as view:
        for _ in range(2):
            view.update(snapshot(str(tmp_path), messages=observer._messages()))
    assert out.getvalue().count(notes[0]) == 1 and out.getvalue().count("another") == 1


# ---- what is refused by the reader with one line, and ends the start or the command


def journaled(*more: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes() + b"".join(more))


def extended(path: Path) -> None:
    """The latents as an extension type of a name that nobody registered, with what could be a pickle beside it."""
    table = pq.read_table(path)
    meta = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(Payload())}
    at = table.schema.get_field_index("latents")
    pq.write_table(table.set_column(at, pa.field("latents", pa.binary(), metadata=meta), table["latents"]), path)


def pandas_metadata(path: Path) -> None:
    meta = {b"pandas": pickle.dumps(Payload())}
    pq.write_table(pq.read_table(path).replace_schema_metadata(meta), path)


def without(column: str) -> Callable[[Path], object]:
    return lambda path: pq.write_table(pq.read_table(path).drop_columns([column]), path)


def flip_page(path: Path) -> None:
    """A bit inside the latents."""
    data = path.read_bytes()
    flip(path, data.index(np.full(8, 0.5, np.float16).tobytes()) + 3)


REFUSED_BY_READER = [
    Case("config.json", "half of it", halve, "config.json: is no configuration"),
    Case("config.json", "nested 200,000 deep", text(DEEP), "nested too deeply"),
    Case("config.json", "unknown keys", fields(evil=1), "is no configuration"),
    Case("config.json", "a link", to_link, "is a link"),
    Case("prompts.json", "half of it", halve, "prompts.json: is no JSON"),
    Case("prompts.json", "a list", text("[]"), "prompts.json"),
    Case("prompts.json", "a number for a prompt", text('{"train": [1], "heldout": []}'), "train.0"),
    Case("journal/journal.log", "a bit flipped early", lambda path: flip(path, 30), "fails its checksum"),
    Case("journal/journal.log", "a record of another program", journaled(encode({"type": "X"})), "none of"),
    Case("journal/journal.log", "a record of other fields",
         journaled(encode({"type": "Failed", "x": 1})), "other fields"),
    Case("rollouts/*.parquet", "half of it", halve, "no readable rollout file"),
    Case("rollouts/*.parquet", "a renamed pickle", to_pickle, "no readable rollout file"),
    Case("rollouts/*.parquet", "without its latents", without("latents"), "no readable rollout file"),
    Case("rollouts/*.parquet", "a bit of the latents flipped", flip_page, "no readable rollout file"),
    Case("ema/*.safetensors", "half of it", halve, "cannot be made"),
    Case("ema/*.safetensors", "a renamed pickle", to_pickle, "cannot be made"),
    Case("ema/*.safetensors", "a header of 2^60 bytes",
         lambda path: path.write_bytes((2**60).to_bytes(8, "little") + b"{}"), "cannot be made"),
]  # fmt: skip


def good_rollouts(run_dir: Path) -> Path:
    scored = ScoredTicket(0, 0, "a", [1], np.full((1, 8, 4), 0.5, np.float16), [{"x": 1.0}], [{}])
    path = rollout_path(run_dir, 0)
    write_rollouts(path, scored)
    # As the loop writes it but uncompressed, so that a test knows which byte is which.
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pq.read_table(path), path, write_page_checksum=True, **plain)
    return path


def good_journal(run_dir: Path) -> Path:
    journal = Journal(run_dir / "journal" / "journal.log")
    for record in (r.EpochBegan(1), r.SegmentBegan(1), r.Leased(0, 0, 1, 0)):
        journal.append(record)
    return journal.path


def good_average(run_dir: Path) -> Path:
    startup.store_config(run_dir, CONFIG)
    for step in (4, 8):
        path = snapshot_path(run_dir, "expert_iteration", 0.05, step)
        checkpoints.write_arrays(path, {"w": np.zeros(3, np.float32)})
    return path


def read_config(run_dir: Path) -> None:
    startup.refuse_other_config(run_dir, CONFIG)


READERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "config.json": (lambda run: startup.store_config(run, CONFIG) or run / "config.json", read_config),
    "prompts.json": (
        lambda run: startup.store_prompts(run, CONFIG) or run / "prompts.json",
        lambda run: startup.store_prompts(run, CONFIG),
    ),
    "journal/journal.log": (good_journal, lambda run: list(Journal(run / "journal" / "journal.log").replay())),
    "rollouts/*.parquet": (good_rollouts, lambda run: read_rows(rollout_path(run, 0), {0: ""}, "x")),
    "ema/*.safetensors": (
        good_average,
        lambda run: average(run, "expert_iteration", 0.05, None, run / "out.safetensors"),
    ),
}


@pytest.mark.parametrize("case", REFUSED_BY_READER, ids=lambda case: case.name)
def test_a_bad_file_costs_one_line(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refuse(case, tmp_path / "runs" / "one")
    assert case.said in line and "\n" not in line and len(line) < 500, line
    assert not Path(RAN).exists()


def refuse(case: Case, run_dir: Path) -> str:
    run_dir.mkdir(parents=True)
    make, read = READERS[case.file]
    path = make(run_dir)
    case.damage(path)
    with pytest.raises(ValueError) as raised:
        read(run_dir)
    return str(raised.value)


@pytest.mark.parametrize("damage", [extended, pandas_metadata])
def test_what_stands_in_the_metadata_of_parquet_is_not_run(damage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = good_rollouts(tmp_path)
    damage(path)
    (row,) = read_rows(path, {0: ""}, "x")
    assert row.latents.shape == (8, 4) and not Path(RAN).exists()


# ---- what is set aside, or made again

RESULT = EvaluationResult(0, "s", ["a"], [[1, 2]], {"x": [[0.5, None]]}, ["audio/v0.flac"], 1.0, 2.0, alarms=[])
SET_ASIDE = [
    Case("evaluations/*.json", "half of it", halve, "is no JSON"),
    Case("evaluations/*.json", "nested 200,000 deep", text(DEEP), "nested too deeply"),
    Case("evaluations/*.json", "of another version", fields(version=7), "is of version 7"),
    Case("evaluations/*.json", "a score is a text", fields(scores={"x": [["high", None]]}), "scores.x"),
    Case("evaluations/*.json", "too few scores", fields(scores={"x": [[0.5]]}), "one score a prompt and seed"),
    Case("evaluations/*.json", "audio outside of the run", fields(audio=["../../secret.flac"]), "outside of the run"),
    Case("evaluations/*.json", "of another program", text('{"accuracy": 1}'), "is no result"),
    Case("evaluations/*.json", "a link", to_link, "is a link"),
]


@pytest.mark.parametrize("case", SET_ASIDE, ids=lambda case: case.name)
def test_a_bad_result_is_set_aside_and_its_version_evaluated_again(case, tmp_path):
    run_dir = tmp_path / "runs" / "one"
    write_result(run_dir, RESULT)
    path = run_dir / "evaluations" / "version000000.json"
    assert stored_results(run_dir) == [RESULT] and set_aside_results(run_dir) == []
    case.damage(path)
    (line,) = set_aside_results(run_dir)
    assert case.said in line and "\n" not in line, line
    assert stored_results(run_dir) == [] and path.with_name(path.name + REFUSED).exists()


MOMENT = {"best": {"path": "audio/a.flac", "prompt": "p", "seed": 1, "version": 0, "scores": {"x": 1.0}}}
MADE_AGAIN = [
    Case("audio/moment.json", "half of it", halve, "no clip until the next cohort"),
    Case("audio/moment.json", "nested 200,000 deep", text(DEEP), "no clip until the next cohort"),
    Case("audio/moment.json", "a path outside of the run",
         text(json.dumps(MOMENT).replace("audio/a.flac", "../../secret.flac")), "no clip until the next cohort"),
    Case("evaluations/*.npy", "a pickle inside", lambda path: np.save(path, np.array([Payload()]), allow_pickle=True),
         "no embeddings: that version has no distance"),
    Case("evaluations/*.npy", "half of it", halve, "no embeddings: that version has no distance"),
    Case("tensorboard/committed.json", "half of it", halve, "curves begin anew, the old files are kept as refused.*"),
    Case("tensorboard/committed.json", "nested 200,000 deep", text(DEEP),
         "curves begin anew, the old files are kept as refused.*"),
    Case("tensorboard/committed.json", "a size is a text", text('{"state": {}, "sizes": {"events": "x"}}'),
         "curves begin anew, the old files are kept as refused.*"),
    Case("journal/journal.log", "the last record cut", cut, "the record is not there: it was never acknowledged"),
    Case("epochs/", "a file 7x", lambda path: (path.parent / "7x").touch(), "not counted"),
]  # fmt: skip


@pytest.mark.parametrize("case", MADE_AGAIN, ids=lambda case: case.name)
def test_what_can_be_made_again_is_no_reason_to_stop(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_dir = tmp_path / "runs" / "one"
    if case.file == "audio/moment.json":
        path = run_dir / "audio" / "moment.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(MOMENT))
        assert set(read_moment(run_dir)) == {"best"}
        case.damage(path)
        assert read_moment(run_dir) == {}
    elif case.file == "evaluations/*.npy":
        write_embeddings(run_dir, 0, {"judge": np.zeros((1, 2, 3), np.float32)})
        case.damage(run_dir / "evaluations" / "version000000-judge.npy")
        assert np.isnan(read_embeddings(run_dir, RESULT, "judge", 3)).all()
    elif case.file == "tensorboard/committed.json":
        events = EventLog(run_dir)
        events.scalar("a", 1.0, 1, 1.0)
        events.commit({"update": 1})
        events.close()
        case.damage(events.marker)
        assert EventLog(run_dir).state == {} and len(list(run_dir.glob("refused.*"))) == 2
    elif case.file == "epochs/":
        startup.take_epoch(make(run_dir))
        case.damage(run_dir / "epochs" / "000001")
        assert newer_epoch(run_dir) == 1 and startup.take_epoch(run_dir) == 2
    else:
        case.damage(good_journal(run_dir))
        assert [record for record, _ in Journal(run_dir / "journal" / "journal.log").replay()][-1] == r.SegmentBegan(1)
    assert not Path(RAN).exists()


def make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# ---- what a report does without, and names

SUMMARY = json.dumps({"status": "finished", "policy_versions": 2, "wall_seconds": 5.0, "messages": [], "restarts": {}})
POINT_OF_SWEEP = {"s": 1, "scores": {"x": {"mean": 0.5, "ci_low": None, "ci_high": None}}, "distances": {}}
GOOD = {
    "summary.json": SUMMARY,
    "sweep.json": json.dumps({"points": [POINT_OF_SWEEP], "spearman": {"x": {"rho": None}}, "notes": []}),
    "environment.json": json.dumps([{"epoch": 1, "versions": {"python": "3.12"}, "nodes": [{"CPU": 2.0}]}]),
    "corpus.json": json.dumps({"rows": 5}),
    "prompts.json": json.dumps({"train": ["a"], "heldout": ["b"]}),
}
LEFT_OUT = [
    *(Case(name, "half of it", halve, "is no JSON") for name in GOOD),
    *(Case(name, "nested 200,000 deep", text(DEEP), "nested too deeply") for name in GOOD),
    Case("summary.json", "a time is a text", fields(wall_seconds="long"), "wall_seconds"),
    Case("summary.json", "a time is NaN", fields(wall_seconds=float("nan")), "wall_seconds"),
    Case("summary.json", "another status", fields(status=3), "status"),
    Case("summary.json", "messages are a text", fields(messages="x"), "messages"),
    Case("sweep.json", "a point without scores", fields(points=[{"s": 1}]), "points.0.scores"),
    Case("sweep.json", "an s is a text", fields(points=[{**POINT_OF_SWEEP, "s": "high"}]), "points.0.s"),
    Case("sweep.json", "of another program", text('{"accuracy": 1}'), "points"),
    Case("environment.json", "versions are a list", text('[{"versions": ["3.12"]}]'), "0.versions"),
    Case("corpus.json", "a list", text("[]"), "its value"),
    Case("prompts.json", "a list", text("[]"), "its value"),
    Case("prompts.json", "a number for the prompts", text('{"train": 5}'), "train"),
    Case("prompts.json", "without those of training", text("{}"), "train"),
]
ROLLOUTS = "rollouts/*.parquet"
WITHOUT_AUDIO = [
    Case(ROLLOUTS, "half of it, and its clip evicted", halve, "cannot be decoded: … no readable rollout file"),
    Case(ROLLOUTS, "latents of another shape, and its clip evicted", lambda path: None, "cannot be decoded: …"),
]


@pytest.mark.parametrize("case", LEFT_OUT, ids=lambda case: case.name)
def test_a_report_leaves_a_bad_file_out_and_names_it(case, tmp_path):
    path = tmp_path / case.file
    path.write_text(GOOD[case.file])
    whole = read_kept(tmp_path)
    assert whole.damaged == [] and any_of(whole)
    case.damage(path)
    found = read_kept(tmp_path)
    assert not any_of(found)
    (line,) = found.damaged
    assert case.file in line and case.said in line and "\n" not in line and len(line) < 500, line


def any_of(found: KeptFiles) -> bool:
    return bool(found.summary or found.sweep or found.starts or found.corpus or found.training_prompts)


@pytest.mark.parametrize("case", WITHOUT_AUDIO, ids=lambda case: case.what)
def test_a_report_shows_a_clip_without_audio_and_says_why(case, tmp_path):
    """The latents are [1, 8, 4], which the mini stack cannot decode."""
    run = make_run(tmp_path / "run")
    (run / "audio" / "generation000001-best.flac").unlink()
    record, ledger = read_run(run)
    best = cohort_candidates(ledger, 1, ledger.plan.stage_of(1))[0]
    latents = np.full((2, 8, 4), 0.5, np.float16)
    path = rollout_path(run, best.ticket)
    write_rollouts(path, ScoredTicket(best.ticket, 0, "a", [1, 2], latents, [{}] * 2, [{}] * 2))
    case.damage(path)
    clips, _ = cohort_clips(record, ledger)
    first, *others = clips
    parts = case.said.split("…")
    assert all(part.strip() in first.missing for part in parts) and "\n" not in first.missing, first.missing
    assert not first.data and not any(clip.missing for clip in others)


# ---- the document


def document() -> str:
    lines = [
        "# Bad files",
        "",
        "What a run reads back, how each file was damaged, and what that got; every row is a test",
        "(`tests/unit/test_bad_files.py`, which writes this page: `python -m tests.unit.test_bad_files`).",
        "*Marked* means that the checkpoint's marker was made to agree with the damage. Nothing is ever un-pickled.",
    ]
    groups = (
        ("Refused, and the checkpoint before is used; a line says so in the run's messages", CHECKPOINT),
        ("Refused with one line that ends the start, the run or the command", REFUSED_BY_READER),
        ("Set aside under another name, with a line in the run's messages; the version is evaluated again", SET_ASIDE),
        ("Done without, or made again", MADE_AGAIN),
        ("Left out of the report, which names it", LEFT_OUT),
        ("A clip of the report has no player, and says why", WITHOUT_AUDIO),
    )
    for title, cases in groups:
        lines += ["", f"## {title}", "", "| file | damage | what is said of it |", "|---|---|---|"]
        lines += [f"| `{case.file}` | {case.what} | {case.said} |" for case in cases]
    lines += [
        "",
        "## A run's copy at a URI",
        "",
        "Refused with one line, and nothing of it is left (`tests/unit/test_run_copy.py`): a manifest that is no JSON,",
        "has other fields or names files outside the run; a file that is missing, or fails the checksum in its name.",
    ]
    return "\n".join(lines) + "\n"


def test_the_document_lists_every_case():
    assert DOCUMENT.read_text() == document(), "python -m tests.unit.test_bad_files > docs/bad_files.md"


if __name__ == "__main__":
    print(document(), end="")
