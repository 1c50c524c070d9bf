"""Records that a sink or the store refuses, seen from outside: `gpuid run`, its metrics, `gpuid outbox`, a receiver."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from prometheus_client.parser import text_string_to_metric_families

from collector.simulator import Simulator
from tests.support.http import served
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.processes import Process, free_ports, until

__all__ = ["postgres_server"]

GPUS = 8


class Receiver:
    """A webhook's other end: it refuses everything until it is mended."""

    def __init__(self) -> None:
        self.mended = False
        self.refused: set[str] = set()  # idempotency keys
        self.taken: list[tuple[str, str, str]] = []  # idempotency key, event, UUID

    def answer(self, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        key = headers["Idempotency-Key"]
        if not self.mended:
            self.refused.add(key)
            return 400, b""
        self.taken += [(key, record["event"], record["uuid"]) for record in json.loads(body)]
        return 200, b""

    def uuids(self) -> list[str]:
        return sorted(uuid for _, _, uuid in self.taken)


class Site:
    """One simulated cluster, the receiver, and a collector that has not been started."""

    def __init__(
        self, folder: Path, simulator: Simulator, portal: BlockingPortal, receiver: Receiver, url: str, store: str
    ) -> None:
        self.receiver = receiver
        self._portal, self._cluster = portal, simulator.clusters["sim-0"]
        self.config = folder / "gpuid.toml"
        (self.port,) = free_ports(1)
        self.config.write_text(
            f'[server]\nlisten = "127.0.0.1:{self.port}"\n'
            f'[[clusters]]\ncontext = "sim-0"\nkubeconfig = "{simulator.kubeconfig}"\n'
            f'[store]\nurl = "{store}"\n'
            f'[sinks.hook]\ntype = "webhook"\nurl = "{url}"\nbatch_age = "100ms"\n'
        )
        self.process = Process([sys.executable, "-m", "collector", "run", "-c", self.config], folder / "log")

    def move_gpu(self, node: str, to_node: str) -> None:
        self._portal.call(self._cluster.move_gpu, node, to_node)

    def metric(self, name: str, **labels: str) -> float | None:
        """The sum of a metric's series that have these labels; None when there is none, or nobody answers."""
        try:
            text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=30).text
        except httpx.TransportError:
            assert self.process.running, self.process.tail()
            return None
        found = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None

    def outbox(self, *args: str) -> str:
        command = [sys.executable, "-m", "collector", "outbox", *args, "-c", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    def listed(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.outbox("ls", "--json"))
        return found


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def url(receiver: Receiver) -> Iterator[str]:
    with served(receiver.answer) as address:
        yield f"http://{address}/hook"


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/gpuid.db"
    return str(request.getfixturevalue("postgres_server").new_database())


@pytest.fixture
def site(tmp_path: Path, receiver: Receiver, url: str, store: str) -> Iterator[Site]:
    simulator = Simulator(clusters=1, nodes=2, gpus=4, latency=0.01, directory=tmp_path / "simulator")
    with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(simulator):
        site = Site(tmp_path, simulator, portal, receiver, url, store)
        site.process.start()
        try:
            yield site
        finally:
            site.process.stop()


def test_what_a_receiver_refused_is_counted_listed_and_delivered_once_when_it_is_mended_and_replayed(
    site: Site,
) -> None:
    until(lambda: site.metric("gpuid_export_failure_total", sink="hook", reason="rejected"), GPUS, seconds=60)
    until(lambda: sum(letter["count"] for letter in site.listed()["dead_letters"]), GPUS)
    letters = site.listed()["dead_letters"]
    assert {letter["sink"] for letter in letters} == {"hook"}
    assert all(letter["reason"].endswith("answered 400") for letter in letters)
    assert {letter["key"] for letter in letters} == site.receiver.refused
    until(lambda: site.metric("gpuid_export_backlog_records", sink="hook"), 0.0)
    assert site.metric("gpuid_store_up") == 1
    assert site.metric("gpuid_export_success_total", sink="hook") is None
    shown = json.loads(site.outbox("show", str(letters[0]["id"])))
    assert len(shown["records"]) == letters[0]["count"]

    site.receiver.mended = True
    assert "for redelivery" in site.outbox("replay", "--sink", "hook")
    until(lambda: site.metric("gpuid_export_success_total", sink="hook"), GPUS)
    until(lambda: site.listed()["dead_letters"], [])
    assert len(set(site.receiver.uuids())) == len(site.receiver.uuids()) == GPUS
    assert {key for key, _, _ in site.receiver.taken} == site.receiver.refused
    assert {event for _, event, _ in site.receiver.taken} == {"appeared"}


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
def test_a_store_that_is_away_is_a_metric_and_what_happens_meanwhile_is_delivered_when_it_is_back(
    site: Site, postgres_server: PostgresServer
) -> None:
    site.receiver.mended = True
    until(lambda: site.metric("gpuid_export_success_total", sink="hook"), GPUS, seconds=60)
    postgres_server.stop()
    try:
        site.move_gpu("gpu-0000", "gpu-0001")
        until(lambda: site.metric("gpuid_store_up"), 0.0)
        until(lambda: site.metric("gpuid_gpu_info", node="gpu-0001"), 5.0)
        assert (site.metric("gpuid_store_pending_records") or 0) >= 1
        assert len(site.receiver.taken) == GPUS
    finally:
        postgres_server.start()
    until(lambda: site.metric("gpuid_store_up"), 1.0, seconds=90)
    until(lambda: site.receiver.taken[-1][1], "moved", seconds=90)
    assert len({uuid for _, _, uuid in site.receiver.taken[GPUS:]}) == 1
    assert site.metric("gpuid_store_pending_records") == 0
