"""Listing clips, the lines of a scores file, resuming, and a worker among broken files."""

import json

import numpy as np
import pytest
import soundfile

from actors.jobs.score import digest, is_unicode
from rlloop.config import Config
from rlloop.recipes.clip_files import ClipFile, ScoreLine, claim, list_clips, resume, write_lines
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
    assert list(resume(out, ["a"])) == [("1.wav", "a prompt")]  # what lacks its score is tried again


def test_a_scores_file_is_of_one_source_and_one_set_of_rewards(tmp_path):
    out = tmp_path / "scores.jsonl"
    claim(out, "first")
    claim(out, "second")  # nothing was scored yet
    write_lines(out, [line("1.wav", a=0.5)])
    claim(out, "second")
    with pytest.raises(ValueError, match="scores of other clips, or by rewards of other options"):
        claim(out, "third")
    other = [ClipFile("1.wav", str(tmp_path / folder / "1.wav"), "") for folder in ("x", "y")]
    one, two = (digest([clip], ["tunejury_mini"], Config()) for clip in other)
    assert one != two and one == digest(other[:1], ["tunejury_mini"], Config())
    assert one != digest(other[:1], [{"name": "tunejury_mini", "target": "a.b:C", "options": {"x": 1}}], Config())


def test_odd_characters_stay_inside_their_line(tmp_path):
    out, odd = tmp_path / "scores.jsonl", "a\u2028b\x85c\ud83d"
    write_lines(out, [ScoreLine("1.wav", odd, {"a": 0.5}, {}), line("2.wav", a=1.0)])
    assert list(resume(out, ["a"])) == [("1.wav", odd), ("2.wav", "a prompt")]
    (tmp_path / "clips.jsonl").write_text(json.dumps({"path": "1.wav", "prompt": "a\u2028b"}, ensure_ascii=False))
    assert list_clips(tmp_path)[0].prompt == "a\u2028b"
    assert not is_unicode(ClipFile("x", "/caf\udce9.wav", "")) and is_unicode(ClipFile("x", "/café.wav", "\u2028"))


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
    lines = [ScoreLine(**row) for row in ScoreWorker(Config(), names, 4, 1, "cpu")(rows)]
    assert [found.path for found in lines] == files
    scored = {found.path: found.scores["Loudness"] for found in lines if found.scores["Loudness"] is not None}
    assert set(scored) == {"good.wav", "stereo.wav"} and scored["good.wav"] == pytest.approx(scored["stereo.wav"])
    for found in lines:
        assert set(found.scores) == {"Loudness", "Broken"}
        assert {name for name, value in found.scores.items() if value is None} == set(found.reasons)
    reasons = {found.path: found.reasons["Loudness"] for found in lines if "Loudness" in found.reasons}
    assert reasons["long.wav"] == "301 s long, expected at most 300 s"
    assert "no such file" in reasons["missing.wav"] and "0 bytes" in reasons["empty.wav"]


class Picky:
    """Raises whenever a long clip is among those it is given; answers with plain numbers."""

    name = "Picky"

    def score(self, clips) -> list[float]:
        if any(len(clip.audio) > 40_000 for clip in clips):
            raise RuntimeError("too long for me")
        return [1.0 for _ in clips]


def test_a_reward_of_ones_own_is_guarded_and_one_clip_costs_the_others_nothing(tmp_path):
    tone = (0.3 * np.sin(np.arange(48_000) / 10)).astype(np.float32)
    waves = {"a": tone[:32_000], "b": tone, "c": tone[:32_000], "d": np.zeros(32_000, np.float32)}
    for name, wave in waves.items():
        soundfile.write(tmp_path / f"{name}.wav", wave, 16_000)
    rows = [{"path": name, "file": str(tmp_path / f"{name}.wav"), "prompt": ""} for name in waves]
    worker = ScoreWorker(Config(), ["tests.unit.test_clip_files:Picky"], 8, 1, "cpu")
    lines = {line.path: line for line in (ScoreLine(**row) for row in worker(rows))}
    assert {name: line.scores["Picky"] for name, line in lines.items()} == {"a": 1.0, "b": None, "c": 1.0, "d": None}
    assert "too long for me" in lines["b"].reasons["Picky"] and "silent" in lines["d"].reasons["Picky"]
