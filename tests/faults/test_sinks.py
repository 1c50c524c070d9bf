"""What is read of what the sinks were given: the lines of logs, and the requests of each webhook."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from collector.config import ConfigError, load
from tests.faults import settings
from tests.faults.sinks import Sinks
from tests.support.receiver import Receiver

RECORD = {
    "event": "appeared", "uuid": "GPU-1", "gpu": "", "cluster": "c", "node": "n", "machine": "m", "chassis": "",
    "source": "ns/p", "time": "2026-01-01T00:00:00Z", "model": "H100", "changes": None, "last_known": None,
    "mark": None,
}  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> Any:
    return SimpleNamespace(
        processes=[SimpleNamespace(name="one", log=tmp_path / "one.log")],
        receivers={name: Receiver("http://127.0.0.1:1/") for name in ("hook", settings.FURTHER_SINK)},
    )


def odd(world: Any, *lines: str) -> list[str]:
    """Return what is odd about a log with these lines."""
    world.processes[0].log.write_text("".join(f"{line}\n" for line in lines))
    sinks = Sinks(world)
    sinks._read_logs()
    return sinks.odd


class TestALog:
    def test_a_start_may_say_why_it_ends_at_once(self, world: Any, tmp_path: Path) -> None:
        file = tmp_path / "gpuid.toml"
        file.write_text(f"{settings.written(settings.first_sinks(()).items(), {})}[")
        with pytest.raises(ConfigError) as refused:
            load(file)
        without_store = f"gpuid: {file}: store postgresql://127.0.0.1:5432/gpuid: connection refused"
        assert odd(world, f"gpuid: {refused.value}", without_store, json.dumps(RECORD), '{"level": "info"}') == []

    @pytest.mark.parametrize(
        ("line", "complaint"),
        [
            ("gpuid: gpuid.toml: sinks.hook: unknown key 'batch_recrods'", "log of one: gpuid: gpuid.toml: sinks.hook"),
            ("Segmentation fault", "log of one: Segmentation fault"),
            (
                '{"level": "error", "message": "unexpected", "exception": "Traceback (most recent call last): …"}',
                "log of one: unexpected: Traceback",
            ),
        ],
    )
    def test_anything_else_is_odd(self, world: Any, line: str, complaint: str) -> None:
        (found,) = odd(world, line)
        assert found.startswith(complaint)


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
