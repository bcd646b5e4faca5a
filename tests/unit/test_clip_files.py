"""Listing clips, the lines of a scores file, resuming, and a worker among broken files."""

import json

import numpy as np
import pytest
import soundfile

from rlloop.config import Config
from rlloop.recipes.clip_files import ClipFile, ScoreLine, list_clips, resume, write_lines
from rlloop.recipes.clip_scoring import ScoreWorker

NAMES = ["loudness", "first"]


def line(path: str, **scores) -> ScoreLine:
    return ScoreLine(path, "a prompt", scores, {})


def test_a_folder_lists_its_audio_sorted_and_below(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.wav", "sub/a.FLAC", "notes.txt"):
        (tmp_path / name).touch()
    assert [clip.path for clip in list_clips(tmp_path)] == ["b.wav", "sub/a.FLAC"]
    assert all(clip.prompt == "" for clip in list_clips(tmp_path))


def test_a_list_names_path_and_prompt_and_a_folder_with_a_list_means_it(tmp_path):
    rows = [{"path": "x/1.wav", "prompt": "piano", "id": 3}, {"path": "/abs/2.wav", "prompt": None}, {"path": "3.wav"}]
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    found = list_clips(tmp_path / "clips.jsonl")
    assert found == list_clips(tmp_path)
    assert found[0] == ClipFile("x/1.wav", str(tmp_path / "x/1.wav"), "piano")
    assert (found[1].file, found[1].prompt, found[2].prompt) == ("/abs/2.wav", "", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"path": "a.wav"}\nnonsense\n', r"clips.jsonl:2: not JSON"),
        ('{"file": "a.wav"}\n', r'clips.jsonl:1: expected an object with "path"'),
        ("[1]\n", r"clips.jsonl:1: holds a list"),
        ("\n", "holds no clip"),
    ],
)
def test_bad_lists_are_one_line(tmp_path, text, message):
    (tmp_path / "clips.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        list_clips(tmp_path)
    assert "\n" not in str(error.value)


def test_no_clips(tmp_path):
    with pytest.raises(ValueError, match="holds no audio file"):
        list_clips(tmp_path)
    with pytest.raises(ValueError, match="no such file or folder"):
        list_clips(tmp_path / "nowhere")


def test_resume_drops_a_half_written_line_and_keeps_the_others(tmp_path):
    out = tmp_path / "scores.jsonl"
    assert resume(out, ["a"]) == {}
    write_lines(out, [line("1.wav", a=0.5), line("2.wav", a=None)])
    with out.open("a") as file:
        file.write(line("3.wav", a=1.0).to_json()[:-5])
    assert list(resume(out, ["a"])) == [("1.wav", "a prompt"), ("2.wav", "a prompt")]


def test_scores_of_other_rewards_or_other_files_are_not_overwritten(tmp_path):
    out = tmp_path / "scores.jsonl"
    write_lines(out, [line("1.wav", a=0.5)])
    with pytest.raises(ValueError, match=r"holds scores \['a'\], asked for \['b'\]"):
        resume(out, ["b"])
    out.write_text('{"some": "thing"}\n')
    with pytest.raises(ValueError, match="is no line of scores"):
        resume(out, ["a"])


def test_a_worker_scores_the_good_among_the_broken(tmp_path):
    tone = (0.3 * np.sin(np.arange(32_000) / 10)).astype(np.float32)
    soundfile.write(tmp_path / "good.wav", tone, 16_000)
    soundfile.write(tmp_path / "stereo.wav", np.stack([tone, tone], 1), 16_000)
    soundfile.write(tmp_path / "long.wav", np.zeros(301 * 8000), 8_000)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "noise.ogg").write_bytes(bytes(range(256)) * 9)
    files = ["empty.wav", "good.wav", "long.wav", "missing.wav", "noise.ogg", "stereo.wav"]
    rows = [{"path": name, "file": str(tmp_path / name), "prompt": "p"} for name in files]
    names = ["tests.fakes:Loudness", "tests.fakes:Broken"]
    lines = [ScoreLine(**row) for row in ScoreWorker(Config(), names, 1, "cpu")(rows)]
    assert [found.path for found in lines] == files
    scored = {found.path: found.scores["Loudness"] for found in lines if found.scores["Loudness"] is not None}
    assert set(scored) == {"good.wav", "stereo.wav"} and scored["good.wav"] == pytest.approx(scored["stereo.wav"])
    for found in lines:
        assert set(found.scores) == {"Loudness", "Broken"}
        assert {name for name, value in found.scores.items() if value is None} == set(found.reasons)
    reasons = {found.path: found.reasons["Loudness"] for found in lines if "Loudness" in found.reasons}
    assert reasons["long.wav"] == "301 s long, expected at most 300 s"
    assert "no such file" in reasons["missing.wav"] and "0 bytes" in reasons["empty.wav"]
