"""Reference sets: what is kept, what is noticed, and the shipped one of the mini stack."""

import logging

import numpy as np
import pytest
import torch
from transformers import ClapModel

from rlloop.evaluation.frechet import FrechetStatistics
from rlloop.evaluation.reference import cached_reference, load_reference
from rlloop.recipes.embedders import (
    MINI_REFERENCE,
    WINDOW_SECONDS,
    clap_embedder,
    make_embedder,
    mert_embedder,
    middle,
    musicnn_embedder,
)
from rlloop.rewards.base import Clip
from rlloop.rewards.clap import ClapEmbedder
from rlloop.weights.clap import to_laion
from tests.tiny_encoders import CLAP_WIDTH, clap_config, make_clap_tokenizer
from tests.unit.test_mert import SIZES, make_folder, wave


class Ear:
    """Hears a file's bytes, and remembers which files it was given."""

    def __init__(self):
        self.heard = []

    def __call__(self, files):
        self.heard += [file.name for file in files]
        good = [file for file in files if file.read_bytes()]
        rows = [[len(file.read_bytes()), file.read_bytes()[0]] for file in good]
        return np.array(rows, dtype=float).reshape(-1, 2), {file: "is empty" for file in files if file not in good}


def folder_of(path, **contents: bytes):
    path.mkdir(exist_ok=True)
    for name, content in contents.items():
        (path / name).write_bytes(content)
    return path, sorted(path.iterdir())


def test_a_second_call_hears_nothing_whatever_names_and_order(tmp_path):
    ear, cache = Ear(), tmp_path / "cache"
    folder, files = folder_of(tmp_path / "a", x=b"one", y=b"three", z=b"")
    first = cached_reference(folder, files, "ear 1", ear, cache)
    assert first.embeddings.tolist() == [[3, ord("o")], [5, ord("t")]] and first.failures == {"z": "is empty"}
    assert first.statistics.mean == pytest.approx([4, (ord("o") + ord("t")) / 2]) and first.statistics.count == 2
    moved, others = folder_of(tmp_path / "b", q=b"three", r=b"one", s=b"")
    again = cached_reference(moved, others[::-1], "ear 1", ear, cache)
    assert ear.heard == ["x", "y", "z"] and again.checksum == first.checksum


def test_another_ear_or_crop_seed_is_another_entry(tmp_path):
    ear, cache = Ear(), tmp_path / "cache"
    folder, files = folder_of(tmp_path / "a", x=b"one", y=b"three")
    keys = {cached_reference(folder, files, identity, ear, cache).key for identity in ("clap, seed 0", "clap, seed 1")}
    assert len(keys) == 2 and len(ear.heard) == 4


def test_a_changed_folder_is_noticed_and_only_what_is_new_is_heard(tmp_path, caplog):
    ear, cache = Ear(), tmp_path / "cache"
    folder, files = folder_of(tmp_path / "a", x=b"one", y=b"three", z=b"five")
    before = cached_reference(folder, files, "ear", ear, cache)
    (folder / "x").unlink()
    _, files = folder_of(folder, y=b"seven!", new=b"nine")
    with caplog.at_level(logging.WARNING):
        after = cached_reference(folder, files, "ear", ear, cache)
    assert "has changed since it was cached: 1 changed, 1 added, 1 removed" in caplog.text
    assert ear.heard == ["x", "y", "z", "new", "y"] and before.checksum != after.checksum
    assert after.embeddings.tolist() == [[4, ord("n")], [6, ord("s")], [4, ord("f")]]


def test_nothing_to_hear_is_one_line(tmp_path):
    folder, files = folder_of(tmp_path / "a", x=b"one", y=b"")
    with pytest.raises(ValueError, match=r"1 of 2 files could be heard, 2 needed \(y: is empty\)"):
        cached_reference(folder, files, "ear", Ear(), tmp_path / "cache")


