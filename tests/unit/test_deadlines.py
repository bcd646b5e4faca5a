"""Calls in actors/ that wait for Ray, threads, processes or queues have a deadline, as far as the source shows it."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
OF_RAY = {"get", "wait"}
# Without an argument these wait until something comes; what only shares the name (str.join, dict.get) takes one.
OF_THREADS = {"result", "join", "wait", "get"}  # a future's; a thread's; an event's or process's; a queue's
ALLOWED = {
    "actors/copier.py Copier.finish.last: self._thread.join()": "in a thread that `finish` waits for with a deadline",
    "actors/jobs/trials.py TrialProcess.cleanup: self.process.wait()": "Tune bounds an actor's cleanup",
    "actors/learner.py ahead: now.result()": "a batch that this process makes; loop.stall_timeout_s ends such a run",
    "actors/pump.py Commits._take: self._pending.popleft().result()": "Session.call, which has a deadline",
    "actors/reporter.py Reporter.heard: ray.get(self._answer)": "ray.wait has just said that the answer is there",
}


class Waits(ast.NodeVisitor):
    """Collects `function: call` of every call in a source that may wait for ever."""

    def __init__(self, source: str) -> None:
        self.found: list[str] = []
        self._scope: list[str] = []
        self._modules, self._functions = {"ray"}, set[str]()
        self.visit(ast.parse(source))

    def visit_Import(self, node: ast.Import) -> None:
        self._modules |= {alias.asname for alias in node.names if alias.name == "ray" and alias.asname}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module == "ray":
            self._functions |= {alias.asname or alias.name for alias in node.names if alias.name in OF_RAY}

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self._scope.append(node.name)
        self.generic_visit(node)
        self._scope.pop()

    visit_AsyncFunctionDef = visit_ClassDef = visit_FunctionDef

    def visit_Call(self, node: ast.Call) -> None:
        limited = {keyword.arg for keyword in node.keywords if not is_none(keyword.value)}
        if self._is_of_ray(node.func):
            is_endless = "timeout" not in limited
        else:
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            is_endless = method in OF_THREADS and not limited - {"block"} and all(map(is_none, node.args))
        if is_endless:
            self.found.append(f"{'.'.join(self._scope)}: {ast.unparse(node)}")
        self.generic_visit(node)

    def _is_of_ray(self, called: ast.expr) -> bool:
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            return called.value.id in self._modules and called.attr in OF_RAY
        return isinstance(called, ast.Name) and called.id in self._functions


def is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def test_every_wait_has_a_deadline_or_a_reason():
    """One that is allowed and no longer there has to go from the list, too."""
    files = sorted((REPOSITORY / "actors").rglob("*.py"))
    found = [f"{file.relative_to(REPOSITORY)} {wait}" for file in files for wait in Waits(file.read_text()).found]
    assert sorted(found) == sorted(ALLOWED)


@pytest.mark.parametrize(
    "call",
    [
        "ray.get(answer)",
        "ray.get(answer, timeout=None)",
        "ray.wait([answer], num_returns=1)",
        "r.get(answer)",
        "get(answer)",
        "wait_for([answer])",
        "future.result()",
        "self.threads[0].join()",
        "event.wait()",
        "event.wait(None)",
        "process.wait(timeout=None)",
        "queue.get()",
        "queue.get(block=True)",
    ],
)
def test_a_wait_without_a_deadline_is_found(call):
    source = f"""
import ray as r
from ray import get, wait as wait_for

class Actor:
    async def work(self):
        return [{call} for n in range(3)]
"""
    assert Waits(source).found == [f"Actor.work: {call}"]


@pytest.mark.parametrize(
    "call",
    [
        "ray.get(answer, timeout=limit)",
        "ray.wait([answer], timeout=0)",
        "future.result(timeout=1)",
        "future.result(1)",
        "thread.join(max(0.0, limit))",
        "event.wait(1.0)",
        "queue.get(True, 1.0)",
        "queue.get(block=True, timeout=1.0)",
        "', '.join(names)",
        "os.path.join(folder, name)",
        "found.get(name)",
        "found.get(name, None)",
        "get(answer)",
        "ray.kill(actor)",
    ],
)
def test_a_wait_with_a_deadline_and_what_only_has_the_name_are_not_found(call):
    assert Waits(f"def work():\n    return {call}\n").found == []
