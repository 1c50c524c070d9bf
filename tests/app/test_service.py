"""`gpuid run` as a process of its own, watching simulated clusters: seen through HTTP, its log and its signals."""

import functools
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest

from collector.simulator import Simulator
from collector.simulator.faults import ExecFaultKind
from tests.support import waiting
from tests.support.processes import CollectorProcess

pytestmark = pytest.mark.anyio

CLUSTERS = ("sim-0", "sim-1", "sim-2")
STORED = '[store]\nurl = "sqlite://{folder}/gpuid.db"\n[sinks.log]\ntype = "stdout"\nbatch_age = "50ms"\n'


class Collector(CollectorProcess):
    """The collector of the simulated clusters."""

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        super().__init__(folder)
        self.kubeconfig = kubeconfig

    def write(self, clusters: Iterable[str] = CLUSTERS, *, more: str = "") -> None:
        """Put a configuration of these clusters in the old one's place."""
        self.configure(clusters, before=f'[defaults]\nkubeconfig = "{self.kubeconfig}"\n', after=more)

    def labelled(self) -> set[str]:
        """Return the clusters that any series names."""
        return {labels["cluster"] for _, labels, _ in self.scrape() if "cluster" in labels}

    def lasting(self) -> set[str]:
        """Return the lines of the scrape that a restart must not change."""
        lines = self.text("/metrics").splitlines()
        return {line for line in lines if line.startswith(("gpuid_gpu_info{", "gpuid_node_"))}


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    """Three small clusters; the last one is made of GB200 trays."""
    async with Simulator(clusters=3, nodes=3, gpus=4, latency=0.01, directory=tmp_path / "simulator") as simulator:
        yield simulator


@pytest.fixture
async def collector(tmp_path: Path, simulator: Simulator) -> AsyncIterator[Collector]:
    """A collector of these clusters that has not been started."""
    collector = Collector(tmp_path, simulator.kubeconfig)
    collector.write()
    yield collector
    await stop(collector, signal.SIGKILL)


@pytest.fixture
async def complete(collector: Collector, simulator: Simulator) -> Collector:
    """A collector that has read every node, and knows that its watches work."""
    collector.start()
    await eventually(collector.gpus, simulator.fleet.expected())
    await eventually(collector.up, dict.fromkeys(simulator.clusters, 1))
    return collector


async def eventually(answer: Callable[[], object], expected: object) -> None:
    """Wait until the collector answers this, asked in a thread: the simulator runs in this one's event loop."""
    await waiting.eventually(functools.partial(anyio.to_thread.run_sync, answer), expected)


async def logs(collector: Collector, text: str, *, times: int = 1, **fields: str) -> None:
    """Wait until it has logged this so often."""
    await waiting.eventually(lambda: collector.logged(text, **fields) >= times)


async def stop(collector: Collector, number: signal.Signals = signal.SIGTERM) -> int | None:
    """End the process, which may need the simulator for that, and return its exit status."""
    return await anyio.to_thread.run_sync(collector.stop, number)


def execs(simulator: Simulator) -> dict[str, int]:
    return {name: cluster.counters.execs.total() for name, cluster in simulator.clusters.items()}


# The scrape


async def test_the_scrape_has_every_gpu_after_one_reading_per_node(complete: Collector, simulator: Simulator) -> None:
    assert len(complete.gpus()) == 36
    assert complete.up() == {"sim-0": 1, "sim-1": 1, "sim-2": 1}
    assert execs(simulator) == {"sim-0": 3, "sim-1": 3, "sim-2": 3}
    assert complete.text("/readyz?verbose") == "[+]sim-0 up\n[+]sim-1 up\n[+]sim-2 up\nok\n"


# One cluster in trouble


async def break_token(collector: Collector, simulator: Simulator) -> Callable[[], Awaitable[object]]:
    good = simulator.kubeconfig.read_text()
    collector.kubeconfig = collector.folder / "kubeconfig"
    collector.kubeconfig.write_text(good.replace(simulator.clusters["sim-1"].token, "not-the-token"))
    collector.write()

    async def repair() -> None:
        partial = collector.folder / "kubeconfig.new"
        partial.write_text(good)
        partial.replace(collector.kubeconfig)

    return repair


