"""Corpora on disk: what is written is read, the baseline's folders as they are, and what is damaged is refused."""

import json
import pickle
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlloop.data.corpus import CorpusRow, CorpusSpec, CorpusWriter, open_corpus

SPEC = CorpusSpec((3, 2), "vae", ("reward", "clap"), {"text": (4, 5), "text_c": (6,)})


def exact(*shape, start=0):
    """Numbers that float16 holds."""
    return (np.arange(start, start + np.prod(shape), dtype=np.float32) % 64 / 4 - 3).reshape(shape)


def make_row(n, **changes):
    features = {"text": exact(4, 5, start=n), "text_c": exact(6, start=n)}
    given = dict(mean=exact(3, 2, start=n), std=exact(3, 2, start=n + 7), features=features, scores={"reward": n / 8})
    return CorpusRow(**({"id": f"r{n}", "prompt": f"prompt {n}"} | given | changes))


def write(folder, rows, spec=SPEC, **options):
    with CorpusWriter(folder, spec, **options) as writer:
        for row in rows:
            writer.add(row)
    return folder


def assert_same(found, expected):
    assert (found.id, found.prompt) == (expected.id, expected.prompt)
    pairs = [(found.mean, expected.mean), (found.std, expected.std)]
    assert set(found.features or {}) == set(expected.features or {})
    pairs += [(found.features[name], value) for name, value in (expected.features or {}).items()]
    for a, b in pairs:
        assert (a is None) == (b is None)
        if b is not None:
            assert a.dtype == np.float32
            np.testing.assert_array_equal(a, b)


def refused(call, *words):
    """The message is one line and has these words."""
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message
    return message


# ---- round trip


def test_what_is_written_is_read(tmp_path):
    rows = [make_row(n) for n in range(150)]
    rows[3] = make_row(3, std=None, scores={"reward": float("nan"), "clap": 0.25})
    rows[4] = make_row(4, scores={"reward": None}, prompt='a "quoted"\tprompt\nof two lines, ü')
    corpus = open_corpus(write(tmp_path / "c", rows, shard_rows=100))
    assert (len(corpus), corpus.latent_shape, corpus.score_names) == (150, (3, 2), ("reward", "clap"))
    assert corpus.spec == SPEC and corpus.shard_rows.tolist() == [100, 50]
    found = list(corpus)
    for a, b in zip(found, rows, strict=True):
        assert_same(a, b)
    assert [found[n].scores for n in (2, 3, 4)] == [
        {"reward": 0.25, "clap": None},
        {"reward": None, "clap": 0.25},
        {"reward": None, "clap": None},
    ]


def test_a_corpus_without_features_and_its_layout(tmp_path):
    spec = CorpusSpec((3, 2), "vae")
    folder = write(tmp_path, [make_row(n, features=None, scores={}) for n in range(65)], spec)
    row = open_corpus(folder).read_group(0, 1)[0]
    assert (row.id, row.features, row.scores) == ("r64", None, {})
    table = pq.read_table(folder / "part-00000.parquet").to_pylist()[1]
    assert np.frombuffer(table["mean"], "<f2").reshape(table["shape"]).tolist() == exact(3, 2, start=1).tolist()
    assert table["text"] is None and table["text_shape"] is None
    found = json.loads((folder / "corpus.json").read_text())
    assert {key: found[key] for key in ("version", "rows", "latent_shape", "latent_identity", "score_names")} == {
        "version": 1,
        "rows": 65,
        "latent_shape": [3, 2],
        "latent_identity": "vae",
        "score_names": [],
    }
    assert [(shard["file"], shard["rows"]) for shard in found["shards"]] == [("part-00000.parquet", 65)]
    assert pq.ParquetFile(folder / "part-00000.parquet").metadata.row_group(0).num_rows == 64


# ---- writing


def test_a_killed_writer_leaves_a_half_written_corpus_that_another_finishes(tmp_path):
    with pytest.raises(RuntimeError, match="killed"), CorpusWriter(tmp_path, SPEC, shard_rows=4) as writer:
        for n in range(10):
            writer.add(make_row(n))
        raise RuntimeError("killed")
    (tmp_path / "part-00002.parquet.tmp").write_bytes(b"half")
    refused(lambda: open_corpus(tmp_path), tmp_path, "half-written", "2 shards", "corpus.json")
    with CorpusWriter(tmp_path, SPEC, shard_rows=4) as writer:
        assert writer.known == {f"r{n}" for n in range(8)}
        for n in range(8, 10):
            writer.add(make_row(n))
    corpus = open_corpus(tmp_path)
    assert [row.id for row in corpus] == [f"r{n}" for n in range(10)]
    assert corpus.shard_rows.tolist() == [4, 4, 2]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_finished_corpus_takes_more_rows_and_stays_readable_meanwhile(tmp_path):
    write(tmp_path, [make_row(0)])
    with CorpusWriter(tmp_path, SPEC) as writer:
        writer.add(make_row(1))
        writer.flush()
        assert len(open_corpus(tmp_path)) == 1
    assert len(open_corpus(tmp_path)) == 2


