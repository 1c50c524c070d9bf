"""Runs a module's tests with a mutant in its place, each in a forked process; it leaves nothing in the checkout."""

import ast
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest

__all__ = ["Baseline", "passes", "preload"]

PRELOADED = (
    "aiohttp",
    "anyio",
    "asyncpg",
    "hypothesis",
    "kubernetes_asyncio",
    "msgspec",
    "prometheus_client",
    "sqlalchemy",
)
MARGIN = 3  # times as long as without a fault
MARGIN_SECONDS = 3.0


class Baseline:
    """How long the tests take as they are."""

    def __init__(self, cpu: float, elapsed: float) -> None:
        self.cpu = cpu
        self.elapsed = elapsed


class _InPlace(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives a module other code than its file has."""

    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        self._name, self._path, self._tree = name, path, tree

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != self._name:
            return None
        return importlib.util.spec_from_file_location(name, self._path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._tree, self._path, "exec"), module.__dict__)


def preload() -> None:
    """Import what all tests use and no mutant changes."""
    for name in PRELOADED:
        importlib.import_module(name)
    for plugin in importlib.metadata.entry_points(group="pytest11"):
        plugin.load()


def passes(
    module: str, path: str, tree: ast.Module, tests: Sequence[str], baseline: Baseline | None
) -> tuple[bool, float, float]:
    """Return whether the tests pass with this code, and the seconds of processor time and of elapsed time.

    Without a baseline, it takes as long as it takes.
    """
    assert module not in sys.modules, "it would be tested as it is imported"
    with tempfile.TemporaryDirectory() as examples:
        child = os.fork()
        if child == 0:
            os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = examples
            _run(module, path, tree, tests, baseline)
        return _wait(child, baseline)


def _wait(child: int, baseline: Baseline | None) -> tuple[bool, float, float]:
    started = time.monotonic()
    deadline = started + (max(60.0, MARGIN * baseline.elapsed + MARGIN_SECONDS) if baseline else 1e9)
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            return status == 0, usage.ru_utime + usage.ru_stime, time.monotonic() - started
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.02)


def _run(module: str, path: str, tree: ast.Module, tests: Sequence[str], baseline: Baseline | None) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        os.environ.pop("PYTEST_ADDOPTS", None)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        if baseline is not None:
            seconds = int(MARGIN * baseline.cpu + MARGIN_SECONDS)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        sys.meta_path.insert(0, _InPlace(module, path, tree))
        code = int(
            pytest.main(
                ["-q", "-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning", *tests]
            )
        )
    finally:
        os._exit(code)
