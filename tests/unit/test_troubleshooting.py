"""docs/troubleshooting.md quotes what the source says, and names keys that exist."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from rlloop.config import Config

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "troubleshooting.md"
HOLE = "\0"  # where an f-string has a value
LEFT_OUT = "…"


def quotes(page: str) -> list[str]:
    """The first cell of every row, without the backticks around it."""
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    return [re.match(r"\| `(.*?)` \| ", row)[1] for row in rows]


def texts(source: str) -> list[str]:
    """Every string of a module that is no docstring, its values as holes; a message in two literals is one string."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            found.append(node.value)
    return found


def says(text: str, quote: str) -> bool:
    """Whether the fixed parts of a quote are in a message, in order, with a value wherever something is left out."""
    parts = [part.strip() for part in quote.split(LEFT_OUT)]
    if not all(part in text for part in parts):
        return False
    return re.search(f".*{HOLE}.*".join(map(re.escape, parts)), text, re.DOTALL) is not None


@pytest.fixture(scope="module")
def messages() -> list[str]:
    files = [file for room in ("rlloop", "actors") for file in sorted((REPOSITORY / room).rglob("*.py"))]
    return [text for file in files for text in texts(file.read_text())] + [(REPOSITORY / "Makefile").read_text()]


def test_a_message_is_found_by_its_fixed_parts_alone():
    [text] = texts('"""no disk"""\nraise ValueError(f"{path}: no " f"disk, {free} free; free some")\n')[:1]
    assert says(text, "…: no disk, … free") and says(text, "no disk") and says(text, "free some")
    assert not says(text, "no … disk") and not says(text, "no disc") and not says(text, "free; … no disk")
    assert texts('def f():\n    """no disk"""\n') == []


def test_every_quoted_line_is_in_the_source(messages):
    gone = [quote for quote in quotes(PAGE.read_text()) if not any(says(text, quote) for text in messages)]
    assert gone == []


def test_quotes_are_long_enough_to_find_and_none_comes_twice():
    found = quotes(PAGE.read_text())
    assert len(found) > 40 and len(set(found)) == len(found)
    short = [quote for quote in found if len(re.sub(rf"[{LEFT_OUT}\s]", "", quote)) < 10]
    assert short == []


def test_keys_and_pages_that_it_names_exist():
    page = PAGE.read_text()
    keys = set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?:=[^`]*)?`", page))
    assert {"limits.object_store", "loop.stall_timeout_s"} <= keys
    named = {key for key in keys if key.split(".")[0] in Config.model_fields}
    assert [key for key in sorted(named) if not is_key(key)] == []
    assert all((REPOSITORY / path).is_file() for path in re.findall(r"`((?:docs|tests)/[\w/]+\.\w+)`", page))


def is_key(key: str) -> bool:
    model = Config
    for part in key.split("."):
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or part not in model.model_fields:
            return False
        annotation = model.model_fields[part].annotation
        model = next((each for each in (annotation, *get_args(annotation)) if isinstance(each, type)), None)
    return True
