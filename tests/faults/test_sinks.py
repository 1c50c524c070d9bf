"""What is read of what the sinks were given."""

import gzip
import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults import settings
from tests.faults.sinks import Sinks
from tests.support.receiver import Receiver

RECORD = {
    "event": "appeared", "uuid": "GPU-1", "gpu": "", "cluster": "c", "node": "n", "machine": "m", "chassis": "",
    "source": "ns/p", "time": "2026-01-01T00:00:00Z", "model": "H100", "changes": None, "last_known": None,
    "mark": None,
}  # fmt: skip


@pytest.fixture
def world() -> Any:
    return SimpleNamespace(
        receivers={name: Receiver("http://127.0.0.1:1/") for name in ("hook", settings.FURTHER_SINK)},
    )


def test_each_webhook_has_its_own_batches_compressed_or_not(world: Any) -> None:
    def receive(sink: str, key: str, encoding: Mapping[str, str], body: bytes) -> None:
        headers = {"Idempotency-Key": key, "X-Records-Count": "1", **encoding}
        world.receivers[sink].receive(headers, body, None, ("127.0.0.1", 1))

    sinks, body = Sinks(world), json.dumps([RECORD]).encode()
    receive("hook", "a", {}, body)
    sinks._read_requests()
    receive("hook", "b", {"Content-Encoding": "gzip"}, gzip.compress(body))
    receive(settings.FURTHER_SINK, "a", {}, body)
    world.receivers["hook"].respond(503)
    receive("hook", "c", {}, body)
    sinks._read_requests()
    accepted = {name: [batch.key for batch in batches] for name, batches in sinks._accepted.items()}
    assert accepted == {"hook": ["a", "b"], settings.FURTHER_SINK: ["a"]}
    assert len({batch.records for batches in sinks._accepted.values() for batch in batches}) == 1
