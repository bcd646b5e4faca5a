"""What the pages tell a reader to type exists: commands, options, targets, configurations, files, weights."""

import re
import shlex
import subprocess
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


SHELL = re.compile(r"(?:make|rlloop|python|ray|kubectl|aws|gcloud|export|source|\.venv/bin/\w+|\w+=\$\()\b")
KEYWORDS = {"do", "then", "else", "while", "until", "if", "!"}


def shell_blocks(page: str) -> list[str]:
    """Indented blocks that are typed into a shell, told by their first word."""
    blocks = re.findall(r"(?:^ {4}.*\n(?:\n(?= {4}))?)+", page, re.MULTILINE)
    cut = [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in blocks]
    return [block for block in cut if SHELL.match(block)]


def simple_commands(script: str) -> list[list[str]]:
    """The words of every simple command of a shell script; those handed to another machine are among them."""
    plain = re.sub(r"(^|\s)# .*$", "", script.replace("\\\n", " "), flags=re.MULTILINE)
    plain = re.sub(r"""(?<=\s)(["'])\1(?=[\s;&|)])""", r"\1 \1", plain + "\n")  # the lexer loses an empty word there
    lexer = shlex.shlex(plain, posix=True, punctuation_chars=";&|()\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";&|()\n"):
            commands.append([])
        elif commands[-1] or word not in KEYWORDS:
            commands[-1].append(word)
    found = [command for command in commands if command]
    return found + [inner for command in found for inner in simple_commands(remote_script(command))]


def remote_script(command: list[str]) -> str:
    """What `ray exec FILE SCRIPT`, `ray job submit` and `kubectl exec` run, and `env -u` and `bash -c`; '': nothing."""
    if command[:2] == ["ray", "exec"]:
        return command[3]
    if command[:2] == ["kubectl", "exec"] or command[:3] == ["ray", "job", "submit"]:
        return shlex.join(command[command.index("--") + 1 :])
    if command[:2] == ["env", "-u"]:
        return shlex.join(command[3:])
    return command[2] if command[:2] == ["bash", "-c"] else ""


def parses(script: str) -> bool:
    return subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).returncode == 0


def check_rlloop(words: list[str]) -> None:
    """Raises what the command line itself would say of these words behind `rlloop`."""
    command, rest = command_of(words)
    command.make_context("rlloop", rest)


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
def test_blocks_are_shell_also_where_another_machine_runs_them(page):
    for block in shell_blocks(page.read_text()):
        assert parses(block), block
        for command in simple_commands(block):
            assert not command[0].startswith("-"), f"{page.name}: {command} begins with an option"
            assert parses(remote_script(command)), command
            assert not re.search(r"(?<!;)\n", remote_script(command)), f"{command}: a line ends without ; or \\"
            if command[0] == "rlloop" and "..." not in command:
                check_rlloop([re.sub(r"\$\{?\w+\}?", "x", word) for word in command[1:]])


def test_the_cluster_page_is_read_as_shell():
    blocks = shell_blocks((REPOSITORY / "docs" / "cluster.md").read_text())
    found = [" ".join(command[:2]) for block in blocks for command in simple_commands(block)]
    assert {"ray exec", "aws efs", "ray job", "rlloop doctor", "kubectl cp", "kubectl port-forward"} <= set(found)
    assert found.count("rlloop features") == found.count("tensorboard --logdir") == 2  # by ray, and by kubectl


def test_a_script_with_a_line_that_is_no_command_is_found():
    torn = "ray exec FILE 'for f in a; do rlloop features $f --out x\n  --prefix \"\"; done'\n"
    assert parses(torn) and ["--prefix", " "] in simple_commands(torn)  # the shell takes it for a command
    assert not parses("ray exec FILE 'for f in a") and not parses(remote_script(["ray", "exec", "FILE", "do x"]))
    inner = simple_commands("kubectl exec pod -c ray -- bash -c 'a b; c'  # and 'a note\nd --e \\\n f")
    assert inner[1] == ["d", "--e", "f"] and ["a", "b"] in inner and ["c"] in inner
    with pytest.raises(Exception, match="Missing parameter: out"):
        check_rlloop(["features", "x"])


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
