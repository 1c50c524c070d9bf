"""A configuration that changes while a collector starts or while its store fails."""

import logging
import os
import re
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import yaml

from collector.app import Service, load
from collector.model import ClusterState
from collector.simulator import Simulator
from collector.simulator.server import ApiServer
from tests.app.world import ConfiguredService
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


class World(ConfiguredService):
    """Two simulated clusters, and a configuration of some of them."""

    def __init__(self, folder: Path, simulator: Simulator) -> None:
        (folder / "etc").mkdir()
        super().__init__(folder / "etc")
        self._simulator = simulator
        self._kubeconfig = simulator.kubeconfig
        self.store = folder / "gpuid.db"

    def write(self, *clusters: str, more: str = "", listen: str = "127.0.0.1:0", defaults: str = "") -> None:
        text = f'[server]\nlisten = "{listen}"\n[store]\nurl = "sqlite://{self.store}"\n{more}'
        text += f'[defaults]\nkubeconfig = "{self._kubeconfig}"\n{defaults}'
        self.replace_config(text + "".join(f'[[clusters]]\ncontext = "{name}"\n' for name in clusters))

    def bind_inline_token(self, name: str, *, lifetime: float, age: float) -> ApiServer:
        """Use a service account's token where no renewed one can be written, as in a Secret."""
        server = self._simulator.clusters[name].server
        self._simulator.clusters[name].bind_token(lifetime=lifetime, age=age)
        document = yaml.safe_load(self._simulator.kubeconfig.read_text())
        document["users"] = [{"name": name, "user": {"token": server.token}}]
        self._kubeconfig = self.config.with_name("inline.kubeconfig")
        self._kubeconfig.write_text(yaml.safe_dump(document))
        self.write(name)
        return server


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with Simulator(clusters=2, nodes=1, gpus=1, directory=tmp_path / "simulator") as simulator:
        yield World(tmp_path, simulator)


async def test_a_signal_before_the_store_is_loaded_waits_for_it(world: World) -> None:
    world.write("sim-0")
    service = Service(load(world.config))
    world.write("sim-0", "sim-1")
    async with world.running(service):
        await service.reload(world.config)
        assert set(service.clusters.statuses) == {"sim-0", "sim-1"}


async def test_a_renewed_token_stays_valid_after_an_edit(world: World) -> None:
    server = world.bind_inline_token("sim-0", lifetime=3600, age=3500)
    service = Service(load(world.config))
    async with world.running(service):
        await eventually(lambda: len(server.accounts._tokens), 2)  # it was renewed
        await eventually(lambda: service.clusters.statuses["sim-0"].state, ClusterState.UP)
        del server.accounts._tokens[server.token]  # it has ended
        server.token = ""
        edited = time.time()
        world.write("sim-0", defaults='grace = "11m"\n')
        await service.reload(world.config)
        await eventually(lambda: service.clusters.statuses["sim-0"].since > edited)
        await eventually(lambda: service.clusters.statuses["sim-0"].state, ClusterState.UP)


async def test_an_edit_between_reading_and_watching_is_not_missed(world: World) -> None:
    world.write("sim-0")
    service = Service(load(world.config))
    world.write("sim-1")
    async with world.running(service):
        await eventually(lambda: set(service.clusters.statuses) == {"sim-1"})


async def test_an_unchanged_configuration_is_not_applied_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.write("sim-0")
    service = Service(load(world.config))
    with caplog.at_level(logging.INFO):
        async with world.running(service):
            await eventually(lambda: world.urls)
            world.write("sim-0", "sim-1")
            await eventually(lambda: "configuration reloaded" in caplog.text)
            await eventually(lambda: set(service.clusters.statuses) == {"sim-0", "sim-1"})
    assert caplog.text.count("configuration reloaded") == 1


