"""Files that a run reads back, damaged or foreign: each is refused with one line, and docs/bad_files.md lists them.

A row is a file, a damage, and what is seen then; the damages are in tests/unit/damages.py. The rows of a checkpoint's
parts and of a report's files are in rooms of their own. The document is made from the rows of all three:
    python -m tests.unit.test_bad_files > docs/bad_files.md
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors import startup
from actors.journaled import newer_epoch
from rlloop.config import load
from rlloop.data.rollouts import ScoredTicket, read_rows, rollout_path, write_rollouts
from rlloop.loop import checkpoints
from rlloop.loop import records as r
from rlloop.loop.journal import Journal, encode
from rlloop.loop.snapshot import EvaluationResult
from rlloop.recipes.averages import average, snapshot_path
from rlloop.recipes.damaged import REFUSED, set_aside_results
from rlloop.recipes.evaluations import stored_results, write_result
from rlloop.recipes.judges import read_embeddings, write_embeddings
from rlloop.recipes.moment import read_moment
from rlloop.views.event_log import EventLog
from tests.ray.runs import FAKE
from tests.unit.damages import DEEP, RAN, Case, Payload, cut, fields, flip, halve, text, to_link, to_pickle
from tests.unit.test_bad_checkpoints import CHECKPOINT
from tests.unit.test_bad_report_files import LEFT_OUT, WITHOUT_AUDIO

DOCUMENT = Path(__file__).parents[2] / "docs" / "bad_files.md"
CONFIG = load(FAKE)


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


# ---- the document


def document() -> str:
    lines = [
        "# Bad files",
        "",
        "What a run reads back, how each file was damaged, and what that got; every row is a test",
        "(`tests/unit/test_bad_*.py`; `python -m tests.unit.test_bad_files` writes this page).",
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
