"""`python -m tests.support.pictures` takes the README's pictures, of `gpuid demo` with its 60 days, light and dark.

The last digits of a serial are typed on the page, and `gpuid where` is asked for it: the sequence on finding a serial.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from tests.support.chromium import chromium
from tests.support.processes import free_ports

FOLDER = Path(__file__).parents[2] / "docs" / "images"
START_SECONDS = 60.0
COLUMNS = 96  # of the terminal
DIGITS = 5  # of the serial that are typed
TERMINALS = {  # background, text, and the eight colours
    "light": TerminalTheme(
        (255, 255, 255),
        (23, 26, 31),
        [
            (23, 26, 31),
            (179, 21, 47),
            (26, 122, 58),
            (122, 86, 0),
            (36, 86, 201),
            (90, 63, 180),
            (20, 110, 120),
            (92, 101, 112),
        ],
    ),
    "dark": TerminalTheme(
        (19, 21, 25),
        (230, 233, 237),
        [
            (230, 233, 237),
            (255, 138, 141),
            (88, 196, 122),
            (226, 184, 74),
            (140, 176, 255),
            (184, 163, 255),
            (110, 200, 210),
            (154, 163, 174),
        ],
    ),
}


def main() -> None:
    """Take every picture."""
    FOLDER.mkdir(exist_ok=True)
    with demo() as (url, said), chromium() as browser:
        uuid = re.findall(r"/gpus/(GPU-\S+)", said)[0]
        wait_for_conflict(url)
        serial = str(httpx.get(f"{url}/api/v1/gpus/{uuid}").raise_for_status().json()["serial"])
        for scheme in TERMINALS:
            ending = "" if scheme == "light" else "-dark"
            shoot(browser, url, "/", scheme, FOLDER / f"fleet{ending}.png", height=900)
            shoot(browser, url, f"/gpus/{uuid}", scheme, FOLDER / f"gpu{ending}.png", height=1000)
            typed(browser, url, serial[-DIGITS:], scheme, FOLDER / f"find-1{ending}.png")
            terminal(url, serial, scheme, FOLDER / f"find-2{ending}.svg")


@contextmanager
def demo() -> Iterator[tuple[str, str]]:
    """Run the demo until it has read all of its nodes; gives its URL, and what it said."""
    (port,) = free_ports(1)
    command = [sys.executable, "-u", "-m", "collector", "demo", "--listen", f"127.0.0.1:{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            said, started = "", time.monotonic()
            while "gpuid noticed" not in said and time.monotonic() - started < START_SECONDS:
                assert process.stdout is not None
                said += process.stdout.readline()
            yield f"http://127.0.0.1:{port}", said
        finally:
            process.terminate()


def wait_for_conflict(url: str) -> None:
    """Wait until the two nodes that claim one GPU have been read again."""
    started = time.monotonic()
    while time.monotonic() - started < START_SECONDS:
        clusters = httpx.get(f"{url}/api/v1/clusters").raise_for_status().json()["clusters"]
        if any(cluster["conflicts"] for cluster in clusters):
            return
        time.sleep(0.2)
    raise TimeoutError("the demo has no conflict")


@contextmanager
def opened(browser: Browser, url: str, path: str, scheme: str, height: int) -> Iterator[Page]:
    """Open a page of the demo; the scheme is light or dark."""
    dark = scheme == "dark"
    page = browser.new_page(
        base_url=url, viewport={"width": 1280, "height": height}, color_scheme="dark" if dark else "light"
    )
    page.goto(path)
    page.get_by_text("Live", exact=True).wait_for()
    yield page
    page.close()


def shoot(browser: Browser, url: str, path: str, scheme: str, file: Path, *, height: int) -> None:
    """Take the top of a page."""
    with opened(browser, url, path, scheme, height) as page:
        page.screenshot(path=file, animations="disabled")


def typed(browser: Browser, url: str, digits: str, scheme: str, file: Path) -> None:
    """Take what the page suggests while the digits are typed."""
    with opened(browser, url, "/", scheme, 320) as page:
        page.locator("#q").press_sequentially(digits)
        page.get_by_role("option").first.wait_for()
        page.screenshot(path=file, animations="disabled")


def terminal(url: str, serial: str, scheme: str, file: Path) -> None:
    """Run `gpuid where` and draw what it prints."""
    command = ["gpuid", "where", serial]
    environment = os.environ | {"COLUMNS": str(COLUMNS)}
    ran = subprocess.run(
        [sys.executable, "-m", "collector", *command[1:], "--url", url],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    with Path(os.devnull).open("w") as nowhere:
        console = Console(width=COLUMNS, record=True, file=nowhere, force_terminal=True)
        console.print(Text(f"$ {' '.join(command)}", style="bold"))
        console.print(Text(ran.stdout.rstrip()))
        drawn = console.export_svg(title="gpuid where", theme=TERMINALS[scheme], unique_id=f"gpuid-{scheme}")
    # Its fonts are elsewhere, and a picture is to ask for nothing.
    file.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
