"""Tries mutants in forks of one process that has collected the tests, so that each costs only the tests that reach it.

The process first runs all tests in a fork, to learn which lines each of them reaches, and then each in a fork of its
own: one that passes only after others would seem to notice faults. For a mutant, a fork gives the module's functions
the mutant's code and runs the tests that reach the changed statement, the shortest first. What runs when the module is
imported, such as constants and default values, cannot be changed like this (`in_bodies`).
"""

import ast
import contextlib
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import coverage
import hypothesis
import pytest

from tests.mutation.mutants import Mutant

__all__ = ["in_bodies", "survivors"]

MARGIN = 5  # times as long as without a fault
MARGIN_SECONDS = 5
HANG_SECONDS = 30  # what a test may take longer, as it waits for what a fault prevents
HANG_MARGIN = 50  # times its processor time, on a busy machine
SHRINKING = (hypothesis.Phase.shrink, hypothesis.Phase.explain)


class Reach(NamedTuple):
    """How long a test runs, and which lines of the module it reaches."""

    seconds: float
    lines: frozenset[int]


def in_bodies(source: str) -> set[int]:
    """Return the lines of functions' bodies, except of those that run when the module is imported."""
    tree = ast.parse(source)
    every = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    outside = (one for one in tree.body if not isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef))
    names = (ast.walk(one.func) for part in outside for one in ast.walk(part) if isinstance(one, ast.Call))
    found = {one.id for parts in names for one in parts if isinstance(one, ast.Name)}
    called: set[str] = set()
    while found - called:  # and those that they use
        called |= found
        bodies = (ast.walk(part) for one in every if one.name in called for part in one.body)
        found = {one.id for parts in bodies for one in parts if isinstance(one, ast.Name)}
    functions = [one for one in every if one.name not in called]
    return {line for one in functions for line in range(one.body[0].lineno, (one.end_lineno or 0) + 1)}


def survivors(module: str, path: Path, mutants: Sequence[Mutant], tests: Sequence[str]) -> Iterator[Mutant]:
    """Yield the mutants that no test notices; all must be in the bodies of functions.

    Raises RuntimeError if a test fails without a fault, together with the others or alone.
    """
    if not mutants:
        return
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            os.close(read)
            _run(tests, _Loop(module, path, mutants, write))
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as answers:
        found = [line.strip() for line in answers]
    os.wait()
    if found[-1:] != ["done"]:
        why = found[-1] if found and not found[-1].isdigit() else "the tests do not run to their end"
        raise RuntimeError(f"{module}: {why}")
    yield from (mutants[int(at)] for at in found[:-1])


def _run(tests: Sequence[str], loop: "_Loop") -> None:
    os.environ.pop("PYTEST_ADDOPTS", None)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    pytest.main([*options, *tests], plugins=[loop])


class _Loop:
    """Takes the place of pytest's loop over the tests."""

    def __init__(self, module: str, path: Path, mutants: Sequence[Mutant], answer: int) -> None:
        self._module, self._path, self._mutants, self._answer = module, path, mutants, answer
        self._failed = ""  # the first test that did

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Write the number of each survivor and then that it is done, or which test fails without a fault."""
        for item in session.items:
            _do_not_shrink(item)
        reached: list[Reach] | str | None = _forked(lambda: self._reached(session.items))
        if not isinstance(reached, list):
            if reached is not None:
                self._write(f"{reached} fails without a fault, after the tests before it")
            return True
        for item, one in zip(session.items, reached, strict=True):
            if not _forked(lambda: self._pass([item]), _limit([one])):  # noqa: B023
                self._write(f"{item.nodeid} fails without a fault, or takes too long, if it runs alone")
                return True
            item.add_marker(pytest.mark.timeout(HANG_SECONDS + HANG_MARGIN * one.seconds), append=False)
        statements = _statements(self._path.read_text())
        for at, mutant in enumerate(self._mutants):
            chosen = _chosen(statements.get(mutant.line, ()), reached)
            seconds = _limit([reached[index] for index in chosen])
            items = [session.items[index] for index in chosen]
            if not items or _forked(lambda: self._passes(items, mutant.tree), seconds):  # noqa: B023
                self._write(str(at))
        self._write("done")
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note that a test failed."""
        if report.failed:
            self._failed = self._failed or report.nodeid

    def _write(self, line: str) -> None:
        os.write(self._answer, f"{line}\n".encode())

    def _run(self, items: Sequence[pytest.Item]) -> Iterator[int]:
        for at, item in enumerate(items):
            following = items[at + 1] if at + 1 < len(items) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            yield at

    def _reached(self, items: Sequence[pytest.Item]) -> list[Reach] | str:
        """Return what each test reaches, or which one fails."""
        measured = coverage.Coverage(include=[str(self._path)], data_file=None, config_file=False)
        seconds: list[float] = []
        measured.start()
        measured.switch_context("0")
        started = time.process_time()
        for at in self._run(items):
            seconds.append(time.process_time() - started)
            measured.switch_context(str(at + 1))
            started = time.process_time()
        measured.stop()
        lines: list[set[int]] = [set() for _ in range(len(items) + 1)]
        for line, contexts in measured.get_data().contexts_by_lineno(str(self._path)).items():
            for context in filter(None, contexts):
                lines[int(context)].add(line)
        found = [Reach(one, frozenset(reached)) for one, reached in zip(seconds, lines, strict=False)]
        return self._failed or found

    def _pass(self, items: Sequence[pytest.Item]) -> bool:
        return all(not self._failed for _ in self._run(items))

    def _passes(self, items: Sequence[pytest.Item], tree: ast.Module) -> bool:
        try:
            _change(sys.modules[self._module], str(self._path), tree)
        except Exception:  # such as a function without the variable of its class: nothing shows that a test would fail
            return True
        return self._pass(items)