@pytest.mark.parametrize(
    "row, words",
    [
        (make_row(1, mean=exact(2, 3)), ("r1", "mean is [2, 3]", "[3, 2]")),
        (make_row(1, mean=np.full((3, 2), 1e6)), ("r1", "mean", "1e+06")),
        (make_row(1, std=np.full((3, 2), np.nan)), ("r1", "std is not finite")),
        (make_row(1, features=None), ("r1", "[]", "['text', 'text_c']")),
        (make_row(1, scores={"loudness": 1.0}), ("r1", "loudness", "reward, clap")),
        (make_row(1, scores={"clap": float("inf")}), ("r1", "clap is inf")),
        (make_row(0), ("r0", "already")),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, row, words):
    writer = CorpusWriter(tmp_path, SPEC)
    writer.add(make_row(0))
    refused(lambda: writer.add(row), *words)


def test_a_writer_refuses_other_rows_no_rows_and_a_file_in_place_of_a_folder(tmp_path):
    write(tmp_path / "a", [make_row(0)])
    other = CorpusSpec((3, 2), "another vae", SPEC.score_names, SPEC.feature_shapes)
    refused(lambda: CorpusWriter(tmp_path / "a", other), "part-00000.parquet", "latent_identity", "another vae")
    refused(lambda: write(tmp_path / "b", []), "b gets no rows")
    (tmp_path / "c").write_text("")
    refused(lambda: CorpusWriter(tmp_path / "c", SPEC), tmp_path / "c", "cannot be written")


# ---- damage


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "corpus", [make_row(n) for n in range(100)], shard_rows=50)


def edit(folder, **changes):
    path = folder / "corpus.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_folders_that_are_no_corpus(tmp_path):
    refused(lambda: open_corpus(tmp_path / "none"), tmp_path / "none", "not a folder", "rlloop data prepare")
    (tmp_path / "song.wav").write_bytes(b"")
    refused(lambda: open_corpus(tmp_path), tmp_path, "not a corpus", "npz.tsv", "song.wav")


def test_a_damaged_description(folder):
    edit(folder, version=2)
    refused(lambda: open_corpus(folder), "corpus.json", "version is 2", "reads 1")
    edit(folder, version=1, rows=99)
    refused(lambda: open_corpus(folder), "corpus.json", "rows is 99", "hold 100")
    edit(folder, rows=100, latent_shape=None)
    refused(lambda: open_corpus(folder), "corpus.json", "damaged or foreign")
    for shape in ([3], [3, 0], ["a", 2]):
        edit(folder, latent_shape=shape)
        refused(lambda: open_corpus(folder), "corpus.json", "damaged or foreign")
    edit(folder, latent_shape=[3, 2], shards=[{"file": "../x.parquet", "rows": 100, "bytes": 1}])
    refused(lambda: open_corpus(folder), "corpus.json", "../x.parquet")
    for text in ("{", "[]", "\xff"):
        (folder / "corpus.json").write_bytes(text.encode("latin-1"))
        refused(lambda: open_corpus(folder), "corpus.json", "damaged or foreign")


def test_shards_that_are_missing_or_truncated_are_found_before_reading(folder):
    shard = folder / "part-00001.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    refused(lambda: open_corpus(folder), shard, len(whole) - 10, len(whole))
    shard.unlink()
    refused(lambda: open_corpus(folder), shard, "missing", "2 shards")


