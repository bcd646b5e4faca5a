"""`rlloop generate` in one process: the same bytes, names, what a file tells, the list, best of N, the submission.

Which policy draws, and what is refused or fails, are in rooms of their own.
"""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rlloop.audio.tagged import read_details, write_tagged
from rlloop.recipes.clip_files import list_clips
from rlloop.recipes.generate_request import Row, candidate_seed, is_file_name, prompt_name, request_clips
from tests.unit.generating import FAKE, contents, generate, lines

RATE, SAMPLES = 1600, 640  # of the tiny generator


def test_the_mini_stack_gives_the_same_bytes_twice_whatever_is_generated_beside(tmp_path):
    asked = ["--seed", 7, "--steps", 4, "--rewards", "tunejury_mini", "--postprocess", "loudness"]
    generate("a calm piano piece", *asked, "--out", tmp_path / "a")
    generate("a calm piano piece", "Fast drums", *asked, "--out", tmp_path / "b")
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert sorted(second) == ["a-calm-piano-piece-s7.wav", "clips.jsonl", "fast-drums-71fbd4-s8.wav"]
    assert first["a-calm-piano-piece-s7.wav"] == second["a-calm-piano-piece-s7.wav"]
    assert first["clips.jsonl"].splitlines() == second["clips.jsonl"].splitlines()[:1]
    assert soundfile.info(tmp_path / "a" / "a-calm-piano-piece-s7.wav").frames == 79_872
    row = lines(tmp_path / "a")[0]
    assert (row["prompt"], row["seed"], row["noise_seed"]) == ("a calm piano piece", 7, 7)
    assert row["scores"]["tunejury_mini"] is not None and row["postprocess"]["loudness"]["target_lufs"] == -16.5
    assert row["settings"]["sampling"]["num_steps"] == 4


def test_the_list_is_of_what_is_there(tmp_path):
    generate("a", "b", *FAKE, "--out", tmp_path)
    (tmp_path / "a-s0.wav").unlink()
    generate("c", *FAKE, "--out", tmp_path)
    assert [row["path"] for row in lines(tmp_path)] == ["b-s1.wav", "c-s0.wav"]


def test_the_list_is_one_that_other_commands_read(tmp_path):
    generate("a", "b", *FAKE, "--out", tmp_path)
    assert [(clip.path, clip.prompt) for clip in list_clips(tmp_path)] == [("a-s0.wav", "a"), ("b-s1.wav", "b")]
    assert [Path(clip.file).is_file() for clip in list_clips(tmp_path / "clips.jsonl")] == [True, True]


def test_the_best_of_its_candidates_is_kept_and_can_be_drawn_again(tmp_path):
    scored = ["--rewards", "tests.fakes:Loudness,tests.fakes:Softness"]
    generate("x", *FAKE, *scored, "--best-of", 5, "--seed", 3, "--out", tmp_path / "best")
    row = lines(tmp_path / "best")[0]
    seeds = [candidate_seed(3, n) for n in range(5)]
    assert seeds[0] == 3 and len(set(seeds)) == 5
    values = {}
    for seed in seeds:
        generate("x", *FAKE, *scored, "--seed", seed, "--out", tmp_path / "each")
        values[seed] = next(r for r in lines(tmp_path / "each") if r["seed"] == seed)["scores"]
    best = max(seeds, key=lambda seed: values[seed]["Loudness"])
    assert (row["seed"], row["noise_seed"], row["scores"]) == (3, best, values[best])
    again, _ = soundfile.read(tmp_path / "each" / f"x-s{best}.wav")
    assert np.array_equal(soundfile.read(tmp_path / "best" / "x-s3.wav")[0], again)
    worst = [*FAKE, "--rewards", "tests.unit.test_generate:Backwards", "--best-of", 5, "--seed", 3]
    generate("x", *worst, "--out", tmp_path / "worst")  # it has no score for the loudest three
    expected = sorted(seeds, key=lambda seed: values[seed]["Loudness"])[1]
    assert lines(tmp_path / "worst")[0]["noise_seed"] == expected
    generate("x", *FAKE, "--rewards", "tests.fakes:Broken", "--best-of", 2, "--out", tmp_path / "none")
    row = lines(tmp_path / "none")[0]
    assert row["noise_seed"] == 0 and row["scores"] == {"Broken": None} and "out of order" in row["reasons"]["Broken"]


class Backwards:
    """Gives the second quietest of a batch one, the quietest zero and the others nothing."""

    name = "Backwards"

    def score(self, clips):
        from tests.fakes import FakeScore

        order = np.argsort([clip.audio.mean() for clip in clips]).tolist()
        ranks = [order.index(n) for n in range(len(clips))]
        return [FakeScore(float(rank)) if rank < 2 else FakeScore(None, "too loud") for rank in ranks]