async def test_a_store_in_trouble_delays_sinks_but_not_clusters(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.write("sim-0")
    service = Service(load(world.config))
    async with world.running(service):
        await eventually(lambda: world.urls)
        async with httpx.AsyncClient(base_url=world.urls[0], timeout=60) as client:
            with closing(sqlite3.connect(world.store, timeout=60, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                world.write("sim-0", "sim-1", more='[sinks.out]\ntype = "stdout"\n')
                await eventually(lambda: set(service.clusters.statuses) == {"sim-0", "sim-1"})
                await eventually(
                    lambda: "cannot update sinks while the store is unavailable; retrying: " in caplog.text
                )
                assert 'sink="out"' not in (await client.get("/metrics/collector")).text

            async def reported() -> bool:
                return 'gpuid_export_backlog_records{sink="out"}' in (await client.get("/metrics/collector")).text

            await eventually(reported)


class Reported(NamedTuple):
    """What a running collector reports of its configuration."""

    successful: float
    restart_required: float
    ready: list[str]  # lines of /readyz?verbose about it
    page: list[str]  # problems of it on the page


class TestReported:
    """What metrics, page and /readyz report about a file that is not in effect."""

    @pytest.fixture
    async def service(self, world: World) -> AsyncIterator[Service]:
        world.write("sim-0")
        service = Service(load(world.config))
        async with world.running(service):
            await eventually(lambda: world.urls)
            yield service

    async def reported(self, world: World) -> Reported:
        async with httpx.AsyncClient(base_url=world.urls[0], timeout=60) as client:
            metrics = (await client.get("/metrics/collector")).text
            ready = (await client.get("/readyz?verbose")).text
            page = (await client.get("/", headers={"Accept": "text/html"})).text

        def value(name: str) -> float:
            (found,) = re.findall(rf"^gpuid_config_{name} (\S+)$", metrics, re.MULTILINE)
            return float(found)

        return Reported(
            value("last_reload_successful"),
            value("restart_required"),
            [
                line.removeprefix("[-]configuration ")
                for line in ready.splitlines()
                if " configuration " in f" {line[3:]}"
            ],
            re.findall(r"<strong>(The configuration file[^<]*|Configuration changes[^<]*)</strong>", page),
        )

    async def loaded(self, world: World) -> float:
        async with httpx.AsyncClient(base_url=world.urls[0], timeout=60) as client:
            metrics = (await client.get("/metrics/collector")).text
        name = "gpuid_config_last_reload_success_timestamp_seconds"
        (found,) = re.findall(rf"^{name} (\S+)$", metrics, re.MULTILINE)
        return float(found)

    async def test_a_start_is_a_success(self, world: World, service: Service) -> None:
        assert await self.reported(world) == Reported(1, 0, [], [])
        assert abs(await self.loaded(world) - time.time()) < 300

    async def test_a_rejected_file_is_reported_until_corrected(self, world: World, service: Service) -> None:
        before = await self.loaded(world)
        world.write("sim-0", more='[sinks.bad]\ntype = "webhok"\n')
        error = 'sinks.bad.type: expected one of stdout, webhook, s3, postgres, got "webhok"; did you mean "webhook"?'
        expected = Reported(0, 0, [f"rejected: {world.config}: {error}"], ["The configuration file was rejected"])
        await eventually(lambda: self.reported(world), expected)
        assert await self.loaded(world) == before
        world.write("sim-0", more="[sinks]\n")
        await eventually(lambda: self.reported(world), Reported(1, 0, [], []))
        assert await self.loaded(world) > before

    async def test_a_signal_reports_like_a_changed_file(self, world: World, service: Service) -> None:
        world.write("sim-0", more="[[clusters")
        await service.reload(world.config)
        assert (await self.reported(world)).successful == 0
        world.write("sim-0")
        await service.reload(world.config)
        assert await self.reported(world) == Reported(1, 0, [], [])

    async def test_a_missing_file_is_reported_until_it_returns(self, world: World, service: Service) -> None:
        content = world.config.read_text()
        world.config.unlink()
        missing = Reported(
            0, 0, [f"unreadable: {world.config}: no such file or directory"], ["The configuration file is unreadable"]
        )
        await eventually(lambda: self.reported(world), missing)
        await service.reload(world.config)
        assert await self.reported(world) == missing
        world.replace_config(content)
        await eventually(lambda: self.reported(world), Reported(1, 0, [], []))

    async def test_a_replaced_directory_is_followed(self, world: World, service: Service) -> None:
        content, folder = world.config.read_text(), world.config.parent
        world.config.rename(folder.parent / "aside.toml")
        await eventually(lambda: self.reported_page(world), ["The configuration file is unreadable"])
        folder.rename(folder.parent / "old")
        folder.mkdir()
        world.config.write_text(content)
        await eventually(lambda: self.reported(world), Reported(1, 0, [], []))
        world.config.write_text("[[clusters")
        await eventually(lambda: self.reported_page(world), ["The configuration file was rejected"])

    async def test_other_read_errors_are_reported(self, world: World, service: Service) -> None:
        world.config.unlink()
        world.config.mkdir()
        expected = Reported(
            0, 0, [f"unreadable: {world.config}: is a directory"], ["The configuration file is unreadable"]
        )
        await eventually(lambda: self.reported(world), expected)

    async def test_a_pipe_in_place_of_the_file_is_reported(self, world: World, service: Service) -> None:
        content = world.config.read_text()
        world.config.unlink()
        os.mkfifo(world.config)
        expected = Reported(
            0, 0, [f"unreadable: {world.config}: not a regular file"], ["The configuration file is unreadable"]
        )
        await eventually(lambda: self.reported(world), expected)
        world.replace_config(content)
        await eventually(lambda: self.reported(world), Reported(1, 0, [], []))

    async def page_time(self, world: World) -> str:
        async with httpx.AsyncClient(base_url=world.urls[0], timeout=60) as client:
            page = (await client.get("/", headers={"Accept": "text/html"})).text
        return page.partition("<strong>The configuration file")[2].partition('<time datetime="')[2].partition('"')[0]

    async def test_unreadable_says_since_when(self, world: World, service: Service) -> None:
        world.write("sim-0", more="[[clusters")
        await eventually(lambda: self.reported_page(world), ["The configuration file was rejected"])
        rejected = await self.page_time(world)
        world.write("sim-0", more="[[[clusters")
        await service.reload(world.config)
        assert await self.page_time(world) == rejected, "still rejected"
        world.config.unlink()
        await eventually(lambda: self.reported_page(world), ["The configuration file is unreadable"])
        assert await self.page_time(world) > rejected

    async def test_a_rejected_file_that_comes_back_is_still_rejected(self, world: World, service: Service) -> None:
        world.write("sim-0", more="[[clusters")
        await eventually(lambda: self.reported_page(world), ["The configuration file was rejected"])
        world.config.rename(world.config.with_suffix(".away"))
        await eventually(lambda: self.reported_page(world), ["The configuration file is unreadable"])
        world.config.with_suffix(".away").rename(world.config)
        await eventually(lambda: self.reported_page(world), ["The configuration file was rejected"])

    async def reported_page(self, world: World) -> list[str]:
        return (await self.reported(world)).page

    async def test_settings_that_need_a_restart_are_reported_separately(self, world: World, service: Service) -> None:
        world.write("sim-0", "sim-1", listen="127.0.0.1:1")
        lines = ["restart required: changes to [server] take effect after a restart"]
        await eventually(
            lambda: self.reported(world), Reported(1, 1, lines, ["Configuration changes require a restart"])
        )
        assert set(service.clusters.statuses) == {"sim-0", "sim-1"}
        world.write("sim-0")
        await eventually(lambda: self.reported(world), Reported(1, 0, [], []))

    async def test_a_secret_in_an_error_is_masked(self, world: World, service: Service) -> None:
        secret = "hunter2-hunter2-hunter2"
        world.write("sim-0", more=f'[sinks.x]\ntype = "password={secret}"\n')
        await eventually(lambda: self.reported_page(world), ["The configuration file was rejected"])
        async with httpx.AsyncClient(base_url=world.urls[0], timeout=60) as client:
            for path in ("/", "/readyz?verbose"):
                assert secret not in (await client.get(path)).text


async def test_an_unwatchable_directory_is_polled(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def awatch(*_paths: Path, **_options: object) -> AsyncIterator[set[object]]:
        raise OSError(28, "OS file watch limit reached.")
        yield set()

    monkeypatch.setattr("watchfiles.awatch", awatch)
    world.write("sim-0")
    service = Service(load(world.config))
    async with world.running(service):
        await eventually(lambda: world.urls)
        world.write("sim-0", "sim-1")
        await eventually(lambda: set(service.clusters.statuses) == {"sim-0", "sim-1"})
        world.write("sim-0")
        await eventually(lambda: set(service.clusters.statuses) == {"sim-0"})
    assert caplog.text.count("cannot watch the configuration directory") == 2
