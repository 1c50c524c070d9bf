"""The client of a running collector."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from collector.cli.client import Client
from collector.cli.errors import CommandError
from collector.cli.export import collector_rows
from collector.config import ConfigError, Duration

Serving = Callable[..., AbstractContextManager[str]]


def client(url: str, **options: Any) -> Client:
    return Client(url=url, timeout=Duration(10), **options)


def test_all_pages_of_gpus_are_fetched(serving: Serving):
    with serving() as url, client(url, page_size=2) as asked:
        pages = [[gpu["uuid"] for gpu in page] for page in asked.gpus({})]
    assert pages == [["GPU-a1", "GPU-a2"], ["GPU-a3", "GPU-b1"], ["GPU-b2"]]


def test_all_pages_of_clusters_are_fetched(serving: Serving):
    with serving() as url, client(url, page_size=1) as asked:
        assert [cluster["cluster"] for cluster in asked.clusters()] == ["prod-a", "prod-b"]


@pytest.mark.anyio
async def test_an_export_of_many_pages_is_complete(serving: Serving):
    with serving() as url, client(url, page_size=1) as asked:
        rows = [row["uuid"] async for page in collector_rows(asked) for row in page]
    assert rows == ["GPU-a1", "GPU-a2", "GPU-a3", "GPU-b1", "GPU-b2"]


def test_filters_may_have_several_values(serving: Serving):
    with serving() as url, client(url) as asked:
        (page,) = asked.gpus({"node": ["n1", "n3"], "cluster": ["prod-b"]})
    assert [gpu["uuid"] for gpu in page] == ["GPU-b1", "GPU-b2"]


def test_the_error_is_the_reason_from_the_api(serving: Serving):
    with serving() as url, client(url) as asked, pytest.raises(CommandError) as raised:
        asked.get("/api/v1/gpus", {"limit": "0"}, dict[str, Any])
    assert raised.value.message.startswith(f"{url}: limit: ")


def test_an_answer_of_another_shape_is_an_error(serving: Serving):
    with serving() as url, client(url) as asked, pytest.raises(CommandError, match="not from a gpuid collector"):
        asked.get("/api/v1/gpus", {}, list[str])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file or directory"),
        (b" \n", "the file is empty"),
        (b"\xff\xfe", "expected UTF-8 text"),
        ("tökén".encode(), "invalid characters in token"),
        (b"two\nlines", "invalid characters in token"),
    ],
)
def test_an_unusable_token_file_is_a_configuration_error(tmp_path: Path, content: bytes | None, reason: str):
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        client("http://127.0.0.1:1", token_file=file)
    assert str(raised.value) == f"--token-file: {file}: {reason}"


def test_the_password_of_a_url_is_not_repeated() -> None:
    with client("http://ann:hunter2@127.0.0.1:1") as asked, pytest.raises(CommandError) as raised:
        asked.clusters()
    assert str(raised.value.message) == "http://127.0.0.1:1: connection refused; is a collector running there?"