def test_damage_inside_a_shard_is_found_when_it_is_read(folder):
    shard = folder / "part-00000.parquet"
    corpus, whole = open_corpus(folder), shard.read_bytes()
    place = whole.index(exact(4, 5).astype("<f2").tobytes())
    shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    refused(lambda: corpus.read_group(0, 0), shard, "damaged")
    shard.write_bytes(whole[: len(whole) // 2])
    refused(lambda: corpus.read_group(0, 0), shard, "damaged")


def test_a_shard_of_another_corpus_is_refused(folder, tmp_path):
    shard = folder / "part-00000.parquet"
    corpus = open_corpus(folder)
    other = CorpusSpec((3, 2), "other", SPEC.score_names, SPEC.feature_shapes)
    shutil.copy(write(tmp_path / "other", [make_row(n) for n in range(50)], other) / shard.name, shard)
    refused(lambda: corpus.read_group(0, 0), shard, "latent_identity is other", "vae")
    shutil.copy(write(tmp_path / "short", [make_row(n) for n in range(49)]) / shard.name, shard)
    refused(lambda: corpus.read_group(0, 0), shard, "49 rows", "50")
    table = pq.read_table(shard)
    pq.write_table(table.drop_columns(["std"]), shard)
    refused(lambda: corpus.read_group(0, 0), shard, "mean binary", "expected those of a corpus")
    pq.write_table(table.replace_schema_metadata(None), shard)
    refused(lambda: corpus.read_group(0, 0), shard, "no shard")


# ---- the baseline's folders


def write_npz(folder, count, table="npz.tsv", **columns):
    """A folder as the baseline's scripts leave it; returns its arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = []
    for n in range(count):
        rng = np.random.default_rng(n)
        shapes = {"mean": (3, 2), "std": (3, 2), "text_features": (4, 5), "text_features_c": (6,)}
        arrays.append({key: rng.standard_normal(shape, dtype=np.float32) for key, shape in shapes.items()})
        np.savez(folder / f"{n}.npz", **arrays[-1])
    columns = {"id": [f"00{n}" for n in range(count)], "caption": [f"song {n}" for n in range(count)]} | columns
    lines = ["\t".join(columns), *("\t".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    (folder / table).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return arrays


def test_an_npz_folder_is_read_as_it_is(tmp_path):
    captions = ['"two\nlines, a ""quote"""', "NaN", "song 2"]
    scores = {"instrumental_reward_score": ["", "nan", "-1.5"], "clap": ["0.25", "1", ""], "start_sample": [0, 441, 9]}
    arrays = write_npz(tmp_path, 3, caption=captions, **scores)
    corpus = open_corpus(tmp_path)
    assert (len(corpus), corpus.latent_shape) == (3, (3, 2))
    assert corpus.score_names == ("instrumental_reward_score", "clap")
    assert corpus.spec.feature_shapes == {"text": (4, 5), "text_c": (6,)}
    rows = list(corpus)
    assert [row.id for row in rows] == ["000", "001", "002"]
    assert [row.prompt for row in rows] == ['two\nlines, a "quote"', "NaN", "song 2"]
    assert [list(row.scores.values()) for row in rows] == [[None, 0.25], [None, 1.0], [-1.5, None]]
    for row, found in zip(rows, arrays, strict=True):
        features = {"text": found["text_features"], "text_c": found["text_features_c"]}
        assert_same(row, CorpusRow(row.id, row.prompt, found["mean"], found["std"], features))


def test_the_table_may_lie_beside_its_folder(tmp_path):
    write_npz(tmp_path / "a" / "npz", 2, table="../npz.tsv")
    write_npz(tmp_path / "combined_npz", 2, table="../combined_npz.tsv")
    for name in ("a", "a/npz", "combined_npz"):
        assert [row.prompt for row in open_corpus(tmp_path / name)] == ["song 0", "song 1"]


def test_npz_folders_whose_files_do_not_fit_the_table(tmp_path):
    write_npz(tmp_path, 4)
    (tmp_path / "3.npz").unlink()
    refused(lambda: open_corpus(tmp_path), "npz.tsv has 4 rows", "3 npz files")
    shutil.copy(tmp_path / "1.npz", tmp_path / "7.npz")
    refused(lambda: open_corpus(tmp_path), "3.npz is missing", "4 rows, 4 npz files")
    (tmp_path / "0.npz").unlink()
    refused(lambda: open_corpus(tmp_path), "0.npz is missing", "has 4 rows", "3 npz files")


def test_damaged_npz_folders(tmp_path):
    write_npz(tmp_path, 3, reward=[0.5, 0.5, 0.5])
    corpus, path = open_corpus(tmp_path), tmp_path / "1.npz"
    whole = path.read_bytes()
    np.savez(path, mean=np.array([{"a": 1}], dtype=object))
    refused(lambda: corpus.read_group(1, 0), path, "allow_pickle=False")
    for content in (pickle.dumps({"mean": 1}), whole[:-30], b""):
        path.write_bytes(content)
        refused(lambda: corpus.read_group(1, 0), path, "damaged or no npz")
    np.savez(path, mean=exact(2, 3))
    refused(lambda: corpus.read_group(1, 0), path, "mean is [2, 3], 0.npz has [3, 2]")
    path.unlink()
    refused(lambda: corpus.read_group(1, 0), path, "No such file")
    write_npz(tmp_path, 3, reward=[0.5, "inf", 0.5])
    refused(lambda: open_corpus(tmp_path), "npz.tsv", "reward of row 1 is infinite")
    (tmp_path / "npz.tsv").write_text("id\ttext\n0\ta\n1\tb\n2\tc\n")
    refused(lambda: open_corpus(tmp_path), "npz.tsv", "no column caption", "id, text")
    (tmp_path / "npz.tsv").write_text("id\tcaption\n0\ta\tb\n")
    assert re.search("npz.tsv", refused(lambda: open_corpus(tmp_path), "not a readable table"))