async def break_server(_collector: Collector, simulator: Simulator) -> Callable[[], Awaitable[object]]:
    await simulator.clusters["sim-1"].stop()
    return simulator.clusters["sim-1"].start


async def break_rights(_collector: Collector, simulator: Simulator) -> Callable[[], Awaitable[object]]:
    simulator.clusters["sim-1"].deny("list", "pods")

    async def repair() -> None:
        simulator.clusters["sim-1"].allow()

    return repair


@pytest.mark.parametrize(
    ("harm", "state"), [(break_token, "unauthorized"), (break_server, "unreachable"), (break_rights, "forbidden")]
)
async def test_an_unreachable_cluster_recovers_without_affecting_others(
    collector: Collector,
    simulator: Simulator,
    harm: Callable[..., Awaitable[Callable[[], Awaitable[object]]]],
    state: str,
) -> None:
    repair = await harm(collector, simulator)
    collector.start()
    await eventually(collector.gpus, simulator.fleet.expected("sim-0", "sim-2"))
    await eventually(collector.up, {"sim-0": 1, "sim-1": 0, "sim-2": 1})

    def reason() -> bool:
        return f"[-]sim-1 {state}: " in collector.text("/readyz?verbose")

    await eventually(reason, True)
    async with httpx.AsyncClient(base_url=collector.url, timeout=30) as client:
        answer = await client.get("/readyz?verbose")
    first, second, third, *_ = answer.text.splitlines()
    assert (answer.status_code, first, third) == (200, "[+]sim-0 up", "[+]sim-2 up")
    assert len(second) > len(f"[-]sim-1 {state}: ")
    await repair()
    await eventually(collector.gpus, simulator.fleet.expected())
    await eventually(collector.up, {"sim-0": 1, "sim-1": 1, "sim-2": 1})


async def test_an_unreadable_node_is_counted_until_read_or_gone(complete: Collector, simulator: Simulator) -> None:
    def failing() -> dict[tuple[str, str], float]:
        samples = complete.samples("gpuid_read_failing_nodes")
        return {(labels["cluster"], labels["reason"]): value for labels, value in samples if value}

    assert failing() == {}
    sim = simulator.clusters["sim-0"]
    for node, how in (("gpu-0000", "exit_status"), ("gpu-0001", "exit_status"), ("gpu-0002", "no_binary")):
        sim.fail_exec(ExecFaultKind(how), node)
        sim.restart_container(node)
    await eventually(failing, {("sim-0", "exit_status"): 2.0, ("sim-0", "no_binary"): 1.0})
    sim.heal_exec("gpu-0000")
    sim.restart_container("gpu-0000")
    sim.delete_node("gpu-0002")
    await eventually(failing, {("sim-0", "exit_status"): 1.0})
    complete.write(["sim-1", "sim-2"])
    await eventually(failing, {})


async def test_an_unreachable_cluster_keeps_its_series(complete: Collector, simulator: Simulator) -> None:
    await simulator.clusters["sim-1"].stop()
    await eventually(complete.up, {"sim-0": 1, "sim-1": 0, "sim-2": 1})
    assert complete.gpus() == simulator.fleet.expected()


# A configuration that changes


async def test_an_edit_affects_only_the_clusters_it_changes(collector: Collector, simulator: Simulator) -> None:
    collector.write(["sim-0", "sim-1"])
    collector.start()
    await eventually(collector.gpus, simulator.fleet.expected("sim-0", "sim-1"))
    collector.write(["sim-0", "sim-1", "sim-2"])
    await eventually(collector.gpus, simulator.fleet.expected())
    collector.write(["sim-0", "sim-2"])
    await eventually(collector.labelled, {"sim-0", "sim-2"})
    assert collector.gpus() == simulator.fleet.expected("sim-0", "sim-2")
    collector.write(["sim-0", "sim-2"], more='grace = "1m"\n')
    await logs(collector, "cluster changed in the configuration", cluster="sim-2")
    await logs(collector, "configuration reloaded", times=3)
    assert collector.gpus() == simulator.fleet.expected("sim-0", "sim-2")
    assert collector.logged("cluster changed in the configuration") == 1
    assert execs(simulator) == {"sim-0": 3, "sim-1": 3, "sim-2": 3}


