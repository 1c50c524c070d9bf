"""What every test shares."""

import pytest

pytest_plugins = ["tests.plugins.no_skips", "tests.plugins.prometheus", "tests.plugins.troubled"]


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, the one event loop that the Kubernetes client knows."""
    return "asyncio"
