"""The history that several commands query, from a store and from a collector."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from collector.cli.history_queries import HistoryQueries
from collector.config import Duration
from collector.store import StoreSettings

Serving = Callable[..., AbstractContextManager[str]]


@pytest.fixture(params=["store", "collector"])
def queries(request: pytest.FixtureRequest, history_config: Path, serving: Serving) -> Iterator[HistoryQueries]:
    """Queries with pages of one row."""
    options = {"url": None, "config": history_config, "timeout": Duration(10)}
    if request.param == "store":
        yield HistoryQueries(options, page_size=1)
    else:
        with serving(store=StoreSettings(url=f"sqlite://{history_config.parent}/gpuid.db")) as url:
            yield HistoryQueries(options | {"url": url}, page_size=1)


def test_placements_of_a_gpu_are_complete(queries: HistoryQueries):
    assert [row["node"] for row in queries.gpu("100")] == ["n2", "n1"]
    assert queries.gpu("999") == []


def test_placements_in_a_node_are_complete(queries: HistoryQueries):
    assert [row["node"] for row in queries.node("n1", None)] == ["n1"]
    assert queries.node("n1", "lab") == []


def test_changes_are_complete_and_oldest_first(queries: HistoryQueries):
    now = time.time()
    assert [row["event"] for row in queries.changes(now - 7200, None)] == ["appeared", "moved"]
    assert [row["event"] for row in queries.changes(now - 600, "prod")] == ["moved"]
    assert queries.changes(now - 7200, "lab") == []
