"""What the pages tell a reader to type exists: commands, options, targets, configurations, files, weights."""

import re
import shlex
import subprocess
import textwrap
from pathlib import Path

import pytest
from typer.main import get_command

from rlloop.commands.main import app
from rlloop.config import load
from rlloop.weights.catalogue import catalogue

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PAGES = [page for page in PAGES if page.name not in ("configuration.md", "log.md")]  # generated; history
GROUP = get_command(app)


def lines_that_begin(page: str, words: str) -> list[list[str]]:
    """The words behind a command, of every line in a block and every piece of code that begins with it."""
    blocks = re.findall(r"^ {4,}(.*)$", page, re.MULTILINE)
    pieces = re.findall(r"`([^`]+)`", page)
    found = [re.search(rf"(?:^|-- |bin/){re.escape(words)} (.*)$", line) for line in (*blocks, *pieces)]
    return [shlex.split(each[1].rstrip("\\"), comments=True) for each in found if each and "..." not in each[1]]


def command_of(words: list[str]):
    """The command that words name, and the words behind its name."""
    command, rest = GROUP, list(words)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    return command, rest


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page):
    for words in lines_that_begin(page.read_text(), "rlloop"):
        if not words or not re.fullmatch(r"[a-z-]+", words[0]) or len(words) > 1 and words[1] == "/":
            continue
        try:
            command, rest = command_of(words)
        except (KeyError, IndexError):
            pytest.fail(f"{page.name}: rlloop {' '.join(words)} is no command")
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        given = {word for word in rest if word.startswith("--")}
        assert given <= known | {"--help"}, f"{page.name}: rlloop {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_runs_name_presets_and_keys_that_exist(page):
    for words in lines_that_begin(page.read_text(), "python -m rlloop.main"):
        assert set(words) & {word for word in words if word.startswith("--")} <= {"--config", "--dry-run"}, words
        preset = words[words.index("--config") + 1] if "--config" in words else "mini"
        if preset not in ("NAME", "FILE") and not preset.startswith("/"):
            load(preset, [word for word in words if re.match(r"[a-z_][a-z_.0-9]*=", word)])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_targets_exist(page):
    text = page.read_text()
    named = re.findall(r"[`(]((?:rlloop|actors|configs|cluster|tests|bench|docs)/[\w./-]+\.\w+|[\w/]+\.png)[`)]", text)
    assert [path for path in named if not any((place / path).exists() for place in (REPOSITORY, page.parent))] == []
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    asked = set(re.findall(r"(?:^ {4}|`)make ([a-z][a-z-]+)", text, re.MULTILINE))
    assert asked <= targets, f"{page.name}: make {', '.join(sorted(asked - targets))}"


def test_the_readme_is_short_and_names_every_verb():
    assert len(README.splitlines()) < 180
    rows = "\n".join(line for line in README.splitlines() if line.startswith("| `"))
    mentioned = set(re.findall(r"[a-z-]+", rows))
    assert set(GROUP.commands) - mentioned - {"train-mini"} == set()  # what made the bundled weights; no user's tool


def test_the_readme_has_the_weights_with_their_licences():
    table = {
        name: licence.strip()
        for line in README.splitlines()
        if line.startswith("| `") and len(line.split("|")) == 5
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
        for licence in [line.split("|")[3]]
    }
    assert table == {entry.name: entry.licence for entry in catalogue().values()}


def blocks_of(page: str) -> list[str]:
    """Indented blocks, whole, without their indentation."""
    found = re.findall(r"(?:^ {4}.*\n?)+", page, re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


@pytest.mark.parametrize("name", ["cluster.md", "guide.md"])
def test_what_is_typed_is_whole_for_a_shell_here_and_on_the_node_that_gets_it(name):
    """Of a quoted command that goes over several lines each but the last goes on, or ends, on purpose."""
    remote = []
    for block in blocks_of((REPOSITORY / "docs" / name).read_text()):
        if re.match(r"(ray|aws|kubectl|make|rlloop|export|source) ", block):
            done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
            assert done.returncode == 0, (block, done.stderr)
            remote += re.findall(r"^ray exec \S+ '(.*?)'", block, re.MULTILINE | re.DOTALL)
    assert [each for each in remote if re.search(r"(?<![\\;])\n", each)] == []
    assert name != "cluster.md" or len(remote) >= 3
