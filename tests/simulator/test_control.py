"""The control server: everything over plain HTTP, and one clear line for what is wrong."""

import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from collector.simulator import Simulator
from collector.simulator.actions import actions
from collector.simulator.cluster import SimulatedCluster

pytestmark = pytest.mark.anyio


@pytest.fixture
async def control(simulator: Simulator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(simulator.control_url) as session:
        yield session


async def test_the_index_lists_every_action_with_its_curl_command(
    control: aiohttp.ClientSession, simulator: Simulator
) -> None:
    async with control.get("/") as response:
        text = await response.text()
    for name in actions(SimulatedCluster):
        assert f"curl -X POST {simulator.control_url}/clusters/sim-0/{name}" in text


async def test_the_index_is_json_on_request(control: aiohttp.ClientSession) -> None:
    async with control.get("/", headers={"Accept": "application/json"}) as response:
        document = await response.json()
    assert document["clusters"] == ["sim-0", "sim-1", "sim-2"]
    assert document["actions"]["throttle"]["parameters"] == {"requests": "int | None = null", "retry_after": "int = 1"}


@pytest.mark.parametrize("name", list(actions(SimulatedCluster)))
async def test_every_action_works_as_shown_in_the_index(control: aiohttp.ClientSession, name: str) -> None:
    async with control.get("/") as response:
        [line] = [line for line in (await response.text()).splitlines() if line.split(" -d ")[0].endswith(f"/{name}")]
    body = line.partition(" -d ")[2].strip("'")
    async with control.post(f"/clusters/sim-0/{name}", data=body) as response:
        done = json.loads(await response.text())
        assert response.status == 200
    assert done["cluster"] == "sim-0"
    assert done["message"].startswith("sim-0: ")


async def test_an_action_returns_what_it_changed(control: aiohttp.ClientSession) -> None:
    async with control.post("/clusters/sim-0/move_gpu", json={"node": "gpu-0000", "to_node": "gpu-0001"}) as response:
        done = await response.json()
    assert done["nodes"] == ["gpu-0000", "gpu-0001"]
    [uuid] = done["gpus"]
    async with control.get("/expected", params={"cluster": "sim-0"}) as response:
        assert [placed["node"] for placed in await response.json() if placed["uuid"] == uuid] == ["gpu-0001"]


async def test_state_and_counters_can_be_read(control: aiohttp.ClientSession, simulator: Simulator) -> None:
    async with control.post("/clusters/sim-1/deny", json={"verb": "list", "resource": "pods"}):
        pass
    simulator.clusters["sim-1"].counters.requests["list", "pods"] += 2
    async with control.get("/clusters/sim-1") as response:
        document = await response.json()
    assert document["faults"]["denied"] == ["list pods"]
    assert document["counters"]["requests"] == {"list pods": 2}
    assert (document["kind"], document["gpu_nodes"], document["running"]) == ("h100", 4, True)


@pytest.mark.parametrize(
    ("path", "body", "status", "line"),
    [
        ("/clusters/sim-9/thaw", "", 404, "no cluster sim-9; there are sim-0, sim-1, sim-2"),
        ("/clusters/sim-0/explode", "", 404, "no action explode; there are move_gpu, swap_tray, "),
        ("/clusters/sim-0/thaw", '{"x": 1}', 400, "thaw: Object contains unknown field `x`; the body is a JSON object"),
        ("/clusters/sim-0/throttle", '{"requests": "x"}', 400, "throttle: Expected `int | null`, got `str`"),
        ("/clusters/sim-0/fail_exec", '{"how": "x"}', 400, "fail_exec: Invalid enum value 'x'"),
        ("/clusters/sim-0/slow_exec", "{}", 400, "slow_exec: Object missing required field `seconds`"),
        ("/clusters/sim-0/thaw", "{", 400, "thaw: Input data was truncated"),
        ("/clusters/sim-0/reboot_node", '{"node": "x"}', 400, "sim-0: no GPU node x; there are gpu-0000, "),
    ],
)
async def test_an_invalid_request_is_refused_in_one_line(
    control: aiohttp.ClientSession, path: str, body: str, status: int, line: str
) -> None:
    async with control.post(path, data=body) as response:
        text = await response.text()
    assert (response.status, text[: len(line)]) == (status, line)
    assert text.count("\n") == 1
