"""The installed Chromium, driven by Playwright, and what a page that it opened did wrong."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

__all__ = ["browser", "chromium", "violations"]

_ARGUMENTS = (
    "--no-sandbox",  # which Chromium refuses to do without as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_DEADLINE = 30_000  # milliseconds


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run the browser; LookupError when there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise LookupError("no chromium on PATH: install Debian's package chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=[*_ARGUMENTS], timeout=2 * _DEADLINE)
        try:
            yield running
        finally:
            running.close()


# Playwright keeps an event loop in this thread while it runs, so it must end before a module with async tests begins.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a module."""
    try:
        running = chromium()
        with running as browser:
            yield browser
    except LookupError as absent:
        pytest.skip(str(absent))


def violations(page: Page) -> list[str]:
    """What axe finds wrong with the page: each rule, with the elements that break it."""
    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {[node['html'] for node in rule['nodes']]}" for rule in found]
