"""The configuration is read when it changes, and again if it could not be read then."""

import errno
import os
from pathlib import Path

import anyio
import pytest

from collector.config import file_watch

pytestmark = pytest.mark.anyio


async def test_a_file_that_cannot_be_read_for_a_while_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[OSError] = []

    def fail(_path: Path) -> OSError:
        failures.append(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        return failures[-1]

    path = tmp_path / "gpuid.toml"
    path.write_text("old")
    monkeypatch.setattr(file_watch, "_REPLACE_SECONDS", 0.0)
    contents = file_watch.file_contents(path)
    with anyio.fail_after(300):
        assert await anext(contents) == b"old"
        with monkeypatch.context() as system:
            system.setattr(file_watch, "read_content", fail)
            path.write_text("new")
            while (content := await anext(contents)) == b"old":
                pass  # the same change can be reported more than once
            assert content is failures[-1]
        while (content := await anext(contents)) is failures[-1]:
            pass
        assert content == b"new"
    await contents.aclose()  # type: ignore[attr-defined]
