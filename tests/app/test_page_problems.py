"""Failing readings and exports as shown on the page of a running collector."""

from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import anyio
import httpx
import pytest

from collector.app import Service, load
from collector.simulator import Simulator
from tests.support.processes import free_ports
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    async with Simulator(clusters=2, nodes=2, gpus=4, latency=0.01, directory=tmp_path / "simulator") as simulator:
        yield simulator


@pytest.fixture
async def page(tmp_path: Path, simulator: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a collector that reads two clusters every ten seconds and whose sink has no receiver."""
    (nobody,) = free_ports(1)
    config = tmp_path / "gpuid.toml"
    config.write_text(
        f'[server]\nlisten = "127.0.0.1:0"\n[store]\nurl = "sqlite://{tmp_path}/gpuid.db"\n'
        f'[sinks.hook]\ntype = "webhook"\nurl = "http://127.0.0.1:{nobody}"\nbatch_age = "50ms"\n'
        f'[defaults]\nrefresh = "10s"\nkubeconfig = "{simulator.kubeconfig}"\n'
        '[[clusters]]\ncontext = "sim-0"\n[[clusters]]\ncontext = "sim-1"\n'
    )
    url: list[str] = []
    bound = anyio.Event()

    def ready(address: str) -> None:
        url.append(address)
        bound.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: Service(load(config)).run(ready=ready))
        with anyio.fail_after(60):
            await bound.wait()
        async with httpx.AsyncClient(base_url=url[0], timeout=30, headers={"Accept": "text/html"}) as client:
            yield client
        tasks.cancel_scope.cancel()


async def says(client: httpx.AsyncClient, path: str, wanted: Iterable[str], unwanted: str = "no such text") -> None:
    """Wait until a page contains all expected texts and none of the others."""

    async def differences() -> tuple[set[str], bool]:
        text = (await client.get(path)).text
        return {words for words in wanted if words not in text}, unwanted in text

    await eventually(differences, (set(), False), seconds=90)


async def test_a_problem_is_shown_until_it_is_solved(page: httpx.AsyncClient, simulator: Simulator) -> None:
    await says(page, "/", ["16 GPUs", "The sink hook is failing"])  # every node is read
    simulator.clusters["sim-0"].deny("create", "pods/exec")
    simulator.clusters["sim-0"].deny("get", "pods/exec")
    await says(
        page,
        "/",
        ["has no GPU node that can be read", "is forbidden: User"],
        "All good",
    )
    await says(page, "/clusters/sim-0", [">cannot be read<"], ">complete<")
    await says(page, "/clusters/sim-1", ["All good"])
    (row, _) = (await page.get("/api/v1/nodes?cluster=sim-0")).json()["nodes"]
    assert (row["found"], row["failing_reason"]) == (4, "forbidden")
    simulator.clusters["sim-0"].allow()
    await says(page, "/clusters/sim-0", ["All good"], ">cannot be read<")