def _limit(tests: Sequence[Reach]) -> int:
    """Return the seconds of processor time that some tests may take."""
    return int(MARGIN * sum(one.seconds for one in tests)) + MARGIN_SECONDS


def _chosen(ranges: Sequence[range], reached: Sequence[Reach]) -> list[int]:
    """Return the numbers of the tests that reach a range, the first one that any test reaches; the shortest first."""
    found: list[int] = []
    for lines in ranges:
        if found := [at for at, one in enumerate(reached) if not one.lines.isdisjoint(lines)]:
            break
    return sorted(found, key=lambda at: reached[at].seconds)


def _statements(source: str) -> dict[int, tuple[range, range]]:
    """Return, by line, the lines of its statement and of its function's body."""
    found: dict[int, tuple[range, range]] = {}

    def visit(node: ast.AST, function: range) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = range(node.body[0].lineno, (node.end_lineno or 0) + 1)
        if isinstance(node, ast.stmt):
            lines = range(node.lineno, (node.end_lineno or 0) + 1)
            found.update(dict.fromkeys(lines, (lines, function)))
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(source), range(0))
    return found


def _do_not_shrink(item: pytest.Item) -> None:
    """Let a property test stop at the first example that fails."""
    test = getattr(item, "obj", None)
    function = getattr(test, "__func__", test)
    machine = getattr(item, "cls", None)  # of a test that runs a state machine
    for owner, name in ((function, "_hypothesis_internal_use_settings"), (machine, "settings")):
        if isinstance(settings := getattr(owner, name, None), hypothesis.settings):
            phases = [phase for phase in settings.phases if phase not in SHRINKING]
            setattr(owner, name, hypothesis.settings(settings, phases=phases))


def _forked(work: Callable[[], Any], seconds: int | None = None) -> Any:
    """Return what a fork returns; None if it fails, or takes longer than some seconds of processor time."""
    read, write = os.pipe()
    with tempfile.TemporaryDirectory() as examples:
        child = os.fork()
        if child == 0:
            try:
                os.setpgid(0, 0)
                os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = examples
                if seconds is not None:
                    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 2))
                    signal.alarm(60 + 10 * seconds)
                answer = pickle.dumps(work())
                with os.fdopen(write, "wb") as file:
                    file.write(answer)
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as answers:
            found = answers.read()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return pickle.loads(found) if found else None


def _change(module: ModuleType, path: str, tree: ast.Module) -> None:
    """Give the functions of a module the code of a tree."""
    other = ModuleType(module.__name__)
    other.__dict__.update(__file__=module.__file__, __package__=module.__package__)
    exec(compile(tree, path, "exec"), other.__dict__)
    _change_all(module.__name__, vars(module), vars(other))


def _change_all(module: str, old: Any, new: Any) -> None:
    for name, value in new.items():
        known = old.get(name)
        if isinstance(value, type) and isinstance(known, type):
            if value.__module__ == module and value.__name__ == name:
                _change_all(module, vars(known), vars(value))
            continue
        for one, other in zip(_functions(known), _functions(value), strict=False):
            if other.__module__ == module:
                one.__code__ = other.__code__


def _functions(value: Any) -> Iterator[FunctionType]:
    """Yield the functions in a method, a property or a decorated function."""
    if isinstance(value, property):
        for one in (value.fget, value.fset, value.fdel):
            yield from _functions(one)
    elif isinstance(value, staticmethod | classmethod):
        yield from _functions(value.__func__)
    else:
        if isinstance(value, FunctionType):
            yield value
        if isinstance(wrapped := getattr(value, "__wrapped__", None), FunctionType):
            yield from _functions(wrapped)