def test_a_submission_has_every_row_of_the_csv_at_its_seed_and_length(tmp_path):
    (tmp_path / "rows.csv").write_text('id,prompt\nt07,"drums, and bass"\nt01,piano\nt03,piano\n')
    archive = tmp_path / "made" / "submission.zip"
    asked = [*FAKE, "--prompts", tmp_path / "rows.csv", "--seed", 42]
    generate(*asked, "--out", tmp_path / "short")
    generate(*asked, "--out", tmp_path / "out", "--submission", archive)
    with zipfile.ZipFile(archive) as found:
        assert found.namelist() == ["t07.wav", "t01.wav", "t03.wav"] and found.testzip() is None
        found.extractall(tmp_path / "found")
    assert [(row["path"], row["seed"]) for row in lines(tmp_path / "out")] == [
        ("t07.wav", 42), ("t01.wav", 43), ("t03.wav", 44)
    ]  # fmt: skip
    for name in ("t07.wav", "t01.wav", "t03.wav"):
        info = soundfile.info(tmp_path / "found" / name)
        assert (info.frames, info.subtype, info.channels) == (10 * RATE, "PCM_16", 1)
        whole, short = (soundfile.read(tmp_path / folder / name)[0] for folder in ("found", "short"))
        assert np.array_equal(whole[:SAMPLES], short) and not whole[SAMPLES:].any()
    first = archive.read_bytes()
    generate(*asked, "--out", tmp_path / "out", "--submission", archive)
    assert archive.read_bytes() == first


def test_a_longer_clip_is_cut_to_the_submission():
    from rlloop.recipes.generate_worker import fit

    wave = np.arange(30.0)
    assert np.array_equal(fit(wave, 10, 2.0), wave[:20]) and np.array_equal(fit(wave, 10, 4.0)[30:], np.zeros(10))
    assert fit(wave, 10, None) is wave


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("x" * 200, True), ("x" * 201, False), ("音" * 66, True), ("音" * 67, False), ("a\tb", False), ("a\x85b", False),
     ("a/b", False), ("a\\b", False), (".a", False), ("", False), ("a b", True)],
)  # fmt: skip
def test_an_id_is_a_file_name(name, is_one):
    assert is_file_name(name) == is_one


def test_several_base_seeds_name_clips_apart():
    rows = [Row("piano", "a"), Row("drums", "b")]
    assert [(clip.path, clip.seed) for clip in request_clips(rows, [5, 50], "flac")] == [
        ("a-s5.flac", 5), ("b-s6.flac", 6), ("a-s50.flac", 50), ("b-s51.flac", 51)
    ]  # fmt: skip


def test_file_names_of_different_prompts_differ():
    assert prompt_name("a calm piano piece", 7) == "a-calm-piano-piece-s7"
    prompts = ["lo-fi", "lo fi", "Lo fi", "lo, fi", "x" * 300, "x" * 301, "ピアノ", "!"]
    names = [prompt_name(prompt, 0) for prompt in prompts]
    assert len(set(names)) == len(prompts) and all(len(name) < 80 and "/" not in name for name in names)


@pytest.mark.parametrize(("suffix", "bits"), [("wav", 16), ("wav", 24), ("wav", 32), ("flac", 16), ("flac", 24)])
def test_a_file_tells_how_it_was_made(tmp_path, suffix, bits):
    wave = np.random.default_rng(0).uniform(-1, 1, 1001).astype(np.float32)
    details = {"prompt": 'ピアノ "quoted" 🎵', "long": "x" * 20_000, "seed": 7}
    path = tmp_path / f"clip.{suffix}"
    write_tagged(path, wave, 16_000, details, bits)
    heard, rate = soundfile.read(path, dtype="float32")
    assert rate == 16_000 and np.abs(heard - wave).max() <= 2.0 ** (1 - bits) and read_details(path) == details
    assert json.loads(generate("--show", path)) == details
    assert list(tmp_path.iterdir()) == [path]


def test_files_of_others_have_no_details(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16_000)
    soundfile.write(tmp_path / "a.flac", np.zeros(100), 16_000)
    for name, data in (("cut.wav", b"RIFF\0\0\0\0WAVELIST"), ("empty.wav", b""), ("text.flac", b"text")):
        (tmp_path / name).write_bytes(data)
    assert [read_details(path) for path in tmp_path.iterdir()] == [None] * 5
    for name in ("a.wav", "nothing.wav"):
        assert "no clip of rlloop generate" in generate("--show", tmp_path / name, status=2)