async def test_sighup_reads_the_configuration_again(collector: Collector, simulator: Simulator) -> None:
    collector.write(["sim-0", "sim-2"])
    after = collector.config.read_text()
    collector.write(["sim-0", "sim-1"])
    (collector.folder / "elsewhere").mkdir()
    file = collector.config.rename(collector.folder / "elsewhere" / "gpuid.toml")
    collector.config.symlink_to(file)  # what changes behind a link into another folder is not noticed without a signal
    collector.start()
    await eventually(collector.gpus, simulator.fleet.expected("sim-0", "sim-1"))
    file.write_text(after)
    collector.send(signal.SIGHUP)
    await eventually(collector.gpus, simulator.fleet.expected("sim-0", "sim-2"))
    await logs(collector, "configuration reloaded")
    assert execs(simulator) == {"sim-0": 3, "sim-1": 3, "sim-2": 3}


async def test_a_removed_cluster_leaves_no_series(complete: Collector, simulator: Simulator) -> None:
    complete.write(["sim-0", "sim-2"])
    await logs(complete, "configuration reloaded")
    assert complete.labelled() == {"sim-0", "sim-2"}
    assert complete.gpus() == simulator.fleet.expected("sim-0", "sim-2")
    assert "sim-1" not in complete.text("/readyz?verbose")
    assert complete.logged("12 GPUs from the inventory", cluster="sim-1") == 1
    assert complete.logged("GPU vanished") == 0


async def test_an_invalid_new_configuration_is_refused(complete: Collector, simulator: Simulator) -> None:
    bad = ("[[clusters]\n", '[defaults]\nrefresh = "soon"\n', '[[clusters]]\nname = ""\n')
    for number, text in enumerate(bad, start=1):
        complete.config.with_suffix(".bad").write_text(text)
        complete.config.with_suffix(".bad").replace(complete.config)
        refused = "rejected the new configuration; keeping the current one: "
        await logs(complete, refused, times=number, level="error")
        assert complete.gpus() == simulator.fleet.expected()
    complete.write(["sim-0"])
    await eventually(complete.labelled, {"sim-0"})


async def test_a_missing_file_is_logged_once_and_read_when_back(complete: Collector, simulator: Simulator) -> None:
    gone = "configuration file is missing; keeping the current configuration"
    complete.config.rename(complete.folder / "moved")
    await logs(complete, gone, level="warning")
    (complete.folder / "other").write_text("")  # something else happens in the folder
    (complete.folder / "moved").rename(complete.config)
    await logs(complete, "configuration file is back, unchanged")
    complete.config.unlink()
    await logs(complete, gone, times=2)
    assert complete.gpus() == simulator.fleet.expected()
    complete.write(["sim-0"])
    await eventually(complete.labelled, {"sim-0"})
    assert complete.logged(gone) == 2


async def test_an_edit_and_a_signal_together_are_harmless(complete: Collector, simulator: Simulator) -> None:
    for number in range(5):
        complete.write(["sim-2"])
        complete.send(signal.SIGHUP)
        await logs(complete, "cluster removed from the configuration", times=2 * number + 2)
        complete.write()
        complete.send(signal.SIGHUP)
        await eventually(complete.gpus, simulator.fleet.expected())
    assert execs(simulator)["sim-2"] == 3
    assert complete.running
    assert [event for event in complete.events() if event["level"] in ("warning", "error")] == []


# The end


async def test_sigterm_during_execs_stops_it_in_time(collector: Collector, simulator: Simulator) -> None:
    for cluster in simulator.clusters.values():
        cluster.hang_exec()
    collector.start()

    def open_execs() -> int:
        return sum(cluster.counters.open_execs.total() for cluster in simulator.clusters.values())

    await waiting.eventually(open_execs, 9)
    assert await stop(collector) == 0  # by force after 10 s, which would be -9
    await waiting.eventually(open_execs, 0)


