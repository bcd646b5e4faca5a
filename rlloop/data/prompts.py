"""Prompt files: text, CSV, TSV or JSON lines, in whatever encoding people save them."""

import codecs
import csv
import io
import json
import logging
import re
from pathlib import Path

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parents[1] / "assets" / "mini" / "prompts.jsonl"
SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl")
SPLITS = ("train", "heldout", "all")


def read_prompts(path: Path | str, column: str = "prompt") -> list[str]:
    """Reads the prompts of a file in their order, without duplicates.

    txt: one per line; csv and tsv: the column of that name; jsonl: the key. Blanks in a row are brought to single ones.
    Empty prompts are skipped, repeated ones kept once, and both are counted in the log.

    Raises:
        ValueError: one line that says what was found, what was expected and what to change.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"prompts: {path} does not exist; expected a file ({', '.join(SUFFIXES)}); correct the path")
    if path.is_dir():
        raise ValueError(f"prompts: {path} is a directory; expected a file ({', '.join(SUFFIXES)}); name one in it")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"prompts: {path} ends in {suffix!r}; expected {', '.join(SUFFIXES)}; rename it")
    text = decode(path.read_bytes(), path)
    if suffix == ".txt":
        found = _parse_txt(text)
    elif suffix == ".jsonl":
        found = _parse_jsonl(text, path, column)
    else:
        found = _parse_csv(text, path, column.lower(), "\t" if suffix == ".tsv" else ",")
    rows = [" ".join(row.split()) for row in found]
    filled = [row for row in rows if row]
    if not filled:
        raise ValueError(f"prompts: {path} holds no prompt ({len(rows)} empty rows); expected at least one; add one")
    prompts = list(dict.fromkeys(filled))
    if len(filled) < len(rows):
        log.info("prompts: %s: skipped %d empty of %d rows", path, len(rows) - len(filled), len(rows))
    if len(prompts) < len(filled):
        log.info("prompts: %s: kept %d of %d rows, the others are duplicates", path, len(prompts), len(filled))
    return prompts


def decode(data: bytes, path: Path) -> str:
    """UTF-8 with or without BOM, UTF-16 by its BOM, else Latin-1, which is logged; NUL bytes are refused."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"prompts: {path} begins as UTF-16 and breaks off at byte {error.start}; expected text; save as UTF-8"
            ) from error
    if b"\0" in data:
        raise ValueError(
            f"prompts: {path} has a NUL byte at {data.index(0)}; expected text in UTF-8 or UTF-16 with BOM; "
            f"save it as UTF-8"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        log.warning("prompts: %s is not UTF-8 (byte %d); read as Windows-1252 or Latin-1", path, error.start)
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _parse_txt(text: str) -> list[str]:
    # splitlines would also cut at NEL and other characters that no editor takes for a line's end.
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def _parse_csv(text: str, path: Path, column: str, delimiter: str) -> list[str]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = [name.strip().lower() for name in reader.fieldnames or []]
    if column not in columns:
        raise ValueError(
            f"prompts: {path} has the columns {columns}; expected one named {column!r}; add a header line with it"
        )
    reader.fieldnames = columns
    try:
        return [row[column] or "" for row in reader]
    except csv.Error as error:
        raise ValueError(f"prompts: {path} is no CSV near line {reader.line_num}: {error}; correct the line") from error


def _parse_jsonl(text: str, path: Path, column: str) -> list[str]:
    prompts = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            prompts.append("")
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"prompts: {path} line {number} is not JSON ({error.msg}); expected an object with the key {column!r}; "
                f"correct the line"
            ) from error
        prompt = row.get(column) if isinstance(row, dict) else None
        if not isinstance(prompt, str):
            raise ValueError(
                f'prompts: {path} line {number} has no text under {column!r}; expected {{"{column}": "..."}}; add it'
            )
        if re.search("[\ud800-\udfff]", prompt):  # JSON can hold one, no file, network or tokenizer takes it
            raise ValueError(
                f"prompts: {path} line {number} holds half of a surrogate pair; expected text; correct the line"
            )
        prompts.append(prompt)
    return prompts


def shipped_prompts(split: str = "all") -> list[str]:
    """The prompts that travel with the mini stack: 60 "train", 20 "heldout", or "all" in the order of their ids."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    rows = [json.loads(line) for line in SHIPPED.read_text(encoding="utf-8").splitlines()]
    return [row["prompt"] for row in rows if split in ("all", row["split"])]
