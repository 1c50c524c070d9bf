"""What nvidia-smi prints on odd nodes, from the exec to metrics, API, page and log of a running collector."""

import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from collector.app import Service, load
from collector.model import canonical_bus_id
from collector.simulator import ExecFaultKind, SimulatedCluster, Simulator
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

NODE = "gpu-0000"


class World:
    """A simulated cluster, and a collector that watches it."""

    def __init__(self, simulator: Simulator, client: httpx.AsyncClient) -> None:
        self.fleet = simulator.fleet
        self.cluster: SimulatedCluster = simulator.clusters["sim-0"]
        self._client = client

    async def gpus(self, **filters: str) -> list[dict[str, Any]]:
        gpus: list[dict[str, Any]] = (await self._client.get("/api/v1/gpus", params=filters)).json()["gpus"]
        return gpus

    async def node(self) -> dict[str, Any]:
        nodes: list[dict[str, Any]] = (await self._client.get("/api/v1/nodes", params={"node": NODE})).json()["nodes"]
        return nodes[0] if nodes else {}

    async def counts(self) -> dict[str, float]:
        """Return the node's GPUs by state, as the metrics have them."""
        return {labels["state"]: value for labels, value in await self.samples("gpuid_node_gpus", node=NODE)}

    async def samples(self, name: str, **wanted: str) -> list[tuple[dict[str, str], float]]:
        text = (await self._client.get("/metrics", headers={"Accept": "text/plain"})).text
        return [
            (sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and wanted.items() <= sample.labels.items()
        ]

    async def get(self, path: str) -> httpx.Response:
        return await self._client.get(path)

    async def page(self, path: str) -> str:
        return (await self._client.get(path, headers={"Accept": "text/html"}, follow_redirects=True)).text

    async def settled(self) -> None:
        async def found() -> set[tuple[str, str]]:
            return {(gpu["node"], gpu["uuid"]) for gpu in await self.gpus()}

        expected = {(placed.node, placed.uuid) for placed in self.fleet.expected("sim-0")}
        await eventually(found, expected, seconds=60)


class Blank:
    """A simulated cluster that no collector has read yet."""

    def __init__(self, simulator: Simulator, config: Path) -> None:
        self.simulator = simulator
        self.cluster: SimulatedCluster = simulator.clusters["sim-0"]
        self._config = config

    @contextlib.asynccontextmanager
    async def collecting(self) -> AsyncIterator[World]:
        """Run a collector; the next one continues with its store."""
        bound = anyio.Event()
        url: list[str] = []

        def ready(address: str) -> None:
            url.append(address)
            bound.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: Service(load(self._config)).run(ready=ready))
            with anyio.fail_after(60):
                await bound.wait()
            async with httpx.AsyncClient(base_url=url[0], timeout=30) as client:
                yield World(self.simulator, client)
            tasks.cancel_scope.cancel()


@pytest.fixture
async def blank(tmp_path: Path) -> AsyncIterator[Blank]:
    async with Simulator(clusters=1, nodes=2, gpus=4, latency=0.0, directory=tmp_path / "simulator") as simulator:
        config = tmp_path / "gpuid.toml"
        config.write_text(
            f'[server]\nlisten = "127.0.0.1:0"\n[store]\nurl = "sqlite://{tmp_path}/gpuid.db"\n'
            f'[[clusters]]\ncontext = "sim-0"\nkubeconfig = "{simulator.kubeconfig}"\n'
        )
        yield Blank(simulator, config)


@pytest.fixture
async def world(blank: Blank) -> AsyncIterator[World]:
    async with blank.collecting() as world:
        await world.settled()
        yield world


