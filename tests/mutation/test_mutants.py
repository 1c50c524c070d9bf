"""Mutants differ from the module and from each other, and its tests run with them in its place."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.in_place import in_bodies
from tests.mutation.mutants import mutants

ROOT = Path(__file__).parents[2]
SOURCE = """def f(a):
    if a < 3 and not a:
        return a + 1
"""
TESTS = """from sample import f


def test_three_is_not_below_three():
    assert f(0) == 1
    assert f(3) is None
"""
RUN = """import ast, sys
from pathlib import Path
from tests.mutation.runs import passes

source = Path("sample.py").read_text()
for change in (("", ""), ("a < 3", "a < 9"), ("a + 1", "a - 1")):
    print(passes("sample", "sample.py", ast.parse(source.replace(*change)), ["test_sample.py"], None)[0])
import sample
try:
    passes("sample", "sample.py", ast.parse(source), ["test_sample.py"], None)
except AssertionError as error:
    print(error)
"""


def test_each_mutant_has_one_fault() -> None:
    found = [*mutants(SOURCE)]
    assert [(one.line, one.before, one.after) for one in found] == [
        (2, "a < 3 and (not a)", "a < 3 or not a"),
        (2, "a < 3", "a <= 3"),
        (2, "a < 3", "a >= 3"),
        (2, "3", "4"),
        (2, "not a", "a"),
        (3, "return a + 1", "return None"),
        (3, "a + 1", "a - 1"),
        (3, "1", "2"),
    ]
    dumps = {ast.dump(one.tree) for one in found} | {ast.dump(ast.parse(SOURCE))}
    assert len(dumps) == len(found) + 1
    for one in found:
        compile(one.tree, "sample.py", "exec")


def test_what_is_not_run_has_no_mutants() -> None:
    source = 'import a\n"""Text."""\n\ndef f(a: 3 | 4) -> 5:\n    """Text."""\n    log.info("text", 6)\n'
    assert [*mutants(source)] == []


def test_a_function_that_runs_at_import_is_not_changed_in_place() -> None:
    """With such a fault the module might not be imported at all, and no test would run."""
    source = "def a(x):\n    return x\n\ndef b():\n    return map(a, 'x')\n\ndef c():\n    return b()\n\nLIMIT = b()\n"
    assert in_bodies(source) == {8}


def test_tests_run_with_the_mutant_alone(tmp_path: Path) -> None:
    """Neither the options of the run of which this is part nor a module that is imported already change the result."""
    (tmp_path / "sample.py").write_text(SOURCE)
    (tmp_path / "test_sample.py").write_text(TESTS)
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTEST_ADDOPTS": "--collect-only",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    done = subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["True", "True", "False", "it would be tested as it is imported"], done.stderr


IN_PLACE = """from pathlib import Path
from tests.mutation.in_place import in_bodies, survivors
from tests.mutation.mutants import mutants

source = Path("sample.py").read_text()
bodies = in_bodies(source)
every = [one for one in mutants(source) if one.line in bodies]
for one in survivors("sample", Path("sample.py").resolve(), every, ["test_sample.py"]):
    print(one.line, one.before, "->", one.after)
"""
DECORATED = """import functools

def three():
    return 3

LIMIT = three()

class C:
    @property
    def small(self):
        return self.of(2) + 1

    @staticmethod
    @functools.lru_cache
    def of(a):
        if a < LIMIT:
            return a
        return 0 - 1

class D(C):
    def __init__(self):
        super().__init__()
        self.twice = self.of(2) * LIMIT

def unused():
    return 4
"""
DECORATED_TESTS = """from sample import C, D


def test_small():
    assert C().small == 3
    assert C.of(3) == -1


def test_reached_but_not_compared():
    D()
"""


def test_mutants_are_tried_in_place(tmp_path: Path) -> None:
    """Also those of properties and decorated functions; those that no test reaches, or compares, survive.

    What runs when the module is imported cannot be changed in place.
    """
    (tmp_path / "sample.py").write_text(DECORATED)
    (tmp_path / "test_sample.py").write_text(DECORATED_TESTS)
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run([sys.executable, "-c", IN_PLACE], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "22 super().__init__() -> pass",
        "23 self.twice = self.of(2) * LIMIT -> pass",
        "23 self.of(2) * LIMIT -> self.of(2) / LIMIT",
        "23 2 -> 3",
        "26 return 4 -> return None",
        "26 4 -> 5",
    ], done.stderr


TESTS_IN_ORDER = """from sample import f

done = []


def test_once():
    done.append(f(0))


def test_again():
    {}
"""


@pytest.mark.parametrize(
    ("again", "reason"),
    [
        ("assert done", "fails without a fault, or takes too long, if it runs alone"),
        ("while not done: pass", "fails without a fault, or takes too long, if it runs alone"),
        ("assert not done", "fails without a fault, after the tests before it"),
    ],
)
def test_tests_that_depend_on_others_try_no_mutants(tmp_path: Path, again: str, reason: str) -> None:
    """They would fail alone with any mutant, as if they noticed it."""
    (tmp_path / "sample.py").write_text(SOURCE)
    (tmp_path / "test_sample.py").write_text(TESTS_IN_ORDER.format(again))
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    run = f"from tests.mutation import in_place\nin_place.MARGIN_SECONDS = 1\n{IN_PLACE}"
    done = subprocess.run([sys.executable, "-c", run], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == f"RuntimeError: sample: test_sample.py::test_again {reason}"
