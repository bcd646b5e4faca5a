"""Who may import whom: the table of the house, read from the source."""

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ALL_ROOMS = {
    "algorithms", "audio", "config", "data", "evaluation", "flow", "loop", "models", "recipes", "resources", "rewards",
    "views", "weights",
}  # fmt: skip
METHOD = {"flow", "audio", "config", "weights"}
NEVER_IN_METHOD = {"ray", "deepspeed"}


@dataclass(frozen=True)
class Rule:
    """What a room may import.

    `rooms`: parts of rlloop besides itself; `never`: packages; `never_at_top`: packages that only functions may
    import; `rooms_at_top`: parts of rlloop outside functions, where that is fewer than `rooms`.
    """

    rooms: frozenset[str] | set[str]
    never: frozenset[str] | set[str]
    never_at_top: frozenset[str] | set[str] = frozenset()
    rooms_at_top: frozenset[str] | set[str] | None = None


ENTRY = Rule(ALL_ROOMS | {"preflight"}, set(), {"ray", "torch", "actors"}, {"config", "resources"})
RULES = {
    "flow": Rule(set(), NEVER_IN_METHOD | {"actors"}),
    "audio": Rule(set(), NEVER_IN_METHOD | {"actors"}),
    "models": Rule(METHOD, NEVER_IN_METHOD | {"actors"}),
    "rewards": Rule(METHOD, NEVER_IN_METHOD | {"actors"}),
    "data": Rule(METHOD, NEVER_IN_METHOD | {"actors"}),
    "evaluation": Rule(METHOD, NEVER_IN_METHOD | {"actors"}),
    "loop": Rule({"config"}, {"torch", "ray", "deepspeed", "actors"}),
    "config": Rule(set(), {"torch", "ray", "actors"}),
    "weights": Rule({"config"}, {"ray", "actors"}),
    "resources": Rule({"config", "algorithms"}, {"torch", "ray", "actors"}),
    "algorithms": Rule({"flow", "config"}, {"ray", "torch.distributed", "deepspeed", "actors"}),
    "recipes": Rule(ALL_ROOMS, {"ray", "actors"}),
    "views": Rule({"config", "loop", "evaluation", "resources"}, {"ray", "torch", "actors"}),
    "main": ENTRY,
    "conformance": ENTRY,
    "preflight": ENTRY,
    "commands": ENTRY,
}


@dataclass(frozen=True)
class Import:
    module: str
    is_top: bool
    where: str


def imports_of(file: Path) -> list[Import]:
    """Every import in a file; those for type checkers only are left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found = []
    for node in ast.walk(tree):
        where = f"{file.relative_to(REPOSITORY)}:{getattr(node, 'lineno', 0)}"
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where}: relative import; write it out"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [Import(name, id(node) not in inside, where) for name in names]
    return found


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def breaches(room: str, rule: Rule, imports: list[Import]) -> list[str]:
    """Lines that name each import that the rule forbids."""
    found = []
    for item in imports:
        banned = {package for package in rule.never if is_within(item.module, package)}
        if item.is_top:
            banned |= {package for package in rule.never_at_top if is_within(item.module, package)}
        found += [f"{item.where}: {room} imports {item.module}" for _ in banned]
        parts = item.module.split(".")
        if parts[0] != "rlloop" or len(parts) == 1 or parts[1] == room:
            continue
        allowed = rule.rooms_at_top if item.is_top and rule.rooms_at_top is not None else rule.rooms
        if parts[1] not in allowed:
            found.append(f"{item.where}: {room} imports {item.module}")
    return found


def files_of(room: str) -> list[Path]:
    single = REPOSITORY / "rlloop" / f"{room}.py"
    return [single] if single.is_file() else sorted((REPOSITORY / "rlloop" / room).rglob("*.py"))


@pytest.mark.parametrize("room", RULES)
def test_room(room):
    imports = [item for file in files_of(room) for item in imports_of(file)]
    assert not breaches(room, RULES[room], imports)


def test_every_room_has_a_rule():
    paths = [path for path in (REPOSITORY / "rlloop").iterdir() if path.suffix == ".py" or any(path.glob("*.py"))]
    assert {path.stem for path in paths} - {"__init__"} <= RULES.keys()


def test_actors():
    for file in sorted((REPOSITORY / "actors").rglob("*.py")):
        never = {"rlloop.main", "rlloop.commands"}
        if "trainer" not in file.stem and "engine" not in file.stem and "sharded" not in file.stem:
            never.add("deepspeed")
        for item in imports_of(file):
            assert not any(is_within(item.module, package) for package in never), f"{item.where}: {item.module}"


def test_the_test_sees_nested_and_top_imports(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "REPOSITORY", tmp_path)
    (tmp_path / "a.py").write_text(
        "import ray\ndef f():\n    from torch import nn\n    from rlloop.models import policy\n"
    )
    imports = imports_of(tmp_path / "a.py")
    assert len(breaches("loop", RULES["loop"], imports)) == 3
    assert len(breaches("commands", RULES["commands"], imports)) == 1