class TestAGpuThatDoesNotAnswer:
    @pytest.mark.parametrize("how", [{"silent": True}, {"listed": True}])
    async def test_is_named_everywhere_until_it_answers(
        self, world: World, caplog: pytest.LogCaptureFixture, how: dict[str, bool]
    ) -> None:
        (lost,) = [gpu for gpu in await world.gpus(node=NODE) if gpu["minor_number"] == 1]
        world.cluster.lose_gpu(NODE, lost["uuid"], **how)
        await eventually(world.counts, {"found": 3, "lost": 1, "capacity": 4, "allocatable": 3}, seconds=60)
        gpus = {gpu["uuid"]: gpu for gpu in await world.gpus(node=NODE)}
        assert {uuid for uuid, gpu in gpus.items() if gpu["state"] == "lost"} == {lost["uuid"]}
        assert gpus[lost["uuid"]] == lost | {
            "state": "lost",
            "degraded": ["lost"],
            "level": "reset",
        }  # its serial, and when it was seen last
        assert all(gpu["confirmed_at"] > lost["confirmed_at"] for uuid, gpu in gpus.items() if uuid != lost["uuid"])
        assert [labels["serial"] for labels, _ in await world.samples("gpuid_gpu_info", uuid=lost["uuid"])] == [
            lost["serial"]
        ]
        node = await world.node()
        assert (node["found"], node["lost"], node["failing_reason"]) == (3, 1, None)
        page = await world.page(f"/clusters/sim-0/nodes/{NODE}")
        assert "does not respond" in page
        assert lost["serial"] in page
        assert ") does not respond</strong>" in await world.page("/")
        (warning,) = [record for record in caplog.records if record.getMessage().startswith("GPU lost: ")]
        assert lost["serial"] in warning.getMessage()
        assert lost["uuid"] in warning.getMessage()
        assert lost["confirmed_at"] in warning.getMessage()
        assert world.cluster.counters.peak_execs_per_node == 1
        world.cluster.reboot_node(NODE)
        await eventually(world.counts, {"found": 4, "capacity": 4, "allocatable": 4}, seconds=60)
        assert {gpu["since"] for gpu in await world.gpus(uuid=lost["uuid"])} == {lost["since"]}

    async def test_fails_its_node_when_no_other_answers(self, world: World) -> None:
        for gpu in await world.gpus(node=NODE):
            world.cluster.lose_gpu(NODE, gpu["uuid"], silent=True)
        await eventually(world.counts, {"found": 0, "lost": 4, "capacity": 4, "allocatable": 0}, seconds=60)
        node = await world.node()
        assert node["failing_reason"] == "exit_status"
        assert "Unable to determine the device handle for GPU0" in node["failing_message"]

    async def test_is_named_even_without_single_gpu_readings(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("collector.collect.smi_command.command_for_one", lambda _command, _target: None)
        (lost, *_) = await world.gpus(node=NODE)
        world.cluster.lose_gpu(NODE, lost["uuid"], silent=True)
        await eventually(world.counts, {"found": 3, "lost": 1, "capacity": 4, "allocatable": 3}, seconds=60)
        assert (await world.node())["failing_reason"] == "exit_status"


class TestAGpuThatWasNeverRead:
    """Lost before the first reading of its node, it is known by its bus address alone, and no less reported."""

    async def lost_addresses(self, world: World, path: str) -> set[str]:
        rows: list[dict[str, Any]] = (await world.get(path)).json()[path.rpartition("/")[2].partition("?")[0]]
        return {lost["pci_bus_id"] for row in rows for lost in row["lost_gpus"]}

    @pytest.mark.parametrize("how", [{"silent": True}, {"listed": True}])
    @pytest.mark.parametrize("mig", [False, True])
    async def test_is_lost_by_its_address_even_after_a_restart(
        self, blank: Blank, caplog: pytest.LogCaptureFixture, how: dict[str, bool], mig: bool
    ) -> None:
        caplog.set_level(logging.INFO)
        card = blank.simulator.fleet.cards("sim-0", NODE)[1]
        bus = canonical_bus_id(card.bus_id)
        if mig:
            blank.cluster.set_mig(NODE)
        blank.cluster.lose_gpu(NODE, card.uuid, **how)
        for _start in range(2):
            async with blank.collecting() as world:
                counts = {"found": 3, "lost": 1} | ({} if mig else {"capacity": 4, "allocatable": 3})
                await eventually(world.counts, counts, seconds=60)
                assert await self.lost_addresses(world, f"/api/v1/nodes?node={NODE}") == {bus}
                assert await self.lost_addresses(world, "/api/v1/clusters") == {bus}
                page = await world.page(f"/clusters/sim-0/nodes/{NODE}")
                assert "does not respond (never read)" in page
                assert bus in page
                assert "The last reading did not find" not in page  # it is not counted twice
                for path in ("/problems", "/clusters/sim-0"):
                    page = await world.page(path)
                    assert ") does not respond</strong>" in page
                    assert "was never read" in page
                    assert bus in page
        warnings = [record.getMessage() for record in caplog.records if record.getMessage().startswith("GPU lost: ")]
        assert warnings == [f"GPU lost: the GPU at {bus} does not respond and has never been read"]
        async with blank.collecting() as world:
            blank.cluster.reboot_node(NODE)
            counts = {"found": 4} | ({} if mig else {"capacity": 4, "allocatable": 4})
            await eventually(world.counts, counts, seconds=60)
            assert await self.lost_addresses(world, "/api/v1/clusters") == set()
        assert any(record.getMessage() == "GPU responds again" for record in caplog.records)

    async def test_all_of_a_node_are_lost_by_their_addresses(
        self, blank: Blank, caplog: pytest.LogCaptureFixture
    ) -> None:
        cards = blank.simulator.fleet.cards("sim-0", NODE)
        for card in cards:
            blank.cluster.lose_gpu(NODE, card.uuid, silent=True)
        async with blank.collecting() as world:
            await eventually(world.counts, {"lost": 4, "capacity": 4, "allocatable": 0}, seconds=60)
            expected = {canonical_bus_id(card.bus_id) for card in cards}
            assert await self.lost_addresses(world, f"/api/v1/nodes?node={NODE}") == expected
            assert "4 GPUs on " in await world.page("/")
            page = await world.page(f"/clusters/sim-0/nodes/{NODE}")
            assert page.count("does not respond (never read)") == 4
        async with blank.collecting() as world:
            await eventually(world.counts, {"lost": 4, "capacity": 4, "allocatable": 0}, seconds=60)
        warnings = [record for record in caplog.records if record.getMessage().startswith("GPU lost: ")]
        assert len(warnings) == 4  # it is kept


class TestOddDocuments:
    @pytest.mark.parametrize(
        ("name", "encoding"),
        [
            ("\xff\xfe\xfd", "latin-1"),
            ("显卡", "gbk"),
            ("a\0\x1b[31m<&", "utf-8"),
            ("</processes></gpu><gpu><uuid>GPU-evil</uuid></gpu>", "utf-8"),
        ],
    )
    async def test_a_process_name_does_not_affect_the_reading(self, world: World, name: str, encoding: Any) -> None:
        before = await world.gpus(node=NODE)
        world.cluster.run_process(name, NODE, encoding)
        world.cluster.restart_container(NODE)

        async def read_again() -> bool:
            after = await world.gpus(node=NODE)
            return {gpu["uuid"] for gpu in after if gpu["confirmed_at"] > before[0]["confirmed_at"]} == {
                gpu["uuid"] for gpu in before
            }

        await eventually(read_again, True, seconds=60)
        assert (await world.node())["failing_reason"] is None

    @pytest.mark.parametrize("status", [14, 15, 255])
    async def test_a_complete_document_is_used_despite_its_exit_status(
        self, world: World, caplog: pytest.LogCaptureFixture, status: int
    ) -> None:
        world.cluster.fail_exec(ExecFaultKind.WHOLE_OUTPUT, NODE, exit_status=status)
        world.cluster.restart_container(NODE)
        text = f"the command exited with status {status}, after a complete document"
        await eventually(lambda: [r.levelno for r in caplog.records if r.getMessage() == text], [logging.WARNING])
        node = await world.node()
        assert (node["found"], node["lost"], node["failing_reason"]) == (4, 0, None)

    @pytest.mark.parametrize("how", [ExecFaultKind.ERROR_TEXT, ExecFaultKind.EXIT_STATUS])
    async def test_the_error_quotes_the_command(self, world: World, how: ExecFaultKind) -> None:
        words = "Failed to initialize NVML: Driver/library version mismatch"
        world.cluster.fail_exec(how, NODE, stderr=words)
        world.cluster.restart_container(NODE)

        async def said() -> bool:
            return words in ((await world.node())["failing_message"] or "")

        await eventually(said, True, seconds=60)
        assert words in await world.page(f"/clusters/sim-0/nodes/{NODE}")
        assert (await world.node())["found"] == 4  # the last good reading stands


class TestVirtualGpus:
    async def test_a_vgpu_is_never_published_as_a_board(self, world: World) -> None:
        world.cluster.make_virtual(NODE)
        world.cluster.restart_container(NODE)

        async def virtual() -> list[tuple[bool, None]]:
            return [(gpu["virtual"], gpu["serial"]) for gpu in await world.gpus(node=NODE)]

        await eventually(virtual, [(True, None)] * 4, seconds=60)
        assert await world.samples("gpuid_gpu_info", node=NODE) == []
        assert len(await world.samples("gpuid_vgpu_info", node=NODE)) == 4
        assert len(await world.samples("gpuid_gpu_info", node="gpu-0001")) == 4
        assert (await world.counts())["found"] == 4
        assert "virtual" in await world.page(f"/clusters/sim-0/nodes/{NODE}")


class TestBoardsWithSeveralGpus:
    async def test_a_board_split_over_two_nodes_is_no_conflict(self, world: World) -> None:
        for node in world.cluster.nodes:
            world.cluster.pair_gpus(node)
        world.cluster.move_gpu(NODE, "gpu-0001")
        await world.settled()

        async def shared() -> int:
            nodes: dict[str, set[str]] = {}
            for gpu in await world.gpus():
                nodes.setdefault(gpu["serial"], set()).add(gpu["node"])
            return sum(len(places) == 2 for places in nodes.values())

        await eventually(shared, 1, seconds=60)
        assert await world.samples("gpuid_gpu_conflicts") == [({"cluster": "sim-0"}, 0.0)]
        assert all(gpu["multi_gpu_board"] for gpu in await world.gpus())
