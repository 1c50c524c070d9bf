"""Changes of the configured sinks, with and without a store that takes them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import cast

import anyio
import pytest

from collector.backoff import Backoff
from collector.config.sinks import SinkSettings, StdoutSettings
from collector.delivery.delivery import Delivery
from collector.delivery.reconciler import SinkReconciler
from collector.store import StoreError
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

OUT, OTHER = {"out": StdoutSettings()}, {"other": StdoutSettings()}


class FakeDelivery:
    """Applies sinks unless the store is unavailable."""

    def __init__(self) -> None:
        self.available = True
        self.tried: list[Mapping[str, SinkSettings]] = []
        self.applied: list[Mapping[str, SinkSettings]] = []

    async def reconcile(self, sinks: Mapping[str, SinkSettings]) -> None:
        self.tried.append(sinks)
        if not self.available:
            raise StoreError("database is locked")
        self.applied.append(sinks)


@asynccontextmanager
async def reconciling(delivery: FakeDelivery, *, patience: float = 60.0, retry: float = 0.01) -> AsyncIterator:
    reported: list[list[str]] = []
    reconciler = SinkReconciler(
        cast("Delivery", delivery),
        lambda sinks: reported.append(list(sinks)),
        backoff=Backoff(initial=retry, maximum=retry),
        patience_seconds=patience,
    )
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reconciler.run)
            yield reconciler, reported
            tasks.cancel_scope.cancel()


async def test_sinks_are_applied_before_it_returns() -> None:
    delivery = FakeDelivery()
    async with reconciling(delivery) as (reconciler, reported):
        await reconciler.reconcile(OUT)
        await reconciler.reconcile(OTHER)
        assert delivery.applied == [OUT, OTHER]
        assert reported == [["out"], ["other"]]


async def test_an_unavailable_store_is_retried_without_delaying_others(caplog: pytest.LogCaptureFixture) -> None:
    delivery = FakeDelivery()
    delivery.available = False
    async with reconciling(delivery, patience=0.01) as (reconciler, reported):
        await reconciler.reconcile(OUT)
        assert reported == []
        assert "cannot update sinks while the store is unavailable; retrying: database is locked" in caplog.text
        delivery.available = True
        await eventually(lambda: reported)
        assert reported == [["out"]]


async def test_a_newer_request_replaces_a_waiting_one() -> None:
    delivery = FakeDelivery()
    delivery.available = False
    async with reconciling(delivery, retry=3600.0) as (reconciler, reported), anyio.create_task_group() as tasks:
        tasks.start_soon(reconciler.reconcile, OUT)
        await eventually(lambda: delivery.tried)
        delivery.available = True
        await reconciler.reconcile(OTHER)
        assert delivery.applied == [OTHER]
        assert reported == [["other"]]
        tasks.cancel_scope.cancel()
