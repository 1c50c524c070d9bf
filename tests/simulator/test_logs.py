"""What pods have printed, as the API serves it."""

import anyio
import pytest

from collector.collect import nvidia_smi
from collector.collect.printed import find_last
from collector.simulator import LogFaultKind, Simulator
from collector.simulator.objects import PODS, READER_NAMESPACE
from tests.simulator.conftest import Api

pytestmark = pytest.mark.anyio


class Logs:
    """The log of the reader's pod on the first node."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.cluster = api.cluster
        self.node = api.cluster.nodes[0]
        self.cluster.add_readers()

    @property
    def path(self) -> str:
        entries = self.cluster.server.storage.entries(PODS)
        (key,) = [one.key for one in entries if one.key.startswith(f"{READER_NAMESPACE}/") and one.node == self.node]
        return f"/api/v1/namespaces/{READER_NAMESPACE}/pods/{key.partition('/')[2]}/log"

    async def read(self, **query: str) -> bytes:
        async with self.api.session.get(self.path, params=query) as response:
            assert response.status == 200
            return await response.read()


@pytest.fixture
def logs(api: Api) -> Logs:
    return Logs(api)


async def test_a_reader_pod_prints_at_start_and_on_request(logs: Logs, simulator: Simulator) -> None:
    first = await logs.read()
    await anyio.sleep(0.01)
    logs.cluster.print_now(logs.node)
    assert (await logs.read()).startswith(first)
    assert (await logs.read()).count(b"<nvidia_smi_log>") == 2 * first.count(b"<nvidia_smi_log>")
    expected = {placed.uuid for placed in simulator.fleet.expected("sim-0") if placed.node == logs.node}
    assert {gpu.uuid for gpu in nvidia_smi.parse(first).gpus} == expected


async def test_tail_lines_apply_before_the_byte_limit(logs: Logs) -> None:
    whole = await logs.read()
    assert await logs.read(tailLines="2") == b"".join(whole.splitlines(keepends=True)[-2:])
    assert await logs.read(tailLines="2", limitBytes="5") == b"".join(whole.splitlines(keepends=True)[-2:])[:5]
    assert await logs.read(tailLines="0") == b""
    assert await logs.read(sinceSeconds="600") == whole
    assert await logs.read(sinceTime="2990-01-01T00:00:00Z") == b""


async def test_each_line_has_its_time_if_asked_for(logs: Logs) -> None:
    found = find_last(await logs.read(timestamps="true"), complete=True)
    assert found.last is not None
    assert found.last.time is not None
    assert found.last.output.rstrip() == (await logs.read()).rstrip()


async def test_unsupported_requests_are_refused(logs: Logs) -> None:
    assert "previous terminated container" in (await logs.api.refused(logs.path, previous="true"))["message"]
    assert "is not valid for pod" in (await logs.api.refused(logs.path, container="x"))["message"]
    assert (await logs.api.refused(logs.path, tailLines="-1"))["code"] == 422
    assert (await logs.api.refused(logs.path, tailLines="x"))["code"] == 400
    assert (await logs.api.refused(logs.path.replace("-reader-", "-x-")))["code"] == 404
    logs.cluster.deny("get", "pods/log")
    assert (await logs.api.refused(logs.path))["code"] == 403


async def test_other_pods_print_no_document(logs: Logs) -> None:
    namespace, _, name = logs.cluster.pod(logs.node).partition("/")
    async with logs.api.session.get(f"/api/v1/namespaces/{namespace}/pods/{name}/log") as response:
        assert await response.read() == b"started\n"


@pytest.mark.parametrize("how", list(LogFaultKind))
async def test_faults_spoil_a_log_until_they_are_healed(logs: Logs, how: LogFaultKind) -> None:
    whole = await logs.read(timestamps="true")
    logs.cluster.fail_log(how, logs.node)
    assert await logs.read(timestamps="true") != whole
    logs.cluster.heal_log(logs.node)
    assert await logs.read(timestamps="true") == whole
