"""Records that a sink or the store rejects, seen from outside: `gpuid run`, its metrics, `gpuid outbox`, a receiver."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from collector.simulator import Simulator
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.processes import CollectorProcess
from tests.support.receiver import Receiver, receiving
from tests.support.waiting import until

__all__ = ["postgres_server"]

GPUS = 8


class Site:
    """One simulated cluster, the receiver, and a collector that has not been started."""

    def __init__(
        self, folder: Path, simulator: Simulator, portal: BlockingPortal, receiver: Receiver, store: str
    ) -> None:
        self.receiver = receiver
        self._portal, self._cluster = portal, simulator.clusters["sim-0"]
        self.collector = CollectorProcess(folder)
        self.collector.configure(
            {"sim-0": simulator.kubeconfig},
            before=f'[store]\nurl = "{store}"',
            after=f'[sinks.hook]\ntype = "webhook"\nurl = "{receiver.url}"\nbatch_age = "100ms"\n',
        )

    def move_gpu(self, node: str, to_node: str) -> None:
        self._portal.call(self._cluster.move_gpu, node, to_node)

    def outbox(self, *args: str) -> str:
        command = [sys.executable, "-m", "collector", "outbox", *args, "-c", str(self.collector.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    def letters(self) -> list[dict[str, Any]]:
        """Return the dead letters; having none is a valid result, for which the command exits with 1."""
        command = [
            sys.executable,
            "-m",
            "collector",
            "outbox",
            "letters",
            "-o",
            "json",
            "-c",
            str(self.collector.config),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        found: list[dict[str, Any]] = json.loads(done.stdout)
        assert done.returncode == (0 if found else 1)
        return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/gpuid.db"
    return str(request.getfixturevalue("postgres_server").new_database())


@pytest.fixture
def site(tmp_path: Path, receiver: Receiver, store: str) -> Iterator[Site]:
    simulator = Simulator(clusters=1, nodes=2, gpus=4, latency=0.01, directory=tmp_path / "simulator")
    with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(simulator):
        site = Site(tmp_path, simulator, portal, receiver, store)
        try:
            yield site
        finally:
            site.collector.stop()


def test_a_rejected_batch_stays_a_dead_letter_until_replayed(site: Site) -> None:
    site.receiver.respond(400)
    site.collector.start()
    until(lambda: site.collector.total("gpuid_export_failure_total", sink="hook", reason="rejected"), GPUS, seconds=60)
    until(lambda: sum(letter["count"] for letter in site.letters()), GPUS)
    letters = site.letters()
    assert {letter["sink"] for letter in letters} == {"hook"}
    assert all(letter["reason"].endswith("answered 400") for letter in letters)
    assert {letter["key"] for letter in letters} == {request.key for request in site.receiver.rejected}
    until(lambda: site.collector.total("gpuid_export_backlog_records", sink="hook"), 0.0)
    assert site.collector.total("gpuid_store_up") == 1
    assert site.collector.total("gpuid_export_success_total", sink="hook") is None
    shown = json.loads(site.outbox("show", str(letters[0]["id"])))
    assert len(shown["records"]) == letters[0]["count"]

    site.receiver.respond(200)
    assert "for redelivery" in site.outbox("replay", "--sink", "hook")
    until(lambda: site.collector.total("gpuid_export_success_total", sink="hook"), GPUS)
    until(lambda: site.letters(), [])
    records = site.receiver.records
    assert len({record["uuid"] for record in records}) == len(records) == GPUS
    assert {request.key for request in site.receiver.accepted} == {request.key for request in site.receiver.rejected}
    assert {record["event"] for record in records} == {"appeared"}


def test_batches_that_are_too_large_arrive_in_halves(site: Site) -> None:
    site.receiver.limit = 3  # a node has four GPUs
    site.collector.start()
    until(lambda: site.collector.total("gpuid_export_success_total", sink="hook"), GPUS, seconds=60)
    until(lambda: site.collector.total("gpuid_export_backlog_records", sink="hook"), 0.0)
    records = site.receiver.records
    assert len({record["uuid"] for record in records}) == len(records) == GPUS
    assert {request.status for request in site.receiver.rejected} == {413}
    keys = [request.key for request in site.receiver.requests]
    assert len(keys) == len(set(keys))
    assert site.letters() == []


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
def test_changes_during_a_store_outage_are_delivered_afterwards(site: Site, postgres_server: PostgresServer) -> None:
    site.collector.start()
    until(lambda: site.collector.total("gpuid_export_success_total", sink="hook"), GPUS, seconds=60)
    postgres_server.stop()
    try:
        site.move_gpu("gpu-0000", "gpu-0001")
        until(lambda: site.collector.total("gpuid_store_up"), 0.0)
        until(lambda: site.collector.total("gpuid_gpu_info", node="gpu-0001"), 5.0)
        assert (site.collector.total("gpuid_store_pending_records") or 0) >= 1
        assert len(site.receiver.records) == GPUS
    finally:
        postgres_server.start()
    until(lambda: site.collector.total("gpuid_store_up"), 1.0, seconds=90)
    until(lambda: site.receiver.records[-1]["event"], "moved", seconds=90)
    assert len({record["uuid"] for record in site.receiver.records[GPUS:]}) == 1
    assert site.collector.total("gpuid_store_pending_records") == 0
