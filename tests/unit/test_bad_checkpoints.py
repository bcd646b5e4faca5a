"""Parts of a checkpoint, damaged or foreign: each is refused with one line, and the checkpoint before is used.

A room of its own because one marker vouches for many files here, and a damage can be made that it vouches for, too.
Version 1 is damaged, version 0 is used. The rows are in docs/bad_files.md, which tests/unit/test_bad_files.py writes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from actors.observer import Observer
from rlloop.config import load
from rlloop.loop import checkpoints
from rlloop.views.terminal import LiveView
from tests.ray.runs import FAKE
from tests.unit.damages import DEEP, RAN, Case, cut, empty, fields, flip, halve, text, to_link, to_pickle, to_pipe
from tests.unit.snapshots import snapshot


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
    with LiveView(load(FAKE), Console(file=out, width=60)) as view:
        for _ in range(2):
            view.update(snapshot(str(tmp_path), messages=observer._messages()))
    assert out.getvalue().count(notes[0]) == 1 and out.getvalue().count("another") == 1
