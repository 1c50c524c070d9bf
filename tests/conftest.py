"""What every test shares."""

import gc
import logging
import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import hypothesis
import pytest

from collector import gc_freeze

# A busy machine may take any time over one example: that is no failure.
hypothesis.settings.register_profile("gpuid", deadline=None)
hypothesis.settings.load_profile("gpuid")

pytest_plugins = [
    "tests.support.alone",
    "tests.support.helm",
    "tests.support.marks",
    "tests.support.no_skips",
    "tests.support.prometheus",
    "tests.support.troubled",
]


def pytest_configure() -> None:
    """Make tests independent of how this run was started: of a terminal's size or an ignored Ctrl-C."""
    for name in ("COLUMNS", "LINES"):  # pytest-xdist's workers inherit them from readline
        os.environ.pop(name, None)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each process that a test starts would compile gpuid again
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's background jobs and their children have it
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave the tests and all that they import out of garbage collections.

    A collector that a test runs in this process collects fully whenever it starts, and would visit them every time.
    """
    gc.collect()
    gc.freeze()
    vars(gc_freeze)["gc"] = SimpleNamespace(**{**vars(gc), "freeze": _do_nothing, "unfreeze": _do_nothing})


def _do_nothing() -> None: ...


@pytest.fixture(autouse=True)
def log_settings() -> Iterator[None]:
    """Undo how a command that a test runs in this process logs: the tests after it look for log lines, too."""
    loggers = (logging.getLogger(), logging.getLogger("collector"))
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if type(handler).__module__.startswith("collector.")]:
        root.removeHandler(handler)


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, the one event loop that the Kubernetes client knows."""
    return "asyncio"
