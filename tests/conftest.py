"""What every test shares."""

import hypothesis
import pytest

# A busy machine may take any time over one example: that is no failure.
hypothesis.settings.register_profile("gpuid", deadline=None)
hypothesis.settings.load_profile("gpuid")

pytest_plugins = ["tests.support.no_skips", "tests.support.prometheus", "tests.support.troubled"]


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, the one event loop that the Kubernetes client knows."""
    return "asyncio"