def test_a_damaged_entry_is_not_used(tmp_path):
    folder, files = folder_of(tmp_path / "a", x=b"one", y=b"three")
    cached_reference(folder, files, "ear", Ear(), tmp_path / "cache")
    (entry,) = (tmp_path / "cache").iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="do not have the entry's checksum"):
        load_reference(entry)
    entry.write_bytes(whole[:-3])
    with pytest.raises(ValueError, match="is no reference"):
        cached_reference(folder, files, "ear", Ear(), tmp_path / "cache")


def test_the_shipped_reference_is_of_the_shipped_ear():
    shipped = FrechetStatistics.load(MINI_REFERENCE)
    assert (shipped.dim, shipped.count) == (200, 360)
    assert shipped.source["embedding"] == musicnn_embedder().identity
    assert np.linalg.eigvalsh(shipped.cov)[0] > -1e-9


def test_noise_lies_further_from_the_shipped_reference_than_a_chord():
    """Two clips a side: only the direction is asked for."""
    time, rng = np.arange(int(16_000 * WINDOW_SECONDS)) / 16_000, np.random.default_rng(0)
    chord = sum(np.sin(2 * np.pi * hz * time) / n for hz in (220, 277, 330) for n in (1, 2, 3))
    beat = (np.exp(-8 * (time % 0.5)) * chord).astype(np.float32)
    embedder, shipped = musicnn_embedder(), FrechetStatistics.load(MINI_REFERENCE)
    near, far = (
        shipped.distance(FrechetStatistics.of(embedder.embed([Clip(0.1 * x, 16_000, "") for x in pair])))
        for pair in ([beat, beat[::2].repeat(2)], rng.standard_normal((2, len(time))).astype(np.float32))
    )
    assert far > 1.5 * near > 0


def test_the_middle_of_a_long_clip_and_the_short_one_itself():
    clip = Clip(np.arange(100, dtype=np.float32), 10, "")
    assert middle(clip, 4).audio.tolist() == list(range(30, 70))
    assert middle(clip, 10) is clip and middle(clip, 11) is clip


def test_clap_hears_a_random_part_of_a_long_track_by_its_seed(tmp_path):
    """On a tiny CLAP: a short clip is the same to every seed, a long one is not, and the seed is in the identity."""
    torch.manual_seed(0)
    torch.save({"state_dict": to_laion(ClapModel(clap_config()).state_dict())}, tmp_path / "clap.pt")
    tokenizer, rng = make_clap_tokenizer(tmp_path / "tokenizer"), np.random.default_rng(0)
    fade = np.linspace(0, 0.5, 16_000 * 14, dtype=np.float32)
    long = Clip(fade * rng.standard_normal(len(fade)).astype(np.float32), 16_000, "")
    short = middle(long, 3)
    ears = [
        clap_embedder(checkpoint=tmp_path / "clap.pt", clap=ClapEmbedder(
            tmp_path / "clap.pt", tokenizer, "cpu", seed=seed, config=clap_config()))
        for seed in (0, 1)
    ]  # fmt: skip
    first, second = (ear.embed([long, short]) for ear in ears)
    assert first.shape == (2, CLAP_WIDTH) and ears[0].identity != ears[1].identity
    assert np.allclose(first[1], second[1]) and not np.allclose(first[0], second[0], atol=1e-4)
    with pytest.raises(ValueError, match="embedding 'bat': expected one of musicnn, clap, mert"):
        make_embedder("bat")


def test_mert_hears_the_whole_clip(tmp_path):
    make_folder(tmp_path)
    ear, samples = mert_embedder(folder=tmp_path), wave(1.5)
    whole, half = ear.embed([Clip(samples, 24_000, ""), Clip(samples[:18_000], 24_000, "")])
    assert whole.shape == (SIZES["hidden_size"],) and not np.allclose(whole, half)
    assert ear.identity.startswith("mert ") and "do_normalize False" in ear.identity
