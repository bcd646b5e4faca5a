"""Captions in their four forms, one line for a bad row, and where their audio is found."""

import json

import pytest

from rlloop.data.captions import Captioned, locate, read_captions

WANTED = [Captioned("a/one", "a/one.wav", "slow jazz"), Captioned("two", "two.mp3", "a waltz, in \u201cthree\u201d")]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_four_forms_say_the_same(tmp_path):
    objects = [{"path": one.path, "caption": one.caption} for one in WANTED]
    files = [
        write(tmp_path / "c.tsv", "path\tcaption\na/one.wav\tslow  jazz\ntwo.mp3\ta waltz, in \u201cthree\u201d\n"),
        write(tmp_path / "c.csv", 'Path,Caption\na/one.wav, slow jazz\ntwo.mp3,"a waltz,\nin \u201cthree\u201d"\n'),
        write(tmp_path / "c.jsonl", "".join(json.dumps(row) + "\n\n" for row in objects)),
    ]
    for file in files:
        assert read_captions(file) == WANTED, file
    challenge = [{"path": "00/1085700.mp3", "caption": "slow jazz"}, {"path": "a/one.wav", "caption": "x"}]
    assert read_captions(write(tmp_path / "c.json", json.dumps(challenge))) == [
        Captioned("1085700", "00/1085700.mp3", "slow jazz"),
        Captioned("one", "a/one.wav", "x"),
    ]


def test_ids_prompts_and_empty_captions(tmp_path):
    file = write(tmp_path / "c.jsonl", '{"id": 7, "prompt": " "}\n{"id": "b", "path": "x/y.wav", "caption": "c"}\n')
    assert read_captions(file) == [Captioned("7", "", ""), Captioned("b", "x/y.wav", "c")]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.tsv", "file\tcaption\na\tb\n", ["columns ['file', 'caption']", "path or id"]),
        ("c.csv", "path,text\na,b\n", ["expected caption or prompt"]),
        ("c.csv", 'path,caption\na,"b\n', ["no table near line"]),
        ("c.tsv", "path\tcaption\na.wav\n", ["line 2", "texts under path (or id) and caption"]),
        ("c.jsonl", '{"path": "a.wav", "caption": "b"}\nnonsense\n', ["line 2 is not JSON", "correct the line"]),
        ("c.jsonl", '{"path": "a.wav"}\n', ["line 1", "caption"]),
        ("c.jsonl", '{"path": 3, "caption": "b"}\n', ["line 1", "3"]),
        ("c.jsonl", '{"path": "\\ud800.wav", "caption": "b"}\n', ["line 1", "surrogate"]),
        ("c.json", '[{"path": "a.wav", "caption": "b"}, 5]', ["entry 1", "int"]),
        ("c.json", '[{"path": "a.wav", "caption": "b"},\n oops]', ["line 2 is not JSON"]),
        (
            "c.json",
            '[{"path": "a/x.wav", "caption": "b"}, {"path": "b/x.wav", "caption": "b"}]',
            ["entry 1", "entry 0", "'x'"],
        ),  # fmt: skip  # noqa: E501
        ("c.jsonl", "\n", ["holds no rows"]),
        ("c.jsonl", "\0", ["NUL"]),
        ("c.parquet", "", [".tsv, .csv, .jsonl, .json"]),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(tmp_path, name, text, words):
    file = write(tmp_path / name, text)
    with pytest.raises(ValueError) as caught:
        read_captions(file)
    message = str(caught.value)
    assert message.startswith("captions: ") and str(file) in message and "\n" not in message
    assert all(word in message for word in words), message


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="captions: .*none.tsv is no file"):
        read_captions(tmp_path / "none.tsv")
    with pytest.raises(ValueError, match="none is no folder"):
        locate(WANTED, tmp_path / "none")


def test_audio_is_found_by_the_challenge_s_rule_by_path_or_by_id(tmp_path):
    for place in ("00/1085700_instrumental.mp3", "00/1085700.mp3", "a/one.wav", "seven.flac"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    listed = [
        Captioned("1085700", "00/1085700.mp3", ""),
        Captioned("gone", "gone.wav", ""),
        WANTED[0],
        Captioned("seven", "", ""),
        Captioned("eight", "", ""),
    ]
    files, missing = locate(listed, tmp_path)
    assert {name: str(path.relative_to(tmp_path)) for name, path in files.items()} == {
        "1085700": "00/1085700_instrumental.mp3",
        "a/one": "a/one.wav",
        "seven": "seven.flac",
    }
    assert list(missing) == ["gone", "eight"]
    assert "gone.wav" in missing["gone"] and "ne/gone_instrumental.mp3" in missing["gone"]


def test_a_caption_that_is_no_text_costs_its_row_alone(tmp_path):
    """As an empty one does: the job lists it."""
    listed = [{"path": "00/1.mp3", "caption": None}, {"path": "00/2.mp3", "caption": "x"}]
    assert [one.caption for one in read_captions(write(tmp_path / "c.json", json.dumps(listed)))] == ["", "x"]


def test_a_quote_in_a_tsv_may_be_a_letter(tmp_path):
    file = write(tmp_path / "c.tsv", 'path\tcaption\na.wav\t"Loud" drums\nb.wav\t"half\nc.wav\tx\n')
    assert [one.caption for one in read_captions(file)] == ['"Loud" drums', '"half', "x"]
    file = write(tmp_path / "d.tsv", 'path\tcaption\na.wav\t"two ""quoted""\twords"\n')
    assert [one.caption for one in read_captions(file)] == ['two "quoted" words']


def test_a_name_that_no_system_takes_is_a_file_that_is_not_there(tmp_path):
    files, missing = locate([Captioned("x" * 300, "", "a"), Captioned("y", "z" * 300 + ".wav", "a")], tmp_path)
    assert not files and set(missing) == {"x" * 300, "y"}
