"""`gpuid top` where its output is no terminal; tests/cli/test_terminal.py has the live view."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import msgspec
from click.testing import CliRunner, Result

from collector.cli import gpuid
from collector.health import Health
from tests.support.http import served

Serving = Callable[..., AbstractContextManager[str]]

WEAR = {"102": Health(row_remap_pending=True), "103": Health(row_remap_failure=True, row_remap_pending=True)}


def top(url: str) -> Result:
    return CliRunner().invoke(gpuid, ["top", "--url", url])


def test_degraded_gpus_are_counted_by_remedy(serving: Serving, alter: Callable[..., None]) -> None:
    alter("prod-a", lambda gpu: msgspec.structs.replace(gpu, health=WEAR.get(gpu.serial or "")))
    with serving() as url:
        heading, first, second = top(url).stdout.splitlines()
    start = heading.index("DEGRADED")
    assert [line[start:].strip() for line in (first, second)] == ["1 replace, 1 reset", "-"]


def test_degraded_gpus_of_an_older_collector_are_not_counted() -> None:
    cluster: dict[str, Any] = {"cluster": "c", "up": True, "nodes": 1, "nodes_read": 1, "gpus": 1}
    body = json.dumps({"next": None, "total": 1, "clusters": [cluster]}).encode()
    with served(lambda _headers, _body: (200, body), "application/json") as address:
        assert top(f"http://{address}").stdout.splitlines()[1].split() == ["c", "-", "1", "-", "1", *["-"] * 3]


def test_counts_may_have_any_value() -> None:
    cluster = {"cluster": "c", "up": True, "nodes": 1, "nodes_read": 1, "gpus": 1}
    odd = [7, "x", [], {"reset": "\x1b[31m"}, {"replace": {}, "reset": [1]}]
    body = json.dumps(
        {"next": None, "total": 5, "clusters": [cluster | {"gpus_degraded": one} for one in odd]}
    ).encode()
    with served(lambda _headers, _body: (200, body), "application/json") as address:
        result = top(f"http://{address}")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 6)
    assert result.stdout.replace("\n", "").isprintable()