async def test_the_log_is_json_with_cluster_names_and_no_tokens(complete: Collector, simulator: Simulator) -> None:
    tokens = [cluster.token for cluster in simulator.clusters.values()]
    simulator.clusters["sim-1"].refuse_tokens()
    simulator.clusters["sim-1"].drop_connections()
    await eventually(complete.up, {"sim-0": 1, "sim-1": 0, "sim-2": 1})
    assert await stop(complete) == 0
    assert complete.records() == []
    events = complete.events()
    assert all({"time", "level", "logger", "message"} <= event.keys() for event in events)
    assert {"sim-0", "sim-1", "sim-2"} == {event["cluster"] for event in events if "cluster" in event}
    assert not any(token in complete.log.read_text() for token in tokens)


# What happens to the machines


async def test_changes_of_machines_and_pods_are_followed(complete: Collector, simulator: Simulator) -> None:
    one, two = simulator.clusters["sim-0"], simulator.clusters["sim-2"]
    for happens in (
        lambda: one.move_gpu("gpu-0000", "gpu-0001"),
        lambda: two.move_gpu("gpu-0000", "gpu-0001"),
        lambda: one.move_gpu("gpu-0001", "gpu-0000", "sim-1"),
        lambda: one.swap_tray("gpu-0001"),
        lambda: two.delete_node("gpu-0002"),
        lambda: two.add_node("gpu-0007"),
    ):
        happens()
        await eventually(complete.gpus, simulator.fleet.expected())


async def test_a_new_container_is_read_again(complete: Collector, simulator: Simulator) -> None:
    cluster = simulator.clusters["sim-0"]
    for action in (cluster.replace_pod, cluster.restart_container, cluster.restart_pod, cluster.reboot_node):
        simulator.fleet.swap_tray("sim-0", "gpu-0001")  # without any notification
        action("gpu-0001")
        await eventually(complete.gpus, simulator.fleet.expected())


# With a store


async def test_after_a_kill_it_resumes_where_it_was(collector: Collector, simulator: Simulator) -> None:
    collector.write(more=STORED.format(folder=collector.folder))
    collector.start()
    await eventually(collector.gpus, simulator.fleet.expected())

    def appeared() -> int:
        return len({record["uuid"] for record in collector.records() if record["event"] == "appeared"})

    before = collector.lasting()
    await stop(collector, signal.SIGKILL)
    assert len(before) == 36 + 9 * 5

    collector.start()
    first: list[set[str]] = []

    def answers() -> bool:
        first[:] = [collector.lasting()]
        return first != [set()]

    await eventually(answers, True)
    assert first == [before]
    await eventually(collector.up, {"sim-0": 1, "sim-1": 1, "sim-2": 1})
    assert collector.lasting() == before
    assert execs(simulator) == {"sim-0": 3, "sim-1": 3, "sim-2": 3}

    await stop(collector, signal.SIGKILL)
    (moved,) = simulator.clusters["sim-0"].move_gpu("gpu-0000", "gpu-0001").gpus
    collector.start()
    await eventually(collector.gpus, simulator.fleet.expected())
    assert execs(simulator) == {"sim-0": 5, "sim-1": 3, "sim-2": 3}

    def moves() -> list[tuple[str, str, str]]:
        changes = json.loads(collector.text("/api/v1/changes?limit=1000"))["changes"]
        found = [change for change in changes if change["event"] == "moved"]
        return [(change["uuid"], change["node"], change["previous_node"]) for change in found]

    def exported() -> set[tuple[str, str]]:
        records = [record for record in collector.records() if record["uuid"] == moved]
        return {(record["event"], record["node"]) for record in records if record["event"] != "vanished"}

    await eventually(moves, [(moved, "gpu-0001", "gpu-0000")])

    def shown() -> bool:
        return f'href="/gpus/{moved}"' in collector.text("/changes?event=moved")

    await eventually(shown, True)
    await waiting.eventually(exported, {("appeared", "gpu-0000"), ("moved", "gpu-0001")})
    await waiting.eventually(appeared, 36)  # the first kill may have come before they were sent
