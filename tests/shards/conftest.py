"""A fleet for several shards."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from collector.simulator import Simulator
from tests.shards.site import CLUSTERS, GPUS_OF_A_NODE, NODES, Site
from tests.support.postgres import postgres_server
from tests.support.receiver import receiving

__all__ = ["postgres_server"]


@pytest.fixture
def site(tmp_path: Path, postgres_server: object, request: pytest.FixtureRequest) -> Iterator[Site]:
    """Six clusters, a webhook receiver and an empty store."""
    store = str(request.getfixturevalue("postgres_server").new_database())
    simulator = Simulator(
        clusters=len(CLUSTERS), nodes=NODES, gpus=GPUS_OF_A_NODE, latency=0.02, directory=tmp_path / "simulator"
    )
    with (
        receiving() as receiver,
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(simulator),
    ):
        site = Site(tmp_path, simulator, portal, receiver, store)
        try:
            yield site
        finally:
            for process in site.processes:
                process.stop(signal.SIGKILL)
