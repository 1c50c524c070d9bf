"""A single round through all clusters: everything is read, recorded and delivered, or the outcome says what is not."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from collector.app import Outcome, Round, Service, load
from collector.collect.watcher import Intervals
from collector.model import ClusterState
from collector.simulator import Simulator
from collector.simulator.faults import ExecFaultKind
from collector.store import Store, StoreSettings
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.receiver import Receiver, receiving
from tests.support.waiting import LIMIT_SECONDS, eventually

__all__ = ["postgres_server"]

pytestmark = pytest.mark.anyio

PATIENCE = 2.0


class Rounds:
    """Two simulated clusters of two nodes with two GPUs each, and rounds through them."""

    def __init__(self, folder: Path, simulator: Simulator, receiver: Receiver) -> None:
        self.simulator = simulator
        self.receiver = receiver
        self.config = folder / "gpuid.toml"
        self.store = StoreSettings(url=f"sqlite://{folder}/gpuid.db")
        self.sink = f'[sinks.hook]\ntype = "webhook"\nurl = "{receiver.url}"\nbatch_age = "1h"\n'
        self.defaults = ""

    async def run(self, *, timeout: float = LIMIT_SECONDS, patience: float = PATIENCE) -> Outcome:
        text = f'[store]\nurl = "{self.store.url}"\n{self.sink}' if self.sink else ""
        text += f'[defaults]\nkubeconfig = "{self.simulator.kubeconfig}"\n{self.defaults}'
        text += "".join(f'[[clusters]]\ncontext = "{name}"\n' for name in ("sim-0", "sim-1"))
        self.config.write_text(text)
        service = Service(load(self.config), once=Round(patience=patience))
        return await service.run_once(timeout=timeout)

    def execs(self) -> int:
        return sum(cluster.counters.execs.total() for cluster in self.simulator.clusters.values())

    def received(self) -> list[dict[str, str]]:
        return [record for request in self.receiver.accepted for record in request.records]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
async def rounds(tmp_path: Path, receiver: Receiver) -> AsyncIterator[Rounds]:
    async with Simulator(clusters=2, nodes=2, gpus=2, latency=0.01, directory=tmp_path / "simulator") as simulator:
        yield Rounds(tmp_path, simulator, receiver)


async def test_each_round_reads_every_node_and_delivers_every_change(rounds: Rounds) -> None:
    outcome = await rounds.run()
    assert outcome.ok
    assert [(one.cluster, one.nodes, one.read, one.gpus) for one in outcome.clusters] == [
        ("sim-0", 2, 2, 4),
        ("sim-1", 2, 2, 4),
    ]
    assert dict(outcome.changes) == {"appeared": 8}
    assert [(one.sink, one.delivered, one.waiting) for one in outcome.sinks] == [("hook", 8, 0)]
    assert {record["event"] for record in rounds.received()} == {"appeared"}
    assert len(rounds.receiver.requests) <= 2  # batches are as large as they can be

    execs = rounds.execs()
    (first, second), (other, last) = (sorted(cluster.nodes) for cluster in rounds.simulator.clusters.values())
    rounds.simulator.clusters["sim-0"].move_gpu(first, to_cluster="sim-1", to_node=other, reboot=False)
    rounds.simulator.clusters["sim-1"].delete_node(last)
    rounds.simulator.clusters["sim-0"].fail_exec(ExecFaultKind.DROPPED, second, times=1)
    outcome = await rounds.run()
    assert outcome.ok
    assert rounds.execs() - execs >= 3  # no reading of the first round counts as fresh
    received = Counter(record["event"] for record in rounds.received()[8:])
    assert dict(outcome.changes) == received
    assert (received["moved"], received["appeared"]) == (1, 0)
    assert received["vanished"] in (2, 3)  # with the one that moved, if the node that it left was read first
    async with Store.open(rounds.store) as store:
        assert len([node async for part in store.nodes() for node in part]) == 3


async def test_an_unreadable_node_only_fails_the_round(rounds: Rounds) -> None:
    broken, starting = sorted(rounds.simulator.clusters["sim-0"].nodes)
    rounds.simulator.clusters["sim-0"].fail_exec(ExecFaultKind.EXIT_STATUS, broken)
    rounds.simulator.clusters["sim-0"].set_ready(starting, ready=False)
    rounds.defaults = 'grace = "1ms"\n'  # or the node would pass for new
    node, _ = sorted(rounds.simulator.clusters["sim-1"].nodes)
    rounds.simulator.clusters["sim-1"].hang_exec(node)
    outcome = await rounds.run(timeout=12.0)
    first, second = outcome.clusters
    assert (first.ok, first.read, dict(first.unread)) == (False, 0, {"exit_status": 1, "pod_not_ready": 1})
    assert (second.ok, second.read, dict(second.unread)) == (False, 1, {"not in time": 1})
    assert (outcome.ok, outcome.unrecorded, outcome.sinks[0].delivered) == (False, "", 2)

    await rounds.simulator.clusters["sim-1"].stop()
    rounds.simulator.clusters["sim-0"].heal_exec()
    rounds.simulator.clusters["sim-0"].set_ready(starting, ready=True)
    outcome = await rounds.run()
    first, second = outcome.clusters
    assert (first.ok, first.read) == (True, 2)
    assert (second.ok, second.state, second.read) == (False, ClusterState.UNREACHABLE, 0)
    assert "refused" in second.message
    assert outcome.sinks[0].delivered == 4


async def test_a_recovered_cluster_is_read(rounds: Rounds) -> None:
    rounds.sink = ""  # and no store
    cluster = rounds.simulator.clusters["sim-1"]
    await cluster.stop()
    async with anyio.create_task_group() as tasks:

        async def come_back() -> None:
            await eventually(rounds.execs, 2)  # the other cluster's
            await cluster.start()

        tasks.start_soon(come_back)
        outcome = await rounds.run(patience=LIMIT_SECONDS)
    assert (outcome.ok, outcome.store, outcome.sinks) == (True, "", [])
    assert sum(one.gpus for one in outcome.clusters) == 8


async def test_undelivered_records_wait_for_the_next_round(rounds: Rounds) -> None:
    rounds.receiver.respond(503, "maintenance")
    outcome = await rounds.run()
    (sink,) = outcome.sinks
    assert (outcome.ok, sink.delivered, sink.waiting) == (False, 0, 8)
    assert "503" in sink.message
    keys = {request.key for request in rounds.receiver.requests}
    rounds.receiver.respond(422)
    outcome = await rounds.run()
    (sink,) = outcome.sinks
    assert (outcome.ok, sink.waiting, bool(sink.rejected)) == (False, 0, True)
    assert {request.key for request in rounds.receiver.requests if request.status == 422} & keys  # the same batch
    assert (await rounds.run()).ok  # what was rejected before is not this round's


async def test_a_sink_that_does_not_answer_in_time_is_named(rounds: Rounds) -> None:
    rounds.receiver.respond(200, delay=30.0)
    outcome = await rounds.run(timeout=10.0)
    (sink,) = outcome.sinks
    assert (outcome.ok, sink.delivered, sink.waiting, sink.message) == (False, 0, 8, "not in time")


async def test_a_printed_log_is_read(rounds: Rounds) -> None:
    rounds.defaults = 'preset = "reader"\n'
    for cluster in rounds.simulator.clusters.values():
        cluster.add_readers()
    for _ in range(2):
        outcome = await rounds.run()
        assert outcome.ok
        assert [one.read for one in outcome.clusters] == [2, 2]
    assert Intervals().retry.first_document > LIMIT_SECONDS  # so that it was not given up


async def test_another_collector_that_leads_records_instead(rounds: Rounds, postgres_server: PostgresServer) -> None:
    rounds.store = StoreSettings(url=postgres_server.new_database())
    async with Store.open(rounds.store) as other:
        assert other.leadership.leads
        outcome = await rounds.run()
        assert (outcome.ok, [one.ok for one in outcome.clusters]) == (False, [True, True])
        assert outcome.unrecorded == f"another collector leads: {other.leadership.status.holder}"
        outcome = await rounds.run(timeout=0.1, patience=LIMIT_SECONDS)  # less than a lead takes to come free
        assert outcome.unrecorded == f"another collector leads: {other.leadership.status.holder}"
    assert rounds.received() == []
    outcome = await rounds.run()
    assert (outcome.ok, outcome.sinks[0].delivered) == (True, 8)
    assert (await rounds.run()).ok  # the lead was given back
