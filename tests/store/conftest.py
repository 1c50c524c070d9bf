"""What the tests of the store share: an empty store on either engine, and a fleet that changes."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from collector.store import StoreSettings
from tests.support.postgres import postgres_server
from tests.support.recorded_fleet import RecordedFleet, collecting

__all__ = ["postgres_server"]


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> StoreSettings:
    """Settings of a store that is not there yet, on each engine."""
    if request.param == "sqlite":
        return StoreSettings(url=f"sqlite://{tmp_path}/gpuid.db")
    return StoreSettings(url=request.getfixturevalue("postgres_server").new_database())


@pytest.fixture
def sqlite_settings(tmp_path: Path) -> StoreSettings:
    return StoreSettings(url=f"sqlite://{tmp_path}/gpuid.db")


@pytest.fixture(scope="session", name="collecting")
def recording() -> Callable[..., contextlib.AbstractAsyncContextManager[RecordedFleet]]:
    """Return what opens a store as a collector does."""
    return collecting
