"""The consoles that tables and progress are drawn on."""

from collections.abc import Callable

import pytest
from rich.console import Console

from collector.cli.console import error_console, output_console


@pytest.mark.parametrize("make", [output_console, error_console])
def test_no_color_removes_all_styles(make: Callable[[], Console], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert make().color_system is not None
    monkeypatch.setenv("NO_COLOR", "1")
    assert make().color_system is None


def test_a_disabled_console_prints_nothing(capsys: pytest.CaptureFixture[str]):
    error_console(enabled=False).print("x")
    error_console().print("y")
    assert capsys.readouterr() == ("", "y\n")
