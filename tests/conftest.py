"""What every test shares."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, the one event loop that the Kubernetes client knows."""
    return "asyncio"
