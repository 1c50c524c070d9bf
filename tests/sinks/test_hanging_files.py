"""A file system that hangs stops the sink whose files are there, and nothing else."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from collector import files
from collector.config import Duration
from collector.config.sinks import PostgresSettings, WebhookSettings
from collector.model import SinkRecord
from collector.sinks import UnavailableError, open_sink

pytestmark = pytest.mark.anyio


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no file be read before the end of the test, as on a network file system whose server is gone."""
    back = threading.Event()
    real = files.read_file

    def read(file: Any) -> bytes:
        back.wait(60)
        return real(file)

    monkeypatch.setattr(files, "read_file", read)
    yield
    back.set()


@pytest.mark.usefixtures("hanging")
@pytest.mark.parametrize(
    "settings",
    [
        WebhookSettings(url="http://127.0.0.1:1/", token_file=Path("/etc/hostname"), timeout=Duration(1)),
        WebhookSettings(url="http://127.0.0.1:1/", hmac_secret_file=Path("/etc/hostname"), timeout=Duration(1)),
        PostgresSettings(
            url="postgresql://a@127.0.0.1:1/b", password_file=Path("/etc/hostname"), connect_timeout=Duration(1)
        ),
    ],
)
async def test_a_hanging_file_delays_only_its_sink(settings: Any, record: Callable[..., SinkRecord]) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await anyio.sleep(0.01)
            turns += 1

    sink = open_sink("slow", settings)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(turn)
        with pytest.raises(UnavailableError):
            await sink.send([record()], key="k")
        tasks.cancel_scope.cancel()
    assert turns > 10
    await sink.aclose()
