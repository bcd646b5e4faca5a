"""Prompt files in the shapes and encodings that people have."""

import logging

import pytest

from rlloop.data.prompts import read_prompts, shipped_prompts

CONTENT = {
    "txt": "a slow waltz\n\n  café  jazz \r\na slow waltz\n",
    "csv": 'id,Prompt\n1,a slow waltz\n2,\n3,café jazz\n4,"a slow waltz"\n',
    "jsonl": '{"prompt": "a slow waltz"}\n\n{"prompt": "café jazz"}\n{"prompt": "a slow waltz", "id": 3}\n',
}


@pytest.mark.parametrize("suffix", CONTENT)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_formats_and_encodings(tmp_path, suffix, encoding, caplog):
    path = tmp_path / f"prompts.{suffix}"
    path.write_bytes(CONTENT[suffix].encode(encoding))
    with caplog.at_level(logging.INFO):
        assert read_prompts(path) == ["a slow waltz", "café jazz"]
    assert "duplicates" in caplog.text and "empty" in caplog.text
    assert ("Latin-1" in caplog.text) == (encoding == "latin-1")


def test_quotes_and_line_breaks_in_csv(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text('prompt\n"one, with a comma"\n"two\nlines"\n')
    assert read_prompts(path) == ["one, with a comma", "two lines"]


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("p.txt", b"", "holds no prompt"),
        ("p.txt", b"\n \n", "2 empty rows"),
        ("p.txt", b"a\0b", "NUL byte at 1"),
        ("p.txt", b"\xff\xfea", "breaks off"),
        ("p.csv", b"text\nhello\n", "columns"),
        ("p.jsonl", b'{"prompt": "a"}\n{broken\n', "line 2"),
        ("p.jsonl", b'{"text": "a"}\n', "line 1"),
        ("p.jsonl", b"[1]\n", "line 1"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": "\\ud800 b"}\n', "line 2 holds half of a surrogate"),
        ("p.xlsx", b"PK", ".xlsx"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path, name, data, found):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=found) as error:
        read_prompts(tmp_path / name)
    assert "\n" not in str(error.value) and "expected" in str(error.value) and name in str(error.value)


def test_missing_files_and_directories(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="is a directory"):
        read_prompts(tmp_path)


def test_shipped_prompts():
    train, heldout = shipped_prompts("train"), shipped_prompts("heldout")
    assert (len(train), len(heldout)) == (60, 20)
    assert train + heldout == shipped_prompts("all")
    assert not set(train) & set(heldout)
    with pytest.raises(ValueError, match="expected one of"):
        shipped_prompts("test")


def test_windows_text_keeps_its_ellipsis_and_broken_csv_is_one_line(tmp_path):
    windows = tmp_path / "w.txt"
    windows.write_bytes(b"slow\x85 and sad\r\nfast caf\xe9\r\n")
    assert read_prompts(windows) == ["slow\u2026 and sad", "fast caf\u00e9"]
    broken = tmp_path / "b.csv"
    broken.write_text('prompt\n"' + "a" * 140_000)
    with pytest.raises(ValueError, match="is no CSV near line"):
        read_prompts(broken)


def test_a_named_column_of_tsv_csv_and_jsonl(tmp_path):
    for name, data in (
        ("p.tsv", 'id\tCaption\n1\tone, with a comma\n2\t"a\ttab"\n'),
        ("p.csv", 'caption,prompt\n"one, with a comma",x\na tab,y\n'),
        ("p.jsonl", '{"Caption": "one, with a comma", "prompt": "x"}\n{"Caption": "a tab"}\n'),
    ):
        (tmp_path / name).write_text(data)
        assert read_prompts(tmp_path / name, column="Caption") == ["one, with a comma", "a tab"]
    with pytest.raises(ValueError, match="has the columns .*'caption', 'prompt'.*expected one named 'text'"):
        read_prompts(tmp_path / "p.csv", column="text")
